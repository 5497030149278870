/* Convolution, backward to its weights and bias: dw = the convolution of x with dy.
 *
 * For every tap, dw[tap] is a matrix product over pixels: C[c, k] = sum over pixels of x[pixel at the tap, c] *
 * dy[pixel, k]. Pixels are added in blocks of the same size for any number of threads, within a block into one
 * accumulator and the blocks one after the other, so the rounding error of n terms grows with the square root of
 * PIXELS and of n / PIXELS, not of n. Threads share out disjoint parts of dw. */
#include "conv.h"

/* A packed panel of dy, 1024 rows of 128 bytes, and the x under it stay in a second-level cache. */
enum { PIXELS = 1024 };

struct plan {
    const struct cr_kernels *kernels;
    const struct cr_tensor *dy, *x, *dw;
    struct cr_axis axis[3];
    int diagonal, packs;
    int64_t in_channels, out_channels; /* of a group */
    int64_t vector_channels;           /* what panels cut up: the out-channels of a group, or all if diagonal */
    int64_t w_group;                   /* stride of dw from one group to the next */
    int64_t panel_channels, panels_of_group, panels; /* panels: disjoint ranges of the channels of dy */
    int64_t blocks_of_c, taps;
    int64_t rows, row_block, width, width_block; /* rows (image, depth, height) and columns of dy; of a block */
    char *workspace;
    int64_t part_bytes;
};

/* Where one part of the work stands. */
struct walk {
    const struct plan *plan;
    struct cr_step *steps;
    void *panel;
    int64_t group, channel, channels;        /* the panel: dy's channels [channel, channel + channels) of a group */
    int64_t row, row_end, column, column_end; /* the block of pixels */
};

/* The packed panel has rows of this many pixels; in place, pixels lie as dy has them. */
static int64_t offset_of_dy(const struct walk *walk, int64_t row, int64_t column)
{
    const struct plan *plan = walk->plan;
    if (plan->packs)
        return ((row - walk->row) * plan->width_block + column - walk->column) * plan->kernels->columns;
    const int64_t height = plan->axis[1].targets, depth = plan->axis[0].targets;
    return row / (height * depth) * plan->dy->batch + row / height % depth * plan->dy->space[0] +
           row % height * plan->dy->space[1] + column * plan->dy->space[2];
}

/* Where the panel's channels of dy begin. */
static const void *panel_of_dy(const struct walk *walk)
{
    const struct plan *plan = walk->plan;
    return cr_at(plan->dy->data, (walk->group * plan->out_channels + walk->channel) * plan->dy->channel,
                 plan->kernels->size);
}

static void pack_block(const struct walk *walk)
{
    const struct plan *plan = walk->plan;
    const struct cr_tensor *dy = plan->dy;
    const int64_t height = plan->axis[1].targets, depth = plan->axis[0].targets, size = plan->kernels->size;

    for (int64_t row = walk->row; row < walk->row_end; row++) {
        const int64_t from = row / (height * depth) * dy->batch + row / height % depth * dy->space[0] +
                             row % height * dy->space[1] + walk->column * dy->space[2];
        const struct cr_panels panels = {
            .data = cr_at(walk->panel, offset_of_dy(walk, row, walk->column), size),
            .width = plan->kernels->columns,
            .row = plan->kernels->columns,
            .fold = 1,
        };
        plan->kernels->pack(&panels, cr_at(panel_of_dy(walk), from, size), walk->column_end - walk->column,
                            walk->channels, dy->space[2], dy->channel);
    }
}

/* The rows of the block in which tap (td, th) meets the image: a step each, its x at column source, its dy at column. */
static int64_t list_rows(const struct walk *walk, int64_t td, int64_t th, int64_t source, int64_t column)
{
    const struct plan *plan = walk->plan;
    const int64_t height = plan->axis[1].targets, depth = plan->axis[0].targets;
    int64_t steps = 0;

    for (int64_t row = walk->row; row < walk->row_end; row++) {
        const int64_t d = cr_axis_source(&plan->axis[0], row / height % depth, td);
        const int64_t h = cr_axis_source(&plan->axis[1], row % height, th);
        if (d >= 0 && h >= 0)
            walk->steps[steps++] = (struct cr_step){
                .a = row / (height * depth) * plan->x->batch + d * plan->x->space[0] + h * plan->x->space[1] +
                     source * plan->x->space[2],
                .b = offset_of_dy(walk, row, column),
            };
    }
    return steps;
}

/* Blocks [block, block_end) of in-channels of one tap of dw, from the listed steps of `pixels` pixels each. */
static void run_tiles(const struct walk *walk, int64_t tap_offset, int64_t block, int64_t block_end, int64_t steps,
                      int64_t pixels, int64_t x_step, int accumulate)
{
    const struct plan *plan = walk->plan;
    const struct cr_tensor *x = plan->x, *dw = plan->dw;
    const int64_t size = plan->kernels->size;
    const int64_t along_n = plan->diagonal ? plan->w_group : dw->batch;
    struct cr_tile tile = {
        .b = plan->packs ? walk->panel : panel_of_dy(walk),
        .steps = walk->steps,
        .batch = steps,
        .k = pixels,
        .a_row = x->channel,
        .a_k = x_step,
        .b_k = plan->packs ? plan->kernels->columns : plan->dy->space[2],
        .c_row = dw->channel,
        .c_column = along_n,
        .n = (int)walk->channels,
        .accumulate = accumulate,
    };
    for (; block < block_end; block++) {
        const int64_t c = cr_cut(plan->in_channels, block, plan->blocks_of_c);
        const int64_t x_channel = plan->diagonal ? walk->channel : walk->group * plan->in_channels + c;
        tile.m = (int)(cr_cut(plan->in_channels, block + 1, plan->blocks_of_c) - c);
        tile.a = cr_at(x->data, x_channel * x->channel, size);
        tile.c = cr_at(dw->data, walk->group * plan->w_group + walk->channel * along_n + c * dw->channel + tap_offset,
                       size);
        (plan->diagonal ? plan->kernels->diagonal : plan->kernels->product)(&tile);
    }
}

/* One tap of dw, in-channel blocks [block, block_end), over the block of pixels. first: nothing is in dw yet. */
static void run_tap(const struct walk *walk, int64_t tap, int64_t block, int64_t block_end, int first)
{
    const struct plan *plan = walk->plan;
    const int64_t kh = plan->axis[1].kernel, kw = plan->axis[2].kernel;
    const int64_t td = tap / (kh * kw), th = tap / kw % kh, tw = tap % kw;
    const int64_t offset =
        td * plan->dw->space[0] + th * plan->dw->space[1] + tw * plan->dw->space[2];
    const int64_t x_step = cr_axis_source_step(&plan->axis[2]) * plan->x->space[2];
    int64_t column = walk->column, pixels, source;

    while ((pixels = cr_axis_tap_run(&plan->axis[2], tw, &column, walk->column_end, &source)) > 0) {
        const int64_t steps = list_rows(walk, td, th, source, column);
        run_tiles(walk, offset, block, block_end, steps, pixels, x_step, !first);
        column += pixels;
        first = 0;
    }
    if (first) run_tiles(walk, offset, block, block_end, 0, 0, x_step, 0);
}

/* Units [start, end) of a panel, a unit being a block of in-channels of a tap. */
static void run_panel(struct walk *walk, int64_t panel, int64_t start, int64_t end)
{
    const struct plan *plan = walk->plan;
    int first = 1;

    walk->group = panel / plan->panels_of_group;
    walk->channel = panel % plan->panels_of_group * plan->panel_channels;
    walk->channels = cr_smaller(plan->panel_channels, plan->vector_channels - walk->channel);
    /* Once through even where there are no rows, N = 0: dw is zero then. */
    for (walk->row = 0; first || walk->row < plan->rows; walk->row = walk->row_end) {
        walk->row_end = cr_smaller(walk->row + plan->row_block, plan->rows);
        for (walk->column = 0; walk->column < plan->width; walk->column = walk->column_end) {
            walk->column_end = cr_smaller(walk->column + plan->width_block, plan->width);
            if (plan->packs) pack_block(walk);
            for (int64_t unit = start; unit < end;) {
                const int64_t tap = unit / plan->blocks_of_c, block = unit % plan->blocks_of_c;
                const int64_t block_end = cr_smaller(plan->blocks_of_c, block + end - unit);
                run_tap(walk, tap, block, block_end, first);
                unit += block_end - block;
            }
            first = 0;
        }
    }
}

static void run_part(void *context, int part, int parts)
{
    const struct plan *plan = context;
    const int64_t units = plan->taps * plan->blocks_of_c; /* of a panel */
    const int64_t start = cr_cut(plan->panels * units, part, parts);
    const int64_t end = cr_cut(plan->panels * units, part + 1, parts);
    char *workspace = plan->workspace + part * plan->part_bytes;
    struct walk walk = {
        .plan = plan,
        .panel = workspace,
        .steps = (struct cr_step *)(void *)(workspace + plan->part_bytes) - plan->row_block,
    };

    for (int64_t unit = start; unit < end;) {
        const int64_t panel = unit / units, next = cr_smaller(end, (panel + 1) * units);
        run_panel(&walk, panel, unit - panel * units, next - panel * units);
        unit = next;
    }
}

enum cr_status cr_conv_backward_weights(const struct cr_conv *conv, const struct cr_tensor *dy,
                                        const struct cr_tensor *x, const struct cr_tensor *dw)
{
    const enum cr_status status = cr_conv_check(conv);
    if (status != CR_OK) return status;

    const struct cr_kernels *kernels = cr_kernels(conv->dtype);
    struct plan plan = {
        .kernels = kernels,
        .dy = dy,
        .x = x,
        .dw = dw,
        .diagonal = conv->groups > 1 && conv->groups == conv->C && conv->C == conv->K && x->channel == 1 &&
                    dy->channel == 1,
        .in_channels = conv->C / conv->groups,
        .out_channels = conv->K / conv->groups,
        .panel_channels = kernels->columns,
        .taps = conv->kernel[0] * conv->kernel[1] * conv->kernel[2],
        .rows = conv->N * conv->out[0] * conv->out[1],
        .width = conv->N ? conv->out[2] : 1, /* without images, once through, to write zeros */
        .width_block = cr_smaller(conv->N ? conv->out[2] : 1, PIXELS),
    };
    for (int axis = 0; axis < 3; axis++) cr_axis_open(&plan.axis[axis], conv, axis, 0);
    plan.w_group = plan.out_channels * dw->batch;
    plan.blocks_of_c = cr_ceil_div(plan.in_channels, kernels->rows);
    plan.vector_channels = plan.diagonal ? conv->groups : plan.out_channels;
    plan.panels_of_group = cr_ceil_div(plan.vector_channels, plan.panel_channels);
    plan.panels = plan.panels_of_group * (plan.diagonal ? 1 : conv->groups);
    plan.row_block = PIXELS / plan.width_block;
    /* Packed, a row of the panel is next to the row before; worth a copy where both are read several times. */
    plan.packs = dy->channel != 1 || (plan.panels_of_group > 1 && plan.taps * plan.blocks_of_c > 4);
    if (plan.diagonal) plan.packs = 0;

    const double operations = (double)plan.rows * (double)plan.width * (double)plan.taps *
                              (double)plan.in_channels * (double)conv->K;
    const int64_t units = plan.panels * plan.taps * plan.blocks_of_c;
    const int parts = (int)cr_smaller(cr_parts(operations), units);
    const int64_t panel = plan.packs ? (int64_t)PIXELS * kernels->columns * kernels->size : 0;

    plan.part_bytes = cr_ceil_div(panel + plan.row_block * (int64_t)sizeof(struct cr_step), 64) * 64;
    plan.workspace = cr_allocate(parts * plan.part_bytes);
    if (!plan.workspace) return CR_OUT_OF_MEMORY;
    cr_parallel(parts, run_part, &plan);
    cr_release(plan.workspace);
    return CR_OK;
}
