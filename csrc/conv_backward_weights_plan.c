/* The plan of cr_conv_backward_weights: which tiles, what is packed or copied for them, and what is cut into blocks. */
#include "conv_backward_weights.h"

/* Panels of dy, of 512 rows of 128 bytes, are packed several side by side, a batch: the longer the rows that are read,
 * the faster. It and the tiles of x over it stay in a second-level cache. There are rather more of x, since a batch is
 * packed anew for each chunk of them: 256 KiB and 1 MiB are 10 to 17 % faster than 512 KiB each. */
enum { PACKED_X_BYTES = 1088 * 1024, BATCH_BYTES = 256 * 1024 };

/* Of rows that lie in place, all panels of columns go over so much before the next: the gradient of 1,024 x 4,096
 * weights from 800 pixels takes 29.3 ms with it and 30.4 without, of 1,024 x 1,024 6.7 and 6.9. */
enum { ROWS_BYTES = 640 * 1024 };

/* The most of x that is copied at a time: lines of 512 pixels and a kernel of 7 rows have 512 KiB, narrow groups of 4
 * channels, of a 3x3 kernel with a stride of 2, 1.2 MiB. */
enum { STAGE_BYTES = 2048 * 1024 };

/* dy is packed for more tiles of rows than that, x for more panels. */
enum { UNITS_IN_PLACE = 4, PANELS_IN_PLACE = 16 };

/* Fewer tiles than FEW, of a dw of no more than CR_WEIGHTS_SEGMENT elements, are summed in segments until there are
 * SHARES of them. */
enum { FEW = 8, SHARES = 16 };

/* Rows and columns of a copy of what the taps of a slice of the kernel read of x in a block of pixels: each line its
 * stride, and each slice of x that the block meets what the kernel spans. */
static void size_stage(struct cr_weights_plan *plan, const struct cr_conv *conv)
{
    const struct cr_axis *height = &plan->axis[1];
    const int64_t columns = cr_smaller(conv->out[2], CR_WEIGHTS_PIXELS), lines = CR_WEIGHTS_PIXELS / columns;
    const int64_t slices = cr_smaller(conv->N * plan->axis[0].targets, (lines - 1) / height->targets + 2);

    plan->stage_rows = lines * height->stride + slices * cr_axis_sources(height, 1);
    plan->stage_columns = cr_axis_sources(&plan->axis[2], columns);
}

/* Its bytes, with pixels of so many elements. */
static int64_t stage_bytes(const struct cr_weights_plan *plan, int64_t pixel)
{
    return plan->stage_rows * plan->stage_columns * pixel * plan->kernels->size;
}

/* Whether x can be copied, and that much. */
static int can_stage(const struct cr_weights_plan *plan, const struct cr_conv *conv, int64_t pixel)
{
    return conv->pad_mode == CR_PAD_CONSTANT && stage_bytes(plan, pixel) <= STAGE_BYTES;
}

/* The time of the tiles of a product, of so many rows and columns: one vector of columns takes two thirds of the time
 * of two, since a tile reads as many elements of A for either. */
static int64_t tile_time(const struct cr_kernels *kernels, int64_t rows, int64_t columns)
{
    const int64_t rest = columns % kernels->columns;
    return rows * (columns / kernels->columns * 3 + (rest > kernels->lanes ? 3 : rest ? 2 : 0));
}

/* What rows and columns of the products are. */
static void plan_tiles(struct cr_weights_plan *plan, const struct cr_conv *conv)
{
    const struct cr_kernels *kernels = plan->kernels;
    const struct cr_tensor *dy = plan->dy, *x = plan->x;
    const int64_t C = conv->C / conv->groups, K = conv->K / conv->groups;
    const int64_t taps = conv->kernel[0] * conv->kernel[1] * conv->kernel[2];

    /* Channels that do not lie side by side are copied to where they do, unless there are too few, or too much. */
    const int depthwise = conv->groups > 1 && conv->groups == conv->C && conv->C == conv->K;
    size_stage(plan, conv);
    const int by_channel = x->channel == 1 && dy->channel == 1;
    const int stages_panel = can_stage(plan, conv, kernels->columns);
    plan->spreads = !depthwise && cr_groups_are_narrow(kernels, conv->groups, K) &&
                    can_stage(plan, conv, C * kernels->columns);
    plan->diagonal = plan->spreads ||
                     (depthwise && (by_channel || stages_panel));
    plan->along_pixels = conv->C == 1 && conv->K == 1 && conv->stride[2] == 1 && 2 * conv->out[2] > kernels->lanes;
    plan->in_channels = C;
    plan->out_channels = K;
    /* Few channels fill a tile together with the taps of a row. That they share a tile is a matter of shape alone, for
     * the sake of the order of summation. */
    plan->joined = C < kernels->rows && conv->pad_mode == CR_PAD_CONSTANT ? conv->kernel[2] : 1;
    /* The other way round, a narrow dw has fewer tiles, or wider ones, and the same sums. If that takes a copy of x, it
     * is a quarter of the time, and more for a kernel of one column. */
    const int64_t time = tile_time(kernels, C, K), exchanged_time = tile_time(kernels, K, C);
    plan->exchanged =
        !plan->diagonal && C >= kernels->rows &&
        (x->channel == 1 ? exchanged_time < time
                         : 4 * exchanged_time < 3 * time && conv->kernel[2] > 1 && stages_panel);
    /* Channels and taps of a row are one range of rows if they lie side by side, in x and in dw: 3 channels of 224x224
     * pixels and 7x7 kernels, channels_first, 2,070 us, copied 1,160. */
    plan->stages_group = !plan->diagonal && C > 1 && plan->joined > 1 && conv->dilation[2] == 1 &&
                         (conv->groups > 1 || x->channel != 1 || x->space[2] != C) && can_stage(plan, conv, C);
    plan->stages_x =
        plan->spreads || plan->stages_group || ((plan->diagonal || plan->exchanged) && x->channel != 1);
    plan->row_channels = plan->exchanged ? K : C;
    plan->rows = plan->joined * plan->row_channels;
    plan->blocks = cr_ceil_div(plan->rows, kernels->rows);
    plan->row_block = cr_ceil_div(plan->rows, plan->blocks);
    plan->units = taps / plan->joined * plan->blocks;

    /* One to three rows, such as the ones of a bias, are too few for a panel's width where nothing is packed. */
    const int in_place = plan->diagonal    ? by_channel && !plan->spreads
                         : plan->exchanged ? !plan->stages_x
                                           : dy->channel == 1 && plan->units <= UNITS_IN_PLACE;
    const int64_t columns = plan->diagonal ? cr_groups_of_tile(kernels, K) * K : kernels->columns;
    plan->panel_channels = in_place ? cr_columns(kernels, plan->rows) : columns;
    plan->vector_channels = plan->diagonal ? conv->K : plan->exchanged ? C : K;
    plan->stage_pixel = plan->spreads ? C * plan->panel_channels : plan->stages_group ? C : kernels->columns;
    plan->spread_pixel = plan->spreads && x->channel != 1 ? plan->panel_channels / K * C : 0;
    plan->panels_of_group = cr_ceil_div(plan->vector_channels, plan->panel_channels);
    if (in_place) { /* as wide as each other, in vectors */
        const int64_t vectors = cr_ceil_div(plan->vector_channels, kernels->lanes);
        plan->panel_channels = cr_ceil_div(vectors, cr_larger(1, plan->panels_of_group)) * kernels->lanes;
    }
    plan->panels = plan->panels_of_group * (plan->diagonal ? 1 : conv->groups);
    plan->tiles = (plan->diagonal ? 1 : conv->groups) * cr_ceil_div(plan->vector_channels, columns) * plan->units;
}

/* The blocks of pixels, and the segments of lines: if there are few tiles, and small ones, so that threads would have
 * little to share out and each would read all of x and dy, each segment has sums of its own. */
static void plan_pixels(struct cr_weights_plan *plan, const struct cr_conv *conv, const struct cr_tensor *dw)
{
    const struct cr_kernels *kernels = plan->kernels;
    const int64_t taps = conv->kernel[0] * conv->kernel[1] * conv->kernel[2];
    /* As many to an accumulator. */
    const int64_t pixels = CR_WEIGHTS_PIXELS * (plan->along_pixels ? kernels->columns : 1);

    plan->lines = conv->N * conv->out[0] * conv->out[1];
    plan->width = conv->N ? conv->out[2] : 1; /* without images, once through, to write zeros */
    plan->width_block = cr_smaller(plan->width, pixels);
    plan->line_block = cr_smaller(CR_WEIGHTS_PIXELS, pixels / plan->width_block);
    plan->line_blocks = cr_ceil_div(plan->lines, plan->line_block);

    plan->segments = 1;
    plan->segment_elements = 0;
    if (plan->tiles < FEW && taps * plan->in_channels * conv->K <= CR_WEIGHTS_SEGMENT)
        plan->segments = (int)cr_larger(1, cr_smaller(plan->line_blocks, cr_ceil_div(SHARES, plan->tiles)));
    plan->dw = plan->caller_dw = dw;
    /* Where out-channels lie apart in dw, each tile would transpose what it adds to there and back. Of 1,152 channels
     * 7x7 with 5x5 kernels 155 us, that way 73; 64 images 32x32 of 64 channels, 4x4 to 128, 22.8 ms and 18.9. Few
     * pixels are few tiles: 16 images 8x8, 0.62 and 1.03. */
    const int64_t outputs = conv->N * conv->out[0] * conv->out[1] * conv->out[2];
    const int often = plan->diagonal || (taps > 1 && conv->groups == 1 && !plan->along_pixels && !plan->exchanged &&
                                         outputs > CR_WEIGHTS_PIXELS);
    plan->copies_dw = plan->segments > 1 || (often && dw->batch != 1) ||
                      (plan->stages_group && dw->space[2] != plan->in_channels * dw->channel);
    if (plan->copies_dw) { /* [segment][tap][in-channel][out-channel] */
        const int64_t K = conv->K, row = conv->kernel[2] * plan->in_channels * K;
        plan->segment_elements = taps * plan->in_channels * K;
        plan->segment_dw = (struct cr_tensor){.batch = 1, .channel = K,
                                              .space = {conv->kernel[1] * row, row, plan->in_channels * K}};
        plan->dw = &plan->segment_dw;
    }
    plan->w_group = plan->out_channels * plan->dw->batch;
}

/* What is packed, how rows lie in x and in dw, and the workspace that a part needs for that. */
static void plan_operands(struct cr_weights_plan *plan, const struct cr_conv *conv)
{
    const struct cr_kernels *kernels = plan->kernels;
    const struct cr_tensor *dy = plan->dy, *x = plan->x, *dw = plan->dw;
    const int64_t C = plan->in_channels, taps = conv->kernel[0] * conv->kernel[1] * conv->kernel[2];

    /* Packed, a line of the panel is next to the line before: worth a copy where it is read for many tiles of several
     * taps. With one tap it is not, 64 to 256 channels 56x56 took 508 us and takes 414, unless a stride parts the
     * pixels of x: 1024 to 2048 channels 1,204 us, with x packed 1,095. Kernels of several taps would need a copy of x
     * for each. */
    const int64_t panels = plan->panels_of_group;
    const int apart = conv->stride[1] > 1 || conv->stride[2] > 1;
    const int often = !plan->diagonal && taps > 1 && panels > 1 && plan->units > UNITS_IN_PLACE;
    plan->packs_dy = !plan->along_pixels && !plan->exchanged && (dy->channel != 1 || often);
    plan->packs_x = taps == 1 && apart && !plan->exchanged && conv->groups == 1 && panels > PANELS_IN_PLACE;
    plan->even_rows =
        C == 1 || (dw->space[2] == C * dw->channel &&
                   (plan->stages_x ? conv->dilation[2] == 1
                                   : conv->groups == 1 && conv->dilation[2] * x->space[2] == C * x->channel));
    plan->a_row = plan->exchanged  ? dy->channel
                  : plan->packs_x  ? 1
                  : C == 1         ? conv->dilation[2] * (plan->stages_x ? plan->stage_pixel : x->space[2])
                  : plan->spreads  ? plan->panel_channels
                  : plan->stages_x ? 1
                                   : x->channel;
    plan->dw_row = plan->exchanged ? dw->batch : C == 1 ? dw->space[2] : dw->channel;
    plan->dw_column = plan->exchanged ? dw->channel : dw->batch;
    const int64_t tile_of_rows = (int64_t)CR_WEIGHTS_PIXELS * plan->row_block * kernels->size;
    const int64_t chunk_bytes = plan->packs_x ? PACKED_X_BYTES : ROWS_BYTES;
    const int in_chunks = plan->packs_x || (taps == 1 && !plan->packs_dy); /* else dy would be packed for each */
    const int64_t chunk = in_chunks ? cr_larger(1, chunk_bytes / tile_of_rows) : plan->units;
    plan->chunk = cr_ceil_div(plan->units, cr_ceil_div(plan->units, chunk));
    plan->panel_elements = (int64_t)CR_WEIGHTS_PIXELS * kernels->columns;
    plan->batch = cr_smaller(plan->panels_of_group, BATCH_BYTES / (plan->panel_elements * kernels->size));

    plan->x_offset = plan->packs_dy ? plan->batch * plan->panel_elements * kernels->size : 0;
    plan->steps_offset = plan->x_offset + cr_ceil_div(plan->packs_x ? plan->chunk * tile_of_rows : 0, 64) * 64;
    plan->sums_offset = plan->steps_offset + cr_ceil_div(plan->line_block * (int64_t)sizeof(struct cr_step), 64) * 64;
    plan->sums_bytes = plan->along_pixels ? plan->row_block * kernels->columns * kernels->size : 0;
    plan->staged_offset = plan->sums_offset + cr_ceil_div(plan->sums_bytes, 64) * 64;
    plan->stage_offset = plan->staged_offset + cr_ceil_div(plan->stages_x ? plan->stage_rows : 0, 64) * 64;
    const int64_t stage = plan->stages_x ? stage_bytes(plan, plan->stage_pixel) : 0;
    plan->spread_offset = plan->stage_offset + cr_ceil_div(stage, 64) * 64;
    const int64_t spread_row = plan->stage_columns * plan->spread_pixel * kernels->size;
    plan->part_bytes = plan->spread_offset + cr_ceil_div(spread_row, 64) * 64;
}

void cr_weights_plan(struct cr_weights_plan *plan, const struct cr_conv *conv, const struct cr_tensor *dy,
                     const struct cr_tensor *x, const struct cr_tensor *dw, int accumulate)
{
    static const float one_f32 = 1;
    static const double one_f64 = 1;

    *plan = (struct cr_weights_plan){
        .kernels = cr_kernels(conv->dtype),
        .dy = dy,
        .x = x,
        .accumulate = accumulate,
        .one = conv->dtype == CR_FLOAT32 ? (const void *)&one_f32 : (const void *)&one_f64,
    };
    for (int axis = 0; axis < 3; axis++) cr_axis_open(&plan->axis[axis], conv, axis, 0);
    plan_tiles(plan, conv);
    plan_pixels(plan, conv, dw);
    plan_operands(plan, conv);

    const double taps = (double)conv->kernel[0] * (double)conv->kernel[1] * (double)conv->kernel[2];
    const double operations =
        (double)plan->lines * (double)plan->width * taps * (double)plan->in_channels * (double)conv->K;
    /* As in cr_gather. */
    const double weighed = plan->diagonal || plan->in_channels == 1 ? 4 * operations : operations;
    plan->parts = (int)cr_smaller(cr_parts(weighed), plan->segments * plan->panels * plan->units);
}
