/* The plan of a gather: which tiles, whether x is copied for them and y written by way of a copy, how weights are
 * packed, and what is cut into blocks. */
#include <math.h>

#include "conv_gather.h"

/* Weights are packed several panels side by side, a batch: the longer the rows that are read, the faster. It stays in a
 * second-level cache while the pixels stream by, in bands that stay there too. */
enum { PANEL_ROWS = 1536, CHANNEL_CHUNK = 1024, CHANNELS_LEAST = 64 };
enum { BATCH_BYTES = 1 << 20, BAND_BYTES = 1 << 18, STAGE_BYTES = 3 << 17, RESULT_BYTES = 1 << 17 };

/* Panels that are walked together: finding the rectangles of 7x7 pixels takes as long as their products with a 5x5
 * depthwise panel. They have to stay in a first-level cache. */
enum { WALKED_BYTES = 1 << 15 };

/* Columns of a segment, at least: ten tiles or so, of which the last need not be full. */
enum { SEGMENT_LEAST = 128 };

/* Multiply-adds with each element of x from which on a transposed copy of it pays: it costs a third of a cycle, and a
 * cache line of its own for each element that is read where it lies costs more. For vectors that are better filled, a
 * copy pays if they save half as many. */
enum { WORTH_STAGING = 16 };

/* Bytes: channels some multiple of it apart, more than a first-level cache has ways, are copied to lie otherwise. */
enum { SCATTERING = 1024 };

int64_t cr_groups_of_tile(const struct cr_kernels *kernels, int64_t out_channels)
{
    return kernels->columns / out_channels;
}

/* Vectors across groups have to be less than half as many as vectors of a group: a vector of x takes twice as long as
 * one element for all lanes, for every tap, and has to be spread. */
int cr_groups_are_narrow(const struct cr_kernels *kernels, int64_t groups, int64_t out_channels)
{
    const int64_t side_by_side = cr_groups_of_tile(kernels, out_channels), lanes = kernels->lanes;

    if (groups == 1 || side_by_side < 2) return 0;
    const int64_t across = groups / side_by_side * cr_ceil_div(side_by_side * out_channels, lanes) +
                           cr_ceil_div(groups % side_by_side * out_channels, lanes);
    return groups * cr_ceil_div(out_channels, lanes) > 2 * across;
}

/* The share of the multiply-adds of tiles that do useful work, of a matrix of m x n: some lanes are empty, and fewer
 * sums than hide their latency, eight, wait for each other. */
static double filling(const struct cr_kernels *kernels, int64_t m, int64_t n)
{
    const int64_t lanes = kernels->lanes, vectors = cr_ceil_div(n, lanes);
    const int64_t sums = cr_smaller(m, kernels->rows) * cr_smaller(vectors, cr_columns(kernels, m) / lanes);
    return (double)n / (double)(vectors * lanes) * (double)cr_smaller(sums, 8) / 8;
}

/* Whether a copy of what some rows of a segment read, of so many channels, fits STAGE_BYTES; then how they are cut. A
 * segment is as wide as leaves room for twice the rows that one row of y reads, so that few are copied twice. Of small
 * slices and images several are copied together. What several bands or segments read is copied for each of them, which
 * pays only up to so many times.
 * spare: pixels that a channel has too many. */
static int set_stage(struct cr_gather_plan *plan, int64_t channels, int64_t spare, double times)
{
    const struct cr_axis *depth = &plan->gather->axis[0], *height = &plan->gather->axis[1];
    const struct cr_axis *width = &plan->gather->axis[2];
    const int64_t pixels = STAGE_BYTES / plan->kernels->size / cr_larger(channels, 1) - spare;
    const int64_t slices = cr_larger(1, cr_axis_sources(depth, 1));
    const int64_t rows = cr_axis_sources(height, cr_axis_targets(height, 2 * cr_axis_sources(height, 1)));
    const int64_t columns = cr_axis_targets(width, pixels / slices / cr_larger(rows, 1));

    /* Only images with padding of zeros, and no segments that leave tiles empty. */
    if (height->mode != CR_PAD_CONSTANT || columns < cr_smaller(width->targets, plan->kernels->rows)) return 0;
    const int64_t segments = cr_ceil_div(width->targets, columns);
    const int64_t stage_row = cr_larger(1, cr_axis_sources(width, cr_ceil_div(width->targets, segments)));
    const int64_t lines = pixels / stage_row;
    const int64_t stage_rows = cr_larger(1, cr_smaller(height->sources, lines / slices));
    const int cuts_slices = stage_rows < height->sources;
    const int64_t stage_slices =
        cuts_slices ? slices : cr_larger(1, cr_smaller(depth->sources, lines / stage_rows));
    const struct cr_axis *cut = cuts_slices ? height : depth;
    const int64_t bands = cr_ceil_div(cut->targets, cr_axis_targets(cut, cuts_slices ? stage_rows : stage_slices));
    const int64_t band = cr_ceil_div(cut->targets, bands), read = bands * cr_axis_sources(cut, band);
    const double copied = (double)(segments * stage_row) * (double)read *
                          (double)(cuts_slices ? depth->targets * slices : height->sources);
    if (copied > times * (double)depth->sources * (double)height->sources * (double)width->sources) return 0;

    const int whole = segments == 1 && !cuts_slices && stage_slices >= depth->sources;
    plan->segments = segments;
    plan->stage_row = stage_row;
    plan->stage_rows = stage_rows;
    plan->stage_slices = stage_slices;
    plan->stage_images = whole ? cr_larger(1, cr_smaller(plan->gather->N, lines / (stage_slices * stage_rows))) : 1;
    plan->band = (cuts_slices ? 1 : height->targets) * plan->stage_images * band;
    return 1;
}

static int is_depthwise(const struct cr_gather *gather)
{
    return gather->groups > 1 && gather->in_channels == 1 && gather->out_channels == 1;
}

static int64_t groups_of_tile(const struct cr_gather_plan *plan)
{
    return cr_groups_of_tile(plan->kernels, plan->gather->out_channels);
}

static int has_narrow_groups(const struct cr_gather_plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    return is_depthwise(gather) ||
           (plan->channel_chunk == gather->in_channels &&
            cr_groups_are_narrow(plan->kernels, gather->groups, gather->out_channels));
}

/* Pixels side by side in x and in y: of a row and a phase; with 1x1 kernels, of all rows that follow each other. */
static int64_t pixels_of_line(const struct cr_gather_plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const struct cr_axis *height = &gather->axis[1], *width = &gather->axis[2];
    const int one_line = plan->taps == 1 && height->stride == 1 && width->stride == 1 &&
                         height->sources == height->targets && width->sources == width->targets &&
                         gather->x->space[1] == width->sources * gather->x->space[2] &&
                         gather->y->space[1] == width->targets * gather->y->space[2];
    return one_line ? height->targets * width->targets : cr_ceil_div(width->targets, width->phases);
}

/* Terms of a sum, of each phase. */
static double terms_of(const struct cr_gather_plan *plan)
{
    const struct cr_axis *axis = plan->gather->axis;
    return (double)plan->gather->in_channels * (double)plan->taps /
           (double)(axis[0].phases * axis[1].phases * axis[2].phases);
}

/* The same if pixels of a line fill vectors. Pixels at borders see other taps each, and go by channels; where y lies by
 * channels, vectors are transposed, which takes as long as 5 terms of their sums, and where a phase leaves gaps in it
 * stored element by element, 12. */
static double filling_by_pixels(const struct cr_gather_plan *plan, double by_channels)
{
    const struct cr_gather *gather = plan->gather;
    const int64_t line = pixels_of_line(plan);
    const double terms = terms_of(plan);
    const double transposing =
        1 + (gather->y->channel == 1 ? 5 / terms : gather->axis[2].phases > 1 ? 12 / terms : 0);
    const double border = plan->taps == 1 ? 0 : 1 - (double)cr_axis_inside(&gather->axis[2]) / (double)line;
    return 1 / (transposing / filling(plan->kernels, gather->out_channels, line) + border / by_channels);
}

/* Whether channels of a depthwise convolution that do not lie side by side are copied to where they do. By pixels a
 * vector takes 0.7 ns, 0.65 more for each term, and its share of 250 for each plane, that way 3.9 and 0.18: 64 channels
 * of 1,000 pixels with 9 taps 50 and 20 us, 256 of 500 with 5 taps 104 and 34. Where planes share cache sets and come
 * from the last cache, three times as long: 128x128 190 and 240. */
static int copies_depthwise(const struct cr_gather_plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const struct cr_axis *width = &gather->axis[2];
    const double terms = terms_of(plan);
    const double plane = (double)(plan->rows * width->targets * plan->kernels->size);
    const int far = gather->x->channel * plan->kernels->size % (4 * SCATTERING) == 0 &&
                    plane * (double)gather->groups > BATCH_BYTES;
    const double vectors = (double)(plan->rows * cr_ceil_div(width->targets, plan->kernels->lanes));
    const double pixels = 0.7 + 0.65 * terms + 250 / vectors, channels = 3.9 + 0.18 * terms;

    return pixels / (far ? 3 * channels : channels) * filling(plan->kernels, plan->kernels->rows, gather->groups) >
           filling_by_pixels(plan, 1.0 / plan->kernels->lanes);
}

/* Whether a spread copy of narrow groups is faster than a transposed one, by pixels: cycles for each in-channel and
 * vector of y. Spreading takes as long again for each vector that the channels of a vector's groups come from: 4 images
 * of 1,000 pixels, 16 channels to 3 in each group, 980 and 280 us; 4 to 1 at 28x28 34 and 133. */
static int spreading_pays(const struct cr_gather_plan *plan, double by_pixels)
{
    const struct cr_gather *gather = plan->gather;
    const double terms = terms_of(plan) / (double)gather->in_channels;
    const double vectors = (double)cr_ceil_div(gather->in_channels, gather->out_channels);
    const double transposing = 0.5 * plan->kernels->lanes / (double)gather->out_channels;
    return 3 * vectors + 1.2 * terms < 1.5 * terms / by_pixels + transposing;
}

/* Panels of so many rows that are walked together. */
static int64_t panels_walked(const struct cr_gather_plan *plan, int64_t rows, int64_t columns)
{
    return cr_larger(1, WALKED_BYTES / (rows * columns * plan->kernels->size));
}

/* Of a depthwise convolution, panels that are copied together: as many of few small images as have room for y, too. */
static int64_t panels_copied(const struct cr_gather_plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const struct cr_axis *axis = gather->axis;
    const int64_t columns = plan->kernels->columns, panels = cr_ceil_div(gather->groups, columns);
    const double panel_bytes = (double)gather->N * (double)axis[0].sources * (double)axis[1].sources *
                               (double)axis[2].sources * (double)(columns * plan->kernels->size);
    const int64_t fit = (int64_t)(RESULT_BYTES / (1 + panel_bytes));
    return cr_larger(1, cr_smaller(cr_smaller(panels, fit), panels_walked(plan, plan->taps, columns)));
}

/* Whether a target has one term of each channel at most: a padding mode makes several of one tap, backward. */
static int reads_once(const struct cr_gather_plan *plan)
{
    const struct cr_axis *axis = plan->gather->axis;
    return plan->taps == 1 && axis[0].mode == CR_PAD_CONSTANT && axis[1].mode == CR_PAD_CONSTANT &&
           axis[2].mode == CR_PAD_CONSTANT;
}

/* Which tiles, and whether x is copied for them. */
static void choose_tiles(struct cr_gather_plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const struct cr_axis *width = &gather->axis[2];
    const int lanes = plan->kernels->lanes;
    const int by_channel = gather->x->channel == 1;
    const int by_pixel = cr_axis_source_step(width) * gather->x->space[2] == 1;
    const double used = (double)gather->out_channels * (double)plan->taps /
                        (width->backward ? 1 : (double)width->stride * (double)gather->axis[1].stride);
    const int scattered = gather->x->channel * plan->kernels->size % SCATTERING == 0 && gather->in_channels > CR_WAYS;
    const int copy_pays = !by_channel && gather->in_channels >= lanes && used >= WORTH_STAGING;
    const int64_t longest = cr_larger(gather->N, cr_larger(gather->axis[1].targets, width->targets));
    const double by_channels = filling(plan->kernels, longest, gather->out_channels);
    const double by_pixels = filling_by_pixels(plan, by_channels);
    const double worthwhile = copy_pays ? (plan->taps > 1 ? 1.1 : 1) : gather->y->channel == 1 ? 1 : 0.8;

    plan->stages = 0;
    plan->segments = 1;
    plan->orientation = CR_CHANNELS;
    plan->tile = plan->kernels->product;
    const int copies = !by_channel && (!by_pixel || copies_depthwise(plan));
    if (is_depthwise(gather) &&
        (by_channel || (copies && set_stage(plan, panels_copied(plan) * plan->kernels->columns, 0, HUGE_VAL)))) {
        plan->orientation = CR_DIAGONAL;
        plan->tile = plan->kernels->diagonal;
        plan->stages = !by_channel;
    } else if (!is_depthwise(gather) && by_channel && has_narrow_groups(plan) && spreading_pays(plan, by_pixels) &&
               set_stage(plan, groups_of_tile(plan) * gather->out_channels * gather->in_channels, 0, HUGE_VAL)) {
        plan->orientation = CR_DIAGONAL;
        plan->tile = plan->kernels->diagonal;
        plan->stages = plan->spreads = 1;
    } else if (by_channel && reads_once(plan) && gather->in_channels >= lanes && gather->out_channels == 1 &&
               gather->y->space[2] == 1) {
        /* 64 channels to one, 128x128: 106 to 78 us; to two, with y between whose pixels there are gaps, no gain. */
        plan->orientation = CR_PIXELS;
        plan->tile = plan->kernels->dots;
    } else if (by_pixel && by_pixels > worthwhile * by_channels) {
        plan->orientation = CR_PIXELS;
        plan->stages =
            scattered && plan->taps > 1 && set_stage(plan, plan->channel_chunk, 2 * lanes, used / WORTH_STAGING);
    } else if (!by_pixel && cr_axis_source_step(width) == 1 && gather->in_channels > 1 &&
               set_stage(plan, plan->channel_chunk, 2 * lanes,
                         2 * used * (1 / by_channels - 1 / by_pixels) / WORTH_STAGING)) {
        plan->orientation = CR_PIXELS;
        plan->stages = 1;
    } else if (copy_pays)
        plan->stages = set_stage(plan, plan->channel_chunk, 0, used / WORTH_STAGING);
}

/* Batches of panels, bands of rows, and which of the two threads share out: rows where x is too large to be read once
 * for every batch, since every part has to pack the panels then. */
static void set_blocks(struct cr_gather_plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const int64_t size = plan->kernels->size;
    const int parts = plan->parts;
    plan->across_groups = gather->groups > 1 && plan->panels_of_group == 1 && plan->orientation != CR_DIAGONAL &&
                          gather->x->channel == 1;
    const int64_t channels = gather->in_channels * (plan->across_groups ? gather->groups : 1);
    double row_bytes = (double)gather->axis[1].sources / (double)gather->axis[1].targets *
                       (double)gather->axis[2].sources * (double)channels * (double)size;

    /* Long rows are cut for the sake of the cache, and few of them for the sake of threads. */
    const int64_t wanted = cr_larger((int64_t)(row_bytes / BAND_BYTES),
                                     parts > 1 ? cr_ceil_div(8 * parts, gather->N * plan->rows) : 1);
    plan->segments = cr_larger(plan->segments, cr_smaller(wanted, gather->axis[2].targets / SEGMENT_LEAST));
    row_bytes /= (double)plan->segments;
    if (plan->stages && plan->segments > 1) {
        plan->stage_images = 1;
        plan->band = cr_smaller(plan->band, plan->rows);
    }
    const int64_t rows = gather->N * plan->segments * plan->rows;

    const int64_t most = cr_larger(1, BATCH_BYTES / (plan->tap_chunk * plan->channel_chunk * plan->panel_row * size));
    const int64_t together = plan->across_groups ? plan->panels : plan->panels_of_group;
    plan->batch = cr_ceil_div(together, cr_ceil_div(together, most));
    const int64_t chunk_rows = plan->tap_chunk * plan->channel_chunk;
    plan->chunks_together = cr_smaller(plan->chunks,
                                       cr_larger(1, BATCH_BYTES / (plan->batch * chunk_rows * plan->panel_row * size)));
    if (!plan->whole)
        plan->panel_next =
            plan->panel_row * cr_smaller(plan->chunks_together * chunk_rows, plan->taps * gather->in_channels);
    plan->shares_rows = row_bytes * (double)rows > BATCH_BYTES && rows >= 8 * parts;
    /* Whole images, or equal parts of one. */
    const int64_t band = row_bytes < BAND_BYTES ? (int64_t)(BAND_BYTES / row_bytes) : 1;
    if (!plan->stages)
        plan->band = band >= plan->rows ? band / plan->rows * plan->rows
                                        : cr_ceil_div(plan->rows, cr_ceil_div(plan->rows, band));
    else if (plan->across_groups)
        plan->band = cr_smaller(plan->band, band);
    const int64_t height = gather->axis[1].targets;
    if (plan->stages && plan->band > height) plan->band -= plan->band % height;
}

/* Whether y is written by way of result. Where it lies by pixels, tiles are transposed one by one, and pixels of a
 * border, of a column or with the gaps of phases element by element: dx of 96 channels 112x112, depthwise with a stride
 * of 2, 469 to 205 us; 6 to 96 channels 8x8x8 with a dilation of 3, of 64 images, 25 to 3.7 ms. Rows of one tap
 * without phases have neither, and few pixels are channels of several panels where they lie. */
static void set_result(struct cr_gather_plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const struct cr_axis *width = &gather->axis[2];
    const int by_pixels = gather->y->channel != 1 && gather->y->space[2] == 1;
    const int at_once = plan->tap_chunk == plan->taps && plan->channel_chunk == gather->in_channels;
    const int64_t segment = cr_larger(1, cr_ceil_div(width->targets, plan->segments));

    const int64_t pixels = gather->N * plan->rows * width->targets;
    const int in_rows = plan->orientation == CR_CHANNELS && width->phases == 1 &&
                        (plan->taps == 1 || pixels <= 2 * plan->kernels->rows);

    plan->result_rows = 0;
    if (!by_pixels || !at_once || plan->orientation == CR_PIXELS || in_rows) return;
    /* The fewer planes at a time, the faster: 64 images 32x32 of 64 channels by 32 2,880 us, at once 3,620. */
    if (plan->orientation == CR_CHANNELS) plan->panels_walked = 1;
    plan->result_rows = RESULT_BYTES / plan->kernels->size / (plan->panel_channels * plan->panels_walked) / segment;
    if (plan->result_rows > plan->rows) plan->result_rows -= plan->result_rows % plan->rows;
}

/* Taps and in-channels are cut into chunks, which set the order of summation: they do not depend on how w is read. */
static struct cr_gather_plan plan_of(const struct cr_gather *gather)
{
    const struct cr_axis *axis = gather->axis;
    struct cr_gather_plan plan = {
        .gather = gather,
        .kernels = cr_kernels(gather->dtype),
        .taps = axis[0].kernel * axis[1].kernel * axis[2].kernel,
        .rows = axis[0].targets * axis[1].targets,
    };

    plan.channel_chunk = cr_larger(CHANNELS_LEAST, cr_smaller(CHANNEL_CHUNK, PANEL_ROWS / plan.taps));
    plan.channel_chunk = cr_ceil_div(gather->in_channels, cr_ceil_div(gather->in_channels, plan.channel_chunk));
    plan.tap_chunk = cr_smaller(plan.taps, cr_larger(1, PANEL_ROWS / plan.channel_chunk));
    if (plan.tap_chunk > axis[2].kernel) plan.tap_chunk -= plan.tap_chunk % axis[2].kernel;
    plan.chunks = cr_ceil_div(plan.taps, plan.tap_chunk) * cr_ceil_div(gather->in_channels, plan.channel_chunk);
    return plan;
}

/* The panels, and how they lie. */
static void set_panels(struct cr_gather_plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const int diagonal = plan->orientation == CR_DIAGONAL, alone = !diagonal && plan->whole && has_narrow_groups(plan);
    const int64_t channels = gather->groups * gather->out_channels;
    const int64_t columns =
        diagonal || alone ? groups_of_tile(plan) * gather->out_channels : plan->kernels->columns;

    plan->panel_channels = diagonal ? columns : plan->kernels->columns;
    plan->vector_channels = diagonal ? channels : gather->out_channels;
    plan->panels_of_group = cr_ceil_div(plan->vector_channels, plan->panel_channels);
    plan->panels = plan->panels_of_group * (diagonal ? 1 : gather->groups);
    plan->panel_share = alone ? groups_of_tile(plan) : 1;
    plan->panels_walked = diagonal && plan->stages
                              ? plan->spreads ? 1 : panels_copied(plan)
                              : panels_walked(plan, plan->tap_chunk * plan->channel_chunk, columns);
    plan->panel_row = cr_smaller(columns, alone ? channels : plan->vector_channels);
    plan->panel_next = plan->panel_row * (plan->whole ? plan->taps * gather->in_channels
                                                      : plan->tap_chunk * plan->channel_chunk);
}

/* Whether panels are packed. What one pixel reads once, along k, is transposed in registers: dx of 512 to 512 channels
 * 35 us, that way 23. */
static void choose_packing(struct cr_gather_plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const struct cr_kernels *kernels = plan->kernels;
    const int64_t pixels = gather->N * plan->rows * gather->axis[2].targets;

    const int along_k = plan->orientation == CR_CHANNELS && !plan->whole && reads_once(plan) && pixels == 1 &&
                        gather->in_channels >= kernels->lanes && gather->w->channel == 1 && gather->w->batch != 1;
    if (along_k) plan->tile = kernels->dots;
    /* Packing a panel costs about what a row of tiles does: not worth it for one or two of them. */
    plan->packs = !plan->whole && !along_k &&
                  (plan->orientation == CR_DIAGONAL ||
                   (plan->orientation == CR_CHANNELS && (gather->w->batch != 1 || pixels > 2 * kernels->rows)) ||
                   (plan->orientation == CR_PIXELS && gather->axis[2].kernel > 1 && pixels > 2 * kernels->rows));
    plan->from_panels = plan->packs || plan->whole;
}

struct cr_gather_plan cr_gather_plan(const struct cr_gather *gather, const void *prepared)
{
    const struct cr_axis *axis = gather->axis;
    struct cr_gather_plan plan = plan_of(gather);
    const int64_t taps_of_phase = cr_ceil_div(plan.taps, axis[0].phases * axis[1].phases * axis[2].phases);
    const double operations = (double)gather->N * (double)plan.rows * (double)axis[2].targets * (double)taps_of_phase *
                              (double)gather->in_channels * (double)gather->out_channels * (double)gather->groups;

    if (gather->N == 0) return plan;
    /* Of one channel, or of each by itself, they take four times as long: there is a load for each. */
    plan.parts = cr_parts(gather->in_channels == 1 ? 4 * operations : operations);
    plan.prepared = prepared;
    plan.whole = prepared != NULL;
    choose_tiles(&plan);
    choose_packing(&plan);
    set_panels(&plan);
    set_blocks(&plan);
    set_result(&plan);
    return plan;
}

struct cr_gather_plan cr_gather_plan_panels(const struct cr_gather *gather)
{
    struct cr_gather_plan plan = plan_of(gather);
    plan.orientation = has_narrow_groups(&plan) ? CR_DIAGONAL : CR_CHANNELS;
    plan.packs = plan.whole = 1;
    set_panels(&plan);
    plan.batch = plan.panels;
    plan.chunks_together = plan.chunks;
    return plan;
}

enum cr_status cr_gather_open_workspace(struct cr_gather_plan *plan, struct cr_scratch *scratch)
{
    const int64_t pair_bytes = sizeof(struct cr_pair), line = 64;
    int64_t steps = 1, bytes, panel = 0;

    for (int axis = 0; axis < 3; axis++) {
        const int64_t pairs = cr_axis_pairs(&plan->gather->axis[axis]);
        steps = pairs < CR_GATHER_STEPS ? cr_smaller(CR_GATHER_STEPS, steps * pairs) : CR_GATHER_STEPS;
    }
    bytes = plan->pairs_offset = steps * (int64_t)sizeof(struct cr_step);
    for (int axis = 0; axis < 3; axis++)
        if (cr_multiply_add(cr_axis_pairs(&plan->gather->axis[axis]), pair_bytes, bytes, &bytes))
            return cr_fail(CR_OVERFLOW, "the list of taps does not fit 63 bits");
    if (plan->packs) panel = plan->batch * plan->panel_next * plan->kernels->size;
    plan->panel_offset = cr_ceil_div(bytes, line) * line;
    plan->stage_offset = cr_ceil_div(plan->panel_offset + panel, line) * line;
    plan->result_offset = plan->stage_offset + (plan->stages ? STAGE_BYTES : 0);
    plan->part_bytes = plan->result_offset + (plan->result_rows ? RESULT_BYTES : 0);
    if (cr_multiply_add(plan->part_bytes, plan->parts, 0, &bytes)) bytes = INT64_MAX;
    plan->workspace = cr_scratch_open(scratch, bytes);
    return plan->workspace ? CR_OK : CR_OUT_OF_MEMORY;
}
