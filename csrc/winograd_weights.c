/* The gradient of a convolution's weights by Winograd's algorithm, the adjoint of winograd.c with respect to w.
 *
 * Patches of x are evaluated as in the forward pass, tiles of dy at the same points (kernels/winograd.inc); at each
 * point the products are added up over tiles, a matrix product again, and at the end the taps are interpolated.
 *
 *     V [factor][point][tile][channel]   x and dy evaluated, a block of tiles at a time
 *     M [point][channel][channel]        V' V, added up over the blocks
 *
 * The channels of x or of dy are the columns of M, those that are closer to each other in dw. dw is cut into
 * rectangles whose M stays in a second-level cache, beside the block; for each of them the images are evaluated again,
 * which costs less than adding to an M, or reading a V, that does not stay there.
 *
 * Sums are of the same blocks of tiles however dw is cut: results do not depend on threads. */
#include <string.h>

#include "winograd.h"

enum {
    BLOCK_TILES = 64,              /* the most tiles of a block: 48 are as fast, 32 and 96 up to 20 % slower */
    RECTANGLE_BYTES = 1792 * 1024, /* of V and M of a rectangle: m = 4 has 64 x 64 channels then */
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
    int64_t points, tiles, blocks, groups, w_group, m_row, m_plane; /* strides in elements */
    char *workspace;
    int64_t part_bytes, m_offset, zeros_offset, pixels_offset;
};

/* A range of the channels of a group. */
struct range {
    int64_t start, count;
};

static struct range range_of(const struct plan *plan, int factor, int64_t piece)
{
    const struct factor *f = &plan->factor[factor];
    const int64_t columns = plan->kernels->columns, start = cr_cut(f->panels, piece, f->pieces) * columns;
    const int64_t end = cr_cut(f->panels, piece + 1, f->pieces) * columns;
    return (struct range){start, cr_smaller(end, f->channels) - start};
}

/* --------------------------------------------------------------------------------------------- one rectangle ---- */

static void multiply(const struct plan *plan, char *workspace, const struct range range[2], int64_t tiles,
                     int accumulate)
{
    const struct cr_kernels *kernels = plan->kernels;
    const struct factor *rows = &plan->factor[0], *columns = &plan->factor[1];
    const int64_t size = kernels->size, strips = cr_ceil_div(range[0].count, kernels->rows);
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
        for (int64_t column = 0; column < range[1].count; column += kernels->columns) {
            tile.n = (int)cr_smaller(kernels->columns, range[1].count - column);
            tile.b = cr_at(workspace + columns->offset, point * columns->patches.plane + column, size);
            for (int64_t strip = 0; strip < strips; strip++) {
                const int64_t row = cr_cut(range[0].count, strip, strips);
                tile.m = (int)(cr_cut(range[0].count, strip + 1, strips) - row);
                tile.a = cr_at(workspace + rows->offset, point * rows->patches.plane + row, size);
                tile.c = cr_at(workspace + plan->m_offset, point * plan->m_plane + row * plan->m_row + column, size);
                kernels->product(&tile);
            }
        }
}

static void interpolate(const struct plan *plan, const char *workspace, int64_t group, const struct range range[2])
{
    const struct cr_tensor *dw = plan->dw;
    const int64_t size = plan->kernels->size, rows = plan->factor[0].stride, columns = plan->factor[1].stride;
    struct cr_interpolation interpolation = {
        .rows = 3,
        .columns = 3,
        .n = range[1].count,
        .parts = 1,
        .plane = plan->m_plane,
        .row = dw->space[1],
        .column = dw->space[2],
        .channel = columns,
    };

    for (int64_t row = 0; row < range[0].count; row++) {
        interpolation.source = cr_at(workspace + plan->m_offset, row * plan->m_row, size);
        interpolation.target = cr_at(dw->data, group * plan->w_group + (range[0].start + row) * rows +
                                                   range[1].start * columns, size);
        plan->kernels->winograd_weights_adjoint[plan->form](&interpolation);
    }
}

/* A unit is a rectangle of a group; what is evaluated of a factor stands as long as its channels and tiles do. */
static void run_part(void *context, int part, int parts)
{
    const struct plan *plan = context;
    const struct factor *factor = plan->factor;
    const int64_t rectangles = factor[0].pieces * factor[1].pieces;
    const int64_t units = plan->groups * rectangles, end = cr_cut(units, part + 1, parts);
    char *workspace = plan->workspace + part * plan->part_bytes;
    const struct cr_stage stage = {workspace + plan->pixels_offset, workspace + plan->zeros_offset};
    int64_t evaluated[2] = {-1, -1};

    memset(workspace + plan->zeros_offset, 0, (size_t)(plan->pixels_offset - plan->zeros_offset));
    for (int64_t unit = cr_cut(units, part, parts); unit < end; unit++) {
        const int64_t group = unit / rectangles;
        const int64_t piece[2] = {unit % rectangles / factor[1].pieces, unit % factor[1].pieces};
        const struct range range[2] = {range_of(plan, 0, piece[0]), range_of(plan, 1, piece[1])};
        for (int64_t block = 0; block < plan->blocks; block++) {
            const int64_t tile = cr_cut(plan->tiles, block, plan->blocks);
            const int64_t tile_end = cr_cut(plan->tiles, block + 1, plan->blocks);
            for (int f = 0; f < 2; f++) {
                const int64_t wanted = (group * factor[f].pieces + piece[f]) * plan->blocks + block;
                if (evaluated[f] == wanted) continue;
                cr_patches_evaluate(&factor[f].patches, tile, tile_end,
                                    group * factor[f].channels + range[f].start, range[f].count, &stage,
                                    workspace + factor[f].offset);
                evaluated[f] = wanted;
            }
            multiply(plan, workspace, range, tile_end - tile, block > 0);
        }
        interpolate(plan, workspace, group, range);
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
        if (fits && plan->groups * rows->pieces * columns->pieces >= parts) return;
        struct factor *longer = height > width && rows->pieces < rows->panels ? rows : columns;
        if (longer->pieces == longer->panels) return;
        longer->pieces++;
    }
}

static enum cr_status allocate_workspace(struct plan *plan, int parts)
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
    plan->m_offset = cr_reserve(kernels, plan->m_plane, plan->points, &bytes);
    plan->zeros_offset = cr_reserve(kernels, cr_larger(width_of(plan, 0), width_of(plan, 1)), 1, &bytes);
    plan->pixels_offset = cr_reserve(kernels, pixels, 1, &bytes);
    plan->part_bytes = bytes;
    if (bytes < 0 || cr_multiply_add(bytes, parts, 0, &bytes)) bytes = -1;
    plan->workspace = cr_allocate(bytes);
    return plan->workspace ? CR_OK : CR_OUT_OF_MEMORY;
}

enum cr_status cr_winograd_weights(const struct cr_conv *conv, const struct cr_tensor *dy, const struct cr_tensor *x,
                                   const struct cr_tensor *dw)
{
    struct plan plan = plan_of(conv, dy, x, dw);
    const double products = (double)plan.tiles * (double)plan.points * (double)conv->C * (double)conv->K;
    const int wanted = cr_parts(products / (double)conv->groups);

    cut_rectangles(&plan, wanted);
    const int64_t units = plan.groups * plan.factor[0].pieces * plan.factor[1].pieces;
    const int parts = (int)cr_smaller(wanted, units);
    const enum cr_status status = allocate_workspace(&plan, parts);
    if (status != CR_OK) return status;
    cr_parallel(parts, run_part, &plan);
    cr_release(plan.workspace);
    return CR_OK;
}
