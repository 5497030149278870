/* A convolution as a gather: every target of y adds up what its taps see of x. Forward and backward_data both are.
 *
 * The targets are cut into rectangles in which all see the same taps (cr_axis_run): the inside of the image, and the
 * strips along its borders. In a rectangle the taps are one list of steps for the tile, so neither padding nor the
 * stride phases cost a multiplication.
 *
 * w comes from panels of n channels of y, which serve tiles of every kind (conv_gather.h): packed in the call, where
 * that pays, or once for many (cr_conv_prepare), [panel][chunk of taps][chunk of in-channels][tap][c][n].
 *
 * x is read where it lies, or, where its layout does not suit the tile and enough is done with it, from a transposed
 * copy of the band of rows at work; y is written likewise.
 *
 * Every output is the sum of the same terms in the same order in tiles of every kind, so results do not depend on the
 * layout; nor on N, on the threads, or on which rectangle a pixel lies in. */
#include <assert.h>

#include "conv_gather.h"

/* Packs taps [tap, tap_end) and in-channels [c, c_end) of `channels` channels from the panel at work on. */
static void pack_chunk(const struct cr_gather_walk *walk, int64_t channels)
{
    const struct cr_gather_plan *plan = walk->plan;
    const struct cr_gather *gather = plan->gather;
    const struct cr_tensor *w = gather->w;
    const int64_t kh = gather->axis[1].kernel, kw = gather->axis[2].kernel, size = plan->kernels->size;
    const int64_t depth = walk->c_end - walk->c, tap_elements = depth * plan->panel_row;
    const int64_t Kg = gather->out_channels, first = walk->group * Kg + walk->channel;
    const int64_t along_n = Kg == 1 ? gather->w_group : w->batch;
    /* Of several groups, each alone if they do not lie as their channels do. */
    const int64_t run = first % Kg + channels > Kg && gather->w_group != Kg * along_n ? Kg : channels;

    struct cr_panels panels = {.width = plan->panel_channels, .row = plan->panel_row, .next = plan->panel_next};

    /* All taps at once where they lie side by side. */
    const int taps_first = plan->tap_chunk == plan->taps && w->channel == plan->taps && (kw == 1 || w->space[2] == 1) &&
                           (kh == 1 || w->space[1] == kw) && (plan->taps == kh * kw || w->space[0] == kh * kw);
    panels.fold = taps_first ? plan->taps : 1;
    panels.apart = tap_elements;
    for (int64_t tap = walk->tap; tap < walk->tap_end; tap += panels.fold) {
        const int64_t at = tap / (kh * kw) * w->space[0] + tap / kw % kh * w->space[1] + tap % kw * w->space[2];
        for (int64_t n = 0; n < channels; n += run) {
            const int64_t column = n / plan->panel_channels * plan->panel_next + n % plan->panel_channels;
            const int64_t start =
                (first + n) / Kg * gather->w_group + (first + n) % Kg * along_n + walk->c * w->channel;
            panels.data = cr_at(walk->panel, (tap - walk->tap) * tap_elements + column, size);
            plan->kernels->pack(&panels, cr_at(w->data, start + at, size), depth * panels.fold, run,
                                taps_first ? 1 : w->channel, along_n);
        }
    }
}

/* The columns of a segment of an image: [*column, the result). */
static int64_t columns_of(const struct cr_gather_plan *plan, int64_t segment, int64_t *column)
{
    const int64_t width = plan->gather->axis[2].targets;
    *column = cr_cut(width, segment % plan->segments, plan->segments);
    return cr_cut(width, segment % plan->segments + 1, plan->segments);
}

/* The sources [source, source_end) of each axis that rows [row, end) of a segment read; of several slices, all rows. */
static void reach_of_rows(const struct cr_gather_plan *plan, int64_t row, int64_t end, int64_t source[3],
                          int64_t source_end[3])
{
    const struct cr_axis *axis = plan->gather->axis;
    const int64_t height = axis[1].targets, slice = row % plan->rows / height, last = (end - 1) % plan->rows / height;
    const int whole = end - row > height || last > slice;
    int64_t column;
    const int64_t column_end = columns_of(plan, row / plan->rows, &column);

    cr_axis_reach(&axis[0], slice, last + 1, &source[0], &source_end[0]);
    cr_axis_reach(&axis[1], whole ? 0 : row % height, whole ? height : (end - 1) % height + 1, &source[1],
                  &source_end[1]);
    cr_axis_reach(&axis[2], column, column_end, &source[2], &source_end[2]);
}

/* Copies what rows [row, end), of a segment or of images from the first row of one on, read of in-channels [channel,
 * channel + channels), unless that is what the copy holds: pixels one after the other with their channels, or, for
 * CR_PIXELS, channels one after the other with their pixels. Spread, channel and channels are those of y. */
static void stage_rows(struct cr_gather_walk *walk, int64_t row, int64_t end, int64_t channel, int64_t channels)
{
    const struct cr_gather_plan *plan = walk->plan;
    const struct cr_tensor *x = plan->gather->x;
    const int64_t size = plan->kernels->size, width = plan->stage_row, segment = row / plan->rows;
    const int64_t image = segment / plan->segments, images = cr_ceil_div(end, plan->rows) - segment;
    const int64_t pixels_of_slice = plan->stage_rows * width, pixels_of_image = plan->stage_slices * pixels_of_slice;
    const int pixels = plan->orientation == CR_PIXELS, lanes = plan->kernels->lanes;
    const int64_t copies = plan->spreads ? plan->gather->in_channels : 1, pixel = pixels ? 1 : copies * channels;
    const int64_t source = plan->spreads ? channel / plan->gather->out_channels * copies : channel;
    int64_t *const first = walk->first, last[3];

    if (walk->staged_row == row && walk->staged_end == end && walk->first_channel == channel &&
        walk->staged_channels == channels)
        return;
    walk->staged_row = row;
    walk->staged_end = end;
    walk->staged_channels = channels;
    reach_of_rows(plan, images > 1 ? segment * plan->rows : row, images > 1 ? (segment + 1) * plan->rows : end, first,
                  last);
    const int64_t slices = last[0] - first[0], rows = last[1] - first[1], columns = last[2] - first[2];
    assert(images <= plan->stage_images && slices <= plan->stage_slices && rows <= plan->stage_rows);
    assert(columns <= width);
    walk->x = (struct cr_tensor){
        .data = walk->stage,
        /* An odd number of vectors: a power of two apart, channels would share few cache sets, and take half as long
         * again. */
        .channel = pixels          ? (cr_ceil_div(plan->stage_images * pixels_of_image, lanes) | 1) * lanes
                   : plan->spreads ? channels
                                   : 1,
        .space = {pixels_of_slice * pixel, width * pixel, pixel},
        .batch = pixels_of_image * pixel,
    };
    walk->first_image = image;
    walk->first_channel = channel;
    /* Rows that follow each other in x as in the copy are one line. */
    const int one_line = columns == width && x->space[1] == width * x->space[2];
    const int64_t lines = one_line ? 1 : rows, line_pixels = (one_line ? rows : 1) * columns;
    for (int64_t line = 0; line < images * slices * lines; line++) {
        const int64_t n = line / lines / slices, d = line / lines % slices, i = line % lines;
        const struct cr_panels to = {
            .data = cr_at(walk->stage, n * walk->x.batch + d * walk->x.space[0] + i * walk->x.space[1], size),
            .width = INT64_MAX,
            .row = pixels ? walk->x.channel : channels,
            .fold = 1,
        };
        const void *from = cr_at(x->data, (image + n) * x->batch + (first[0] + d) * x->space[0] +
                                              (first[1] + i) * x->space[1] + first[2] * x->space[2] +
                                              source * x->channel, size);
        if (plan->spreads)
            plan->kernels->spread(&(struct cr_spread){.source = from,
                                                      .target = to.data,
                                                      .rows = line_pixels,
                                                      .n = channels,
                                                      .in_channels = copies,
                                                      .out_channels = plan->gather->out_channels,
                                                      .source_row = x->space[2],
                                                      .target_row = pixel,
                                                      .below = channels});
        else if (pixels)
            plan->kernels->pack(&to, from, channels, line_pixels, x->channel, x->space[2]);
        else
            plan->kernels->pack(&to, from, line_pixels, channels, x->space[2], x->channel);
    }
}

/* Rows [row, end) of the panel at work, a row being one of a segment; whole images together. */
static void run_rows(struct cr_gather_walk *walk, int64_t row, int64_t end)
{
    const struct cr_gather_plan *plan = walk->plan;
    const int64_t rows = plan->rows;

    while (row < end) {
        const int64_t first = row % rows, segment = row / rows;
        const int64_t images = first == 0 && plan->segments == 1 ? (end - row) / rows : 0;
        const int64_t last = images ? rows : cr_smaller(rows, first + end - row);
        int64_t column;
        const int64_t column_end = columns_of(plan, segment, &column);
        walk->image = segment / plan->segments;
        walk->image_end = walk->image + cr_larger(images, 1);
        cr_rectangles(plan->gather->axis, first, last, column, column_end, &walk->rectangle, cr_gather_rectangle, walk);
        row += images ? images * rows : last - first;
    }
}

/* The channels of y, from the panel at work on, of the panels of a group that are walked together. */
static int64_t channels_walked(const struct cr_gather_walk *walk)
{
    const struct cr_gather_plan *plan = walk->plan;
    return cr_smaller(plan->vector_channels - walk->channel, (walk->walked_end - walk->walked) * plan->panel_channels);
}

/* The same, y by way of result. */
static void run_rows_aside(struct cr_gather_walk *walk, int64_t row, int64_t end)
{
    const struct cr_gather_plan *plan = walk->plan;
    const struct cr_tensor *y = plan->gather->y;
    const int64_t size = plan->kernels->size, channels = channels_walked(walk);
    const int64_t height = plan->gather->axis[1].targets;
    const int64_t channel = walk->group * plan->gather->out_channels + walk->channel;

    for (int64_t next; row < end; row = next) {
        next = cr_smaller(row + plan->result_rows, end);
        if (plan->result_rows < plan->rows || row % plan->rows || plan->segments > 1)
            next = cr_smaller(next, (row / plan->rows + 1) * plan->rows);
        int64_t column;
        const int64_t width = columns_of(plan, row / plan->rows, &column) - column;
        walk->y = (struct cr_tensor){
            .data = walk->result,
            .channel = 1,
            .space = {height * width * channels, width * channels, channels},
            .batch = plan->rows * width * channels,
        };
        walk->out_channel = channel;
        walk->out_image = row / plan->rows / plan->segments;
        walk->out_row = row % plan->rows;
        walk->out_column = column;
        run_rows(walk, row, next);

        /* Rows that follow each other in y are one line. */
        const int one_line = y->space[1] == width * y->space[2] && y->space[0] == height * y->space[1];
        for (int64_t line = row, lines; line < next; line += lines) {
            lines = one_line ? cr_smaller(next, (line / plan->rows + 1) * plan->rows) - line : 1;
            const int64_t of_image = line % plan->rows;
            const int64_t to = line / plan->rows / plan->segments * y->batch + of_image / height * y->space[0] +
                               of_image % height * y->space[1] + column * y->space[2] + channel * y->channel;
            const struct cr_panels panels = {
                .data = cr_at(y->data, to, size), .width = INT64_MAX, .row = y->channel, .fold = 1};
            plan->kernels->pack(&panels, cr_at(walk->result, (line - row) * width * channels, size), channels,
                                lines * width, 1, channels);
        }
    }
}

static void select_chunk(struct cr_gather_walk *walk, int64_t chunk)
{
    const struct cr_gather_plan *plan = walk->plan;
    const int64_t channels = plan->gather->in_channels, of_channels = cr_ceil_div(channels, plan->channel_chunk);

    walk->tap = chunk / of_channels * plan->tap_chunk;
    walk->tap_end = cr_smaller(walk->tap + plan->tap_chunk, plan->taps);
    walk->c = chunk % of_channels * plan->channel_chunk;
    walk->c_end = cr_smaller(walk->c + plan->channel_chunk, channels);
    walk->first_chunk = chunk == 0;
    walk->last_chunk = chunk == plan->chunks - 1;
}

/* Rows [row, end), a band, of panels [panel, panel_end), for the chunk at work. */
static void run_band(struct cr_gather_walk *walk, int64_t panel, int64_t panel_end, int64_t row, int64_t end)
{
    const struct cr_gather_plan *plan = walk->plan;

    for (int64_t i = panel; i < panel_end; i = walk->walked_end) {
        const int64_t of_group = plan->panels_of_group - i % plan->panels_of_group;
        const int64_t most = plan->stages || plan->result_rows ? cr_smaller(of_group, plan->panels_walked)
                                                                : plan->panels_walked;
        walk->walked = i;
        walk->walked_end = i + cr_smaller(most, panel_end - i);
        cr_gather_select_panel(walk, i);
        if (plan->stages && plan->orientation == CR_DIAGONAL)
            stage_rows(walk, row, end, walk->channel, channels_walked(walk));
        else if (plan->stages)
            stage_rows(walk, row, end, walk->group * plan->gather->in_channels + walk->c, walk->c_end - walk->c);
        (plan->result_rows ? run_rows_aside : run_rows)(walk, row, end);
    }
}

/* Rows [row, end) of panels [panel, panel_end), a batch, for chunks [chunk, chunk_end): each band of rows for all of
 * them. */
static void run_chunks(struct cr_gather_walk *walk, int64_t panel, int64_t panel_end, int64_t row, int64_t end,
                       int64_t chunk, int64_t chunk_end)
{
    const struct cr_gather_plan *plan = walk->plan;
    const int64_t height = plan->gather->axis[1].targets;
    const int64_t band = plan->stages || panel_end - panel > 1 || chunk_end - chunk > 1 ? plan->band : end - row;

    select_chunk(walk, chunk);
    walk->first_row = plan->whole ? 0 : cr_gather_rows_before(walk);
    for (int64_t j = chunk; plan->packs && j < chunk_end; j++) {
        select_chunk(walk, j);
        for (int64_t i = panel, of_group; i < panel_end; i += of_group) {
            of_group = cr_smaller(panel_end - i, plan->panels_of_group - i % plan->panels_of_group);
            cr_gather_select_panel(walk, i);
            pack_chunk(walk, cr_smaller(of_group * plan->panel_channels, plan->vector_channels - walk->channel));
        }
    }
    for (int64_t start = row, next; start < end; start = next) {
        next = cr_smaller(start + band, end);
        /* Of a copy, rows of one slice, or slices of one image, or images, each from its first row on. */
        if (plan->stages && (band < height || start % height))
            next = cr_smaller(next, (start / height + 1) * height);
        if (plan->stages && (plan->stage_images == 1 || start % plan->rows))
            next = cr_smaller(next, (start / plan->rows + 1) * plan->rows);
        for (int64_t j = chunk; j < chunk_end; j++) {
            select_chunk(walk, j);
            run_band(walk, panel, panel_end, start, next);
        }
    }
}

/* Rows [row, end) of panels [panel, panel_end), a batch. */
static void run_batch(struct cr_gather_walk *walk, int64_t panel, int64_t panel_end, int64_t row, int64_t end)
{
    const struct cr_gather_plan *plan = walk->plan;

    walk->first_panel = plan->whole ? 0 : panel;
    walk->batch_channel = panel % plan->panels_of_group * plan->panel_channels;
    walk->batch_end = cr_smaller(plan->vector_channels,
                                 walk->batch_channel + (panel_end - panel) * plan->panel_channels);
    for (int64_t chunk = 0; chunk < plan->chunks; chunk += plan->chunks_together)
        run_chunks(walk, panel, panel_end, row, end, chunk,
                   cr_smaller(plan->chunks, chunk + plan->chunks_together));
}

/* Rows [row, end) of panels [panel, panel_end), batch by batch. */
static void run_panels(struct cr_gather_walk *walk, int64_t panel, int64_t panel_end, int64_t row, int64_t end)
{
    const struct cr_gather_plan *plan = walk->plan;
    while (panel < panel_end) {
        const int64_t rest = plan->panels_of_group - panel % plan->panels_of_group;
        const int64_t most = plan->across_groups ? plan->batch : cr_smaller(plan->batch, rest);
        const int64_t next = panel + cr_smaller(most, panel_end - panel);
        run_batch(walk, panel, next, row, end);
        panel = next;
    }
}

static void run_part(void *context, int part, int parts)
{
    const struct cr_gather_plan *plan = context;
    const int64_t rows = plan->gather->N * plan->segments * plan->rows;
    char *workspace = plan->workspace + part * plan->part_bytes;
    struct cr_gather_walk walk = {
        .plan = plan,
        .steps = (struct cr_step *)(void *)workspace,
        .panels = plan->whole ? cr_at(plan->prepared, 0, 1) : workspace + plan->panel_offset,
        .stage = workspace + plan->stage_offset,
        .x = *plan->gather->x,
        .result = workspace + plan->result_offset,
        .y = *plan->gather->y,
    };

    workspace += plan->pairs_offset;
    for (int axis = 0; axis < 3; axis++) {
        walk.rectangle.pairs[axis] = (struct cr_pair *)(void *)workspace;
        workspace += cr_axis_pairs(&plan->gather->axis[axis]) * (int64_t)sizeof(struct cr_pair);
    }
    if (plan->shares_rows) {
        run_panels(&walk, 0, plan->panels, cr_cut(rows, part, parts), cr_cut(rows, part + 1, parts));
        return;
    }
    /* Panels one after the other: the end of one, whole ones, and the beginning of one. */
    const int64_t end = cr_cut(plan->panels * rows, part + 1, parts);
    for (int64_t unit = cr_cut(plan->panels * rows, part, parts), next; unit < end; unit = next) {
        const int64_t panel = unit / rows, row = unit % rows, whole = row ? 0 : (end - unit) / rows;
        next = whole ? unit + whole * rows : cr_smaller(end, (panel + 1) * rows);
        run_panels(&walk, panel, panel + cr_larger(whole, 1), row, whole ? rows : row + next - unit);
    }
}

/* All chunks of the panels and none of the rows. */
static void prepare_part(void *context, int part, int parts)
{
    const struct cr_gather_plan *plan = context;
    struct cr_gather_walk walk = {.plan = plan, .panels = cr_at(plan->prepared, 0, 1)};

    run_panels(&walk, cr_cut(plan->panels, part, parts), cr_cut(plan->panels, part + 1, parts), 0, 0);
}

enum cr_status cr_gather(const struct cr_gather *gather, const void *prepared)
{
    const enum cr_planes_by by = cr_gather_planes_by(gather);
    if (by != CR_NO_PLANES) {
        cr_gather_planes(gather, by, prepared);
        return CR_OK;
    }
    struct cr_gather_plan plan = cr_gather_plan(gather, prepared);
    struct cr_scratch scratch;

    if (plan.parts == 0) return CR_OK;
    const enum cr_status status = cr_gather_open_workspace(&plan, &scratch);
    if (status != CR_OK) return status;
    cr_parallel(plan.parts, run_part, &plan);
    cr_scratch_close(&scratch);
    return CR_OK;
}

int64_t cr_gather_prepared_bytes(const struct cr_gather *gather)
{
    const struct cr_gather_plan plan = cr_gather_plan_panels(gather);
    int64_t elements, bytes;
    const int overflow = cr_multiply_add(plan.panels, plan.panel_next, 0, &elements) ||
                         cr_multiply_add(elements, plan.kernels->size, 0, &bytes);
    return overflow ? -1 : bytes;
}

void cr_gather_prepare(const struct cr_gather *gather, void *prepared)
{
    struct cr_gather_plan plan = cr_gather_plan_panels(gather);
    plan.prepared = prepared;
    cr_parallel(cr_parts((double)plan.panels * (double)plan.panel_next), prepare_part, &plan);
}
