/* The gradient of a convolution's weights by Winograd's algorithm, the adjoint of winograd.c with respect to w.
 *
 * Patches of x are evaluated as in the forward pass, tiles of dy at the same points (kernels/winograd.inc); at each
 * point the products are added up over tiles, a matrix product again, and at the end the taps are interpolated.
 *
 *     V [factor][point][tile][channel]       x and dy evaluated, a block of tiles at a time
 *     M [segment][point][channel][channel]   V' V, added up over the blocks of a segment
 *
 * The channels of x or of dy are the columns of M, those that are closer to each other in dw. dw is cut into
 * rectangles whose M stays in a second-level cache, beside the block; for each of them the images are evaluated again,
 * which costs less than adding to an M, or reading a V, that does not stay there.
 *
 * Where dw is small, so that threads would have few rectangles to share out, the blocks are cut into segments, each
 * with an M of its own; they are added up when the taps are interpolated. Blocks and segments are the same for any
 * number of threads: results do not depend on it. */
#include <string.h>

#include "winograd.h"

enum {
    BLOCK_TILES = 64,              /* the most tiles of a block: 48 are as fast, 32 and 96 up to 20 % slower */
    RECTANGLE_BYTES = 1792 * 1024, /* of V and M of a rectangle: m = 4 has 64 x 64 channels then */
    SHARES = 8,                    /* fewer rectangles, of a panel by a panel, are summed in segments up to as many */
    LEAST_TERMS = 128              /* of a sum, for m = 4 */
};

/* x or dy. */
struct factor {
    struct cr_patches patches;
    int64_t channels, stride; /* of a group; stride of dw from one to the next */
    int64_t panels, pieces;   /* what the channels are cut into: panels, and these among rectangles */
    int64_t offset;           /* in the workspace */
};

struct plan {
    const struct cr_kernels *kernels;
    const struct cr_tensor *dw;
    struct factor factor[2]; /* the channels of the first are rows of M, of the second columns */
    int form;                /* of kernels->winograd_*: m = 2, m = 4 */
    int64_t points, tiles, blocks, segments, groups, w_group, m_row, m_plane; /* strides in elements */
    char *workspace, *m;     /* m: of each part, or, if there are segments, of each of each rectangle */
    int64_t part_bytes, m_bytes, zeros_offset, pixels_offset;
};

/* The part of dw that one M is of: of a group, these channels of both factors. */
struct rectangle {
    int64_t group, piece[2], start[2], count[2];
};

static struct rectangle rectangle_of(const struct plan *plan, int64_t number)
{
    const int64_t columns = plan->kernels->columns, across = plan->factor[1].pieces;
    const int64_t of_group = plan->factor[0].pieces * across;
    struct rectangle rectangle = {number / of_group, {number % of_group / across, number % across}, {0}, {0}};

    for (int f = 0; f < 2; f++) {
        const struct factor *factor = &plan->factor[f];
        const int64_t piece = rectangle.piece[f], end = cr_cut(factor->panels, piece + 1, factor->pieces) * columns;
        rectangle.start[f] = cr_cut(factor->panels, piece, factor->pieces) * columns;
        rectangle.count[f] = cr_smaller(end, factor->channels) - rectangle.start[f];
    }
    return rectangle;
}

static int64_t rectangles_of(const struct plan *plan)
{
    return plan->groups * plan->factor[0].pieces * plan->factor[1].pieces;
}

/* Where a block begins. */
static int64_t tile_of(const struct plan *plan, int64_t block) { return cr_cut(plan->tiles, block, plan->blocks); }

/* --------------------------------------------------------------------------------------------- one rectangle ---- */

static void multiply(const struct plan *plan, const char *workspace, const struct rectangle *rectangle, int64_t tiles,
                     int accumulate, char *m)
{
    const struct cr_kernels *kernels = plan->kernels;
    const struct factor *rows = &plan->factor[0], *columns = &plan->factor[1];
    const int64_t size = kernels->size, strips = cr_ceil_div(rectangle->count[0], kernels->rows);
    const struct cr_step step = {0, 0};
    struct cr_tile tile = {
        .steps = &step,
        .batch = 1,
        .k = tiles,
        .a_row = 1,
        .a_k = rows->patches.row,
        .b_k = columns->patches.row,
        .c_row = plan->m_row,
        .c_column = 1,
        .accumulate = accumulate,
    };

    for (int64_t point = 0; point < plan->points; point++)
        for (int64_t column = 0; column < rectangle->count[1]; column += kernels->columns) {
            tile.n = (int)cr_smaller(kernels->columns, rectangle->count[1] - column);
            tile.b = cr_at(workspace + columns->offset, point * columns->patches.plane + column, size);
            for (int64_t strip = 0; strip < strips; strip++) {
                const int64_t row = cr_cut(rectangle->count[0], strip, strips);
                tile.m = (int)(cr_cut(rectangle->count[0], strip + 1, strips) - row);
                tile.a = cr_at(workspace + rows->offset, point * rows->patches.plane + row, size);
                tile.c = cr_at(m, point * plan->m_plane + row * plan->m_row + column, size);
                kernels->product(&tile);
            }
        }
}

static void interpolate(const struct plan *plan, const struct rectangle *rectangle, const char *m)
{
    const struct cr_tensor *dw = plan->dw;
    const int64_t size = plan->kernels->size, rows = plan->factor[0].stride, columns = plan->factor[1].stride;
    struct cr_interpolation interpolation = {
        .rows = 3,
        .columns = 3,
        .n = rectangle->count[1],
        .parts = plan->segments,
        .plane = plan->m_plane,
        .part_stride = plan->m_bytes / size,
        .row = dw->space[1],
        .column = dw->space[2],
        .channel = columns,
    };

    for (int64_t row = 0; row < rectangle->count[0]; row++) {
        const int64_t first = (rectangle->start[0] + row) * rows + rectangle->start[1] * columns;
        interpolation.source = cr_at(m, row * plan->m_row, size);
        interpolation.target = cr_at(dw->data, rectangle->group * plan->w_group + first, size);
        plan->kernels->winograd_weights_adjoint[plan->form](&interpolation);
    }
}

/* V of a block of both factors; evaluated says what the workspace holds, which may be just that. */
static void evaluate(const struct plan *plan, char *workspace, const struct rectangle *rectangle, int64_t block,
                     int64_t evaluated[2])
{
    const struct cr_stage stage = {workspace + plan->pixels_offset, workspace + plan->zeros_offset};

    for (int f = 0; f < 2; f++) {
        const struct factor *factor = &plan->factor[f];
        const int64_t wanted = (rectangle->group * factor->pieces + rectangle->piece[f]) * plan->blocks + block;
        if (evaluated[f] == wanted) continue;
        cr_patches_evaluate(&factor->patches, tile_of(plan, block), tile_of(plan, block + 1),
                            rectangle->group * factor->channels + rectangle->start[f], rectangle->count[f], &stage,
                            workspace + factor->offset);
        evaluated[f] = wanted;
    }
}

/* A unit is a segment of a rectangle. */
static void run_part(void *context, int part, int parts)
{
    const struct plan *plan = context;
    const int64_t units = rectangles_of(plan) * plan->segments, unit_end = cr_cut(units, part + 1, parts);
    char *workspace = plan->workspace + part * plan->part_bytes;
    int64_t evaluated[2] = {-1, -1};

    memset(workspace + plan->zeros_offset, 0, (size_t)(plan->pixels_offset - plan->zeros_offset));
    for (int64_t unit = cr_cut(units, part, parts); unit < unit_end; unit++) {
        const struct rectangle rectangle = rectangle_of(plan, unit / plan->segments);
        const int64_t first = cr_cut(plan->blocks, unit % plan->segments, plan->segments);
        const int64_t end = cr_cut(plan->blocks, unit % plan->segments + 1, plan->segments);
        char *m = plan->m + (plan->segments > 1 ? unit : part) * plan->m_bytes;
        for (int64_t block = first; block < end; block++) {
            evaluate(plan, workspace, &rectangle, block, evaluated);
            multiply(plan, workspace, &rectangle, tile_of(plan, block + 1) - tile_of(plan, block), block > first, m);
        }
        if (plan->segments == 1) interpolate(plan, &rectangle, m);
    }
}

/* The sums of all segments. */
static void interpolate_part(void *context, int part, int parts)
{
    const struct plan *plan = context;
    const int64_t rectangles = rectangles_of(plan), end = cr_cut(rectangles, part + 1, parts);

    for (int64_t number = cr_cut(rectangles, part, parts); number < end; number++) {
        const struct rectangle rectangle = rectangle_of(plan, number);
        interpolate(plan, &rectangle, plan->m + number * plan->segments * plan->m_bytes);
    }
}

/* -------------------------------------------------------------------------------------------------- the plan ---- */

/* m of F(m x m, 3 x 3): 2 or 4, by which there is less to multiply. A sum of few terms is more accurate, and the error
 * of m = 4 then up to 5 times that of the direct sum: measured 4.2 at 100 terms, 3.8 at 144, where half of x and of dy
 * are zeros. Terms and tiles are those of all images, since all are summed. */
static int64_t outputs_of(const struct cr_conv *conv)
{
    const int64_t height = conv->out[1], width = conv->out[2];
    const int64_t tiles_2 = cr_ceil_div(height, 2) * cr_ceil_div(width, 2);
    const int64_t tiles_4 = cr_ceil_div(height, 4) * cr_ceil_div(width, 4);
    return 36 * tiles_4 < 16 * tiles_2 && conv->N * height * width >= LEAST_TERMS ? 4 : 2;
}

static struct plan plan_of(const struct cr_conv *conv, const struct cr_tensor *dy, const struct cr_tensor *x,
                           const struct cr_tensor *dw)
{
    const struct cr_kernels *kernels = cr_kernels(conv->dtype);
    const int64_t m = outputs_of(conv);
    const int form = m == 4, out_columns = dw->batch == 1; /* else those of x: their taps follow each other then */
    struct plan plan = {
        .kernels = kernels,
        .dw = dw,
        .form = form,
        .points = (m + 2) * (m + 2),
        .groups = conv->groups,
        .w_group = conv->K / conv->groups * dw->batch,
    };

    plan.factor[!out_columns] = (struct factor){
        .patches = {.evaluate = kernels->winograd_input[form],
                    .image = x,
                    .side = m + 2,
                    .low = {0, conv->pad_low[1], conv->pad_low[2]},
                    .extent = {1, conv->in[1], conv->in[2]}},
        .channels = conv->C / conv->groups,
        .stride = dw->channel,
    };
    plan.factor[out_columns] = (struct factor){
        .patches = {.evaluate = kernels->winograd_output_adjoint[form],
                    .image = dy,
                    .side = m,
                    .extent = {1, conv->out[1], conv->out[2]}},
        .channels = conv->K / conv->groups,
        .stride = dw->batch,
    };
    for (int f = 0; f < 2; f++) {
        plan.factor[f].patches.kernels = kernels;
        cr_patches_cut(&plan.factor[f].patches, m, conv->out[1], conv->out[2]);
        plan.factor[f].panels = cr_ceil_div(plan.factor[f].channels, kernels->columns);
        plan.factor[f].pieces = 1;
    }
    plan.tiles = conv->N * plan.factor[0].patches.down * plan.factor[0].patches.across;
    plan.blocks = cr_larger(1, cr_ceil_div(plan.tiles, BLOCK_TILES)); /* without images one, to write zeros */
    const int64_t least = cr_ceil_div(SHARES, plan.groups * plan.factor[0].panels * plan.factor[1].panels);
    plan.segments = cr_smaller(plan.blocks, least);
    return plan;
}

/* Channels of the widest piece of a factor. */
static int64_t width_of(const struct plan *plan, int factor)
{
    const struct factor *f = &plan->factor[factor];
    return cr_smaller(f->channels, cr_ceil_div(f->panels, f->pieces) * plan->kernels->columns);
}

/* Rectangles that have room, and one for each part at least; the longer side is cut first. */
static void cut_rectangles(struct plan *plan, int parts)
{
    const int64_t fitting = RECTANGLE_BYTES / plan->kernels->size / plan->points;

    for (;;) {
        struct factor *rows = &plan->factor[0], *columns = &plan->factor[1];
        const int64_t height = width_of(plan, 0), width = width_of(plan, 1);
        const int fits = height * width + BLOCK_TILES * (height + width) <= fitting;
        if (fits && rectangles_of(plan) * plan->segments >= parts) return;
        struct factor *longer = height > width && rows->pieces < rows->panels ? rows : columns;
        if (longer->pieces == longer->panels) return;
        longer->pieces++;
    }
}

/* sums: as many M. */
static enum cr_status allocate_workspace(struct plan *plan, int parts, int64_t sums)
{
    const struct cr_kernels *kernels = plan->kernels;
    const int64_t block_tiles = cr_ceil_div(plan->tiles, plan->blocks);
    int64_t bytes = 0, pixels = 0;

    plan->m_row = cr_ceil_div(width_of(plan, 1), kernels->lanes) * kernels->lanes;
    plan->m_plane = width_of(plan, 0) * plan->m_row + kernels->lanes;
    for (int f = 0; f < 2; f++) {
        struct factor *factor = &plan->factor[f];
        if (cr_patches_stride(&factor->patches, block_tiles, width_of(plan, f))) bytes = -1;
        factor->offset = cr_reserve(kernels, factor->patches.plane, plan->points, &bytes);
        pixels = cr_larger(pixels, cr_patches_pixels(&factor->patches));
    }
    plan->zeros_offset = cr_reserve(kernels, cr_larger(width_of(plan, 0), width_of(plan, 1)), 1, &bytes);
    plan->pixels_offset = cr_reserve(kernels, pixels, 1, &bytes);
    plan->part_bytes = bytes;
    plan->m_bytes = 0;
    cr_reserve(kernels, plan->m_plane, plan->points, &plan->m_bytes);
    if (bytes < 0 || cr_multiply_add(bytes, parts, 0, &bytes) || cr_multiply_add(plan->m_bytes, sums, bytes, &bytes))
        bytes = -1;
    plan->workspace = cr_allocate(bytes);
    if (!plan->workspace) return CR_OUT_OF_MEMORY;
    plan->m = plan->workspace + parts * plan->part_bytes;
    return CR_OK;
}

enum cr_status cr_winograd_weights(const struct cr_conv *conv, const struct cr_tensor *dy, const struct cr_tensor *x,
                                   const struct cr_tensor *dw)
{
    struct plan plan = plan_of(conv, dy, x, dw);
    const double products = (double)plan.tiles * (double)plan.points * (double)conv->C * (double)conv->K;
    const int wanted = cr_parts(products / (double)conv->groups);

    cut_rectangles(&plan, wanted);
    const int64_t rectangles = rectangles_of(&plan), units = rectangles * plan.segments;
    const int parts = (int)cr_smaller(wanted, units);
    const enum cr_status status = allocate_workspace(&plan, parts, plan.segments > 1 ? units : parts);
    if (status != CR_OK) return status;
    cr_parallel(parts, run_part, &plan);
    if (plan.segments > 1) cr_parallel((int)cr_smaller(parts, rectangles), interpolate_part, &plan);
    cr_release(plan.workspace);
    return CR_OK;
}
