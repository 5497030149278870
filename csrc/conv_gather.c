/* A convolution as a gather: every target of y adds up what its taps see of x. Forward and backward_data both are.
 *
 * The targets are cut into rectangles in which all see the same taps (cr_axis_run): the inside of the image, and the
 * strips along its borders. In a rectangle the taps are one list of steps for the tile, so neither padding nor the
 * stride phases cost a multiplication. Three ways to hold a part of y in a tile:
 *
 *     CHANNELS   m pixels x n channels of y, pixels of a row, of a column or of as many images; of few pixels, channels
 *                of several panels
 *     PIXELS     m channels of y x n pixels of a row, for few channels; a border column, narrower than a vector, goes
 *                by CHANNELS
 *     DIAGONAL   m pixels x n channels of narrow groups, one of x per channel of y: of a depthwise convolution, or of
 *                a copy of x that has each channel below all channels of y that read it
 *
 * w comes from panels of n channels of y, which serve all three: packed in the call, where that pays, or once for many
 * (cr_conv_prepare), [panel][chunk of taps][chunk of in-channels][tap][c][n].
 *
 * x is read where it lies, or, where its layout does not suit the tile and enough is done with it, from a transposed
 * copy of the band of rows at work; y is written likewise.
 *
 * Every output is the sum of the same terms in the same order in the first two, so results do not depend on the
 * layout; nor on N, on the threads, or on which rectangle a pixel lies in. */
#include <assert.h>
#include <math.h>

#include "conv.h"

enum orientation { CHANNELS, PIXELS, DIAGONAL };

/* Weights are packed several panels side by side, a batch: the longer the rows that are read, the faster. It stays in a
 * second-level cache while the pixels stream by, in bands that stay there too. */
enum { PANEL_ROWS = 1536, CHANNEL_CHUNK = 1024, CHANNELS_LEAST = 64, STEPS = 2048 };
enum { BATCH_BYTES = 1 << 20, BAND_BYTES = 1 << 18, STAGE_BYTES = 1 << 18, RESULT_BYTES = 1 << 17 };

/* Columns of a segment, at least: ten tiles or so, of which the last need not be full. */
enum { SEGMENT_LEAST = 128 };

/* Multiply-adds with each element of x from which on a transposed copy of it pays: it costs a third of a cycle, and a
 * cache line of its own for each element that is read where it lies costs more. For vectors that are better filled, a
 * copy pays if they save half as many. */
enum { WORTH_STAGING = 16 };

/* Bytes: channels some multiple of it apart, more than a first-level cache has ways, are copied to lie otherwise. */
enum { SCATTERING = 1024, WAYS = 12 };

struct plan {
    const struct cr_gather *gather;
    const struct cr_kernels *kernels;
    void (*tile)(const struct cr_tile *tile);
    enum orientation orientation;
    int packs;                       /* panels of w are packed, */
    int from_panels;                 /* and read; otherwise w is read where it lies */
    const void *prepared;            /* where they lie, */
    int whole;                       /* all of them with all chunks; or else a batch at a time in the workspace */
    int64_t vector_channels;         /* what panels cut up: the channels of a group of y, or all of them if DIAGONAL */
    int64_t panels_of_group, panels; /* panels: disjoint ranges of the channels of y */
    int64_t panel_channels;
    int64_t taps, tap_chunk, channel_chunk; /* what of a panel is packed at a time */
    int64_t panel_row, panel_next;          /* strides of panels, in elements: along (tap, c), and to the next panel */
    int64_t panel_share;                    /* so many lie side by side in one: those of narrow groups */
    int64_t batch;                          /* panels that are packed together, */
    int across_groups;                      /* of several groups, whose pixels share cache lines */
    int64_t segments;                       /* ranges of columns that an image of y is cut into */
    int64_t rows;                           /* of a segment: depth x height */
    int64_t band;                           /* rows that all panels of a batch go over before the next rows */
    int shares_rows;                        /* parts share out rows, not panels */
    char *workspace;                        /* [parts] of part_bytes */
    int64_t part_bytes, pairs_offset, panel_offset, stage_offset, result_offset;
    int stages;         /* x is read from a copy */
    int64_t stage_slices; /* the most slices of x, */
    int64_t stage_rows;   /* rows of one, */
    int64_t stage_row;    /* and pixels of one, that a band reads; */
    int64_t stage_images; /* whole images, if it is more than one */
    int spreads;          /* the copy has each channel below every channel of y that reads it */
    int64_t result_rows;  /* y is written to where channels lie side by side, and copied from there, so many rows of a
                           * segment at a time; 0: where it lies */
};

/* Where one part of the work stands. */
struct walk {
    const struct plan *plan;
    struct cr_step *steps;
    char *panels;                     /* where they lie, */
    int64_t first_panel;              /* this one first */
    void *panel;                      /* the chunk of the one at work */
    int64_t group, channel, channels; /* it: y's channels [channel, channel + channels) of a group, */
    int64_t batch_channel, batch_end; /* of which the batch has these */
    int64_t tap, tap_end;             /* the chunk: taps [tap, tap_end), */
    int64_t c, c_end;                 /* in-channels [c, c_end) of the group */
    int first_chunk, last_chunk;
    struct cr_tensor x;               /* gather's, or the copy of a part of an image, which begins at */
    int64_t first_image, first[3], first_channel; /* this image, slice, row, column and channel of it */
    char *stage;
    struct cr_tensor y; /* gather's, or a part of it in result, which begins at */
    char *result;
    int64_t out_channel, out_image, out_row, out_column; /* this channel, image, row of it and column */
    int64_t image, image_end;
    struct cr_rectangle rectangle;
    enum orientation orientation; /* of its tiles */
};

/* ------------------------------------------------------------------------------------------------- the tiles ---- */

/* The steps are of `taps` taps each, along the width. */
static struct cr_tile tile_of_walk(const struct walk *walk, int64_t taps, int begin, int finish)
{
    const struct plan *plan = walk->plan;
    const struct cr_gather *gather = plan->gather;
    const struct cr_tensor *x = &walk->x, *w = gather->w, *y = &walk->y;
    const int64_t size = plan->kernels->size;
    const int64_t out_channel = walk->group * gather->out_channels + walk->channel;
    const void *bias = gather->bias && finish ? cr_at(gather->bias, out_channel, size) : NULL;
    /* With one channel k runs along the taps of a row, otherwise along the channels of one or of contiguous taps. */
    const struct cr_pair *pairs = walk->rectangle.pairs[2];
    const int along_taps = gather->in_channels == 1 && taps > 1;
    const int64_t x_k = along_taps ? (pairs[1].source - pairs[0].source) * x->space[2] : x->channel;
    const int64_t tap_k = along_taps ? pairs[1].tap - pairs[0].tap : 1;
    const int64_t w_k = plan->from_panels ? tap_k * plan->panel_row : along_taps ? tap_k * w->space[2] : w->channel;
    const int64_t in_channel =
        plan->orientation == DIAGONAL ? walk->channel : walk->group * gather->in_channels + walk->c;
    void *source = cr_at(x->data, (in_channel - walk->first_channel) * x->channel, size);
    void *kernel = plan->from_panels ? walk->panel
                                     : cr_at(w->data, walk->group * gather->w_group + walk->channel * w->batch +
                                                          walk->c * w->channel, size);
    struct cr_tile tile = {
        .c = cr_at(y->data, (out_channel - walk->out_channel) * y->channel, size),
        .steps = walk->steps,
        .k = (walk->c_end - walk->c) * taps,
        .accumulate = !begin,
        .activation = finish ? gather->activation : CR_IDENTITY,
    };

    if (walk->orientation == PIXELS) {
        tile.a = kernel;
        tile.a_row = plan->from_panels ? 1 : w->batch;
        tile.a_k = w_k;
        tile.b = source;
        tile.b_k = x_k;
        tile.c_row = y->channel;
        tile.bias_row = bias;
    } else {
        tile.a = source;
        tile.a_k = x_k;
        tile.b = kernel;
        tile.b_k = w_k;
        tile.c_column = y->channel;
        tile.bias_column = bias;
    }
    return tile;
}

/* m x n outputs, and the tiles they are cut into: rows are shared out evenly, vectors are filled. Lines of a rectangle
 * are alike, and often of one tile: divisions in every one of them took a tenth of 32 images 28x28 with 8 kernels. */
struct line {
    int64_t m, n;
    int64_t strips, rows, longer; /* strips of `rows` rows, the first `longer` of one more */
    int64_t columns;
};

static struct line line_of(const struct cr_kernels *kernels, int64_t m, int64_t n)
{
    const int64_t strips = cr_ceil_div(m, kernels->rows);
    return (struct line){m, n, strips, m / strips, m % strips, cr_columns(kernels, m)};
}

/* A, B and C begin at a, b and c. */
static void run_line(const struct plan *plan, const struct line *line, struct cr_tile *tile, const void *a,
                     const void *b, void *c)
{
    const void *bias_row = tile->bias_row;
    const int64_t size = plan->kernels->size;

    for (int64_t j = 0; j < line->n; j += line->columns) {
        tile->b = cr_at(b, j, size);
        tile->n = (int)cr_smaller(line->columns, line->n - j);
        for (int64_t strip = 0, i = 0; strip < line->strips; strip++, i += tile->m) {
            tile->a = cr_at(a, i * tile->a_row, size);
            tile->c = cr_at(c, i * tile->c_row + j * tile->c_column, size);
            if (bias_row) tile->bias_row = cr_at(bias_row, i, size);
            tile->m = (int)(line->rows + (strip < line->longer));
            plan->tile(tile);
        }
    }
    tile->bias_row = bias_row;
}

/* An extent of targets in x and in y: of the images, or of the rows or columns of a rectangle. */
struct extent {
    int64_t count, x, y; /* strides from one to the next, in elements */
};

/* The rows of outer, where the last of each is followed by the first of the next in x and in y, are one. */
static void join(struct extent *outer, struct extent *inner)
{
    if (outer->x != inner->count * inner->x || outer->y != inner->count * inner->y) return;
    inner->count *= outer->count;
    outer->count = 1;
}

/* The channels of y that tiles of so many pixels go over: those of the panel, or, as one to three rows are too few for
 * a panel's width, of several panels at once, and of the others none. */
static int64_t channels_of_tiles(const struct walk *walk, int64_t pixels)
{
    const struct plan *plan = walk->plan;
    const int64_t width = cr_columns(plan->kernels, pixels);

    if (plan->result_rows) return walk->channels;
    if ((walk->channel - walk->batch_channel) % width) return 0;
    return cr_larger(walk->channels, cr_smaller(width, walk->batch_end - walk->channel));
}

/* All tiles of the rectangle, in images [image, image_end), of the steps gathered so far. */
static void run_tiles(const struct walk *walk, int64_t steps, int64_t taps, int begin, int finish)
{
    const struct plan *plan = walk->plan;
    const struct cr_rectangle *r = &walk->rectangle;
    const struct cr_axis *height = &plan->gather->axis[1], *width = &plan->gather->axis[2];
    const struct cr_tensor *x = &walk->x, *y = &walk->y;
    const int64_t size = plan->kernels->size;
    const int pixels = walk->orientation == PIXELS;
    struct extent images = {walk->image_end - walk->image, x->batch, y->batch};
    struct extent rows = {r->count[1], cr_axis_source_step(height) * x->space[1], height->phases * y->space[1]};
    struct extent columns = {r->count[2], cr_axis_source_step(width) * x->space[2], width->phases * y->space[2]};
    struct cr_tile tile = tile_of_walk(walk, taps, begin, finish);

    /* A tile lies along a row, or down a column where the rectangle is taller than wide; or goes through the images
     * where that leaves it few rows: 256 images of 4x4 pixels 11.6 ms, that way 3.4. What is not a row of y by pixels
     * is stored element by element, and a diagonal tile hands vectors on along a row: those leave it sooner. */
    const int along_row = walk->orientation == DIAGONAL || y->channel != 1;
    const int64_t longest = cr_larger(rows.count, columns.count), few = along_row ? 4 : 2;
    struct extent along = columns, inner = rows, outer = images;
    if (!pixels && images.count > longest && few * longest <= plan->kernels->rows)
        along = images, inner = columns, outer = rows;
    else if (!pixels && rows.count > columns.count && (!along_row || few * columns.count <= plan->kernels->rows))
        along = rows, inner = columns;
    join(&inner, &along);
    if (inner.count == 1) join(&outer, &along);

    const int64_t channels = walk->orientation == CHANNELS ? channels_of_tiles(walk, along.count) : walk->channels;
    if (channels == 0) return;
    const struct line form = pixels ? line_of(plan->kernels, channels, along.count)
                                    : line_of(plan->kernels, along.count, channels);
    const int64_t x_first = (walk->image - walk->first_image) * x->batch;
    const int64_t y_first = (walk->image - walk->out_image) * y->batch + r->target[0] * y->space[0] +
                            (r->target[1] - walk->out_row) * y->space[1] +
                            (r->target[2] - walk->out_column) * y->space[2];
    const void *const a = pixels ? tile.a : cr_at(tile.a, x_first, size);
    const void *const b = pixels ? cr_at(tile.b, x_first, size) : tile.b;
    void *const c = cr_at(tile.c, y_first, size);

    tile.batch = steps;
    if (pixels)
        tile.c_column = along.y;
    else {
        tile.a_row = along.x;
        tile.b_gap = plan->from_panels ? plan->panel_next - plan->panel_channels : 0;
        tile.c_row = along.y;
    }
    for (int64_t i = 0; i < outer.count; i++)
        for (int64_t j = 0; j < inner.count; j++) {
            const int64_t x_line = i * outer.x + j * inner.x;
            void *const c_line = cr_at(c, i * outer.y + j * inner.y, size);
            if (pixels)
                run_line(plan, &form, &tile, a, cr_at(b, x_line, size), c_line);
            else
                run_line(plan, &form, &tile, cr_at(a, x_line, size), b, c_line);
        }
}

/* Whether the taps of the rectangle along the width can be one step: equally spaced in x and in w and of one channel
 * each, or following each other, channels and all, in both. */
static int taps_are_one_step(const struct walk *walk)
{
    const struct plan *plan = walk->plan;
    const struct cr_gather *gather = plan->gather;
    const struct cr_pair *pair = walk->rectangle.pairs[2];
    const int64_t count = walk->rectangle.pair_count[2], channels = gather->in_channels;

    if (count < 2 || (plan->tap_chunk < plan->taps && plan->tap_chunk % gather->axis[2].kernel)) return 0;
    const int64_t tap = pair[1].tap - pair[0].tap, source = pair[1].source - pair[0].source;
    for (int64_t i = 2; i < count; i++)
        if (pair[i].tap - pair[i - 1].tap != tap || pair[i].source - pair[i - 1].source != source) return 0;
    if (channels == 1) return 1;
    return plan->from_panels && tap == 1 && plan->channel_chunk == channels &&
           source * walk->x.space[2] == channels * walk->x.channel;
}

/* Lists the taps of the rectangle that lie in the chunk, and runs its tiles: at once, or in batches where a padding
 * mode makes the list longer than the room for it. */
static void run_rectangle(void *context)
{
    struct walk *walk = context;
    const struct cr_rectangle *r = &walk->rectangle;
    const struct plan *plan = walk->plan;
    const struct cr_gather *gather = plan->gather;
    const int narrow = r->count[2] < r->count[1] && 2 * r->count[2] < plan->kernels->lanes;

    walk->orientation = plan->orientation == PIXELS && plan->from_panels && narrow ? CHANNELS : plan->orientation;
    const struct cr_tensor *x = &walk->x, *w = gather->w;
    const int64_t packed_tap = (walk->c_end - walk->c) * plan->panel_row;
    const int64_t taps = taps_are_one_step(walk) ? r->pair_count[2] : 1;
    int begin = walk->first_chunk;
    int64_t steps = 0;

    for (int64_t d = 0; d < r->pair_count[0]; d++)
        for (int64_t h = 0; h < r->pair_count[1]; h++)
            for (int64_t i = 0; i < r->pair_count[2]; i += taps) {
                const struct cr_pair pd = r->pairs[0][d], ph = r->pairs[1][h], pw = r->pairs[2][i];
                const int64_t tap = (pd.tap * gather->axis[1].kernel + ph.tap) * gather->axis[2].kernel + pw.tap;
                if (tap < walk->tap || tap >= walk->tap_end) continue;
                if (steps == STEPS) {
                    run_tiles(walk, steps, taps, begin, 0);
                    begin = steps = 0;
                }
                const int64_t source = (pd.source - walk->first[0]) * x->space[0] +
                                       (ph.source - walk->first[1]) * x->space[1] +
                                       (pw.source - walk->first[2]) * x->space[2];
                const int64_t kernel =
                    plan->from_panels ? (tap - walk->tap) * packed_tap
                                      : pd.tap * w->space[0] + ph.tap * w->space[1] + pw.tap * w->space[2];
                walk->steps[steps++] = walk->orientation == PIXELS ? (struct cr_step){.a = kernel, .b = source}
                                                                   : (struct cr_step){.a = source, .b = kernel};
            }
    /* A phase sees none of the taps of many a chunk: 11x11 and stride 4. */
    const int finish = walk->last_chunk && (gather->bias || gather->activation != CR_IDENTITY);
    if (steps > 0 || begin || finish) run_tiles(walk, steps, taps, begin, walk->last_chunk);
}

/* -------------------------------------------------------------------------------------------------- the walk ---- */

/* Packs taps [tap, tap_end) and in-channels [c, c_end) of `channels` channels from the panel at work on. */
static void pack_chunk(const struct walk *walk, int64_t channels)
{
    const struct plan *plan = walk->plan;
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
static int64_t columns_of(const struct plan *plan, int64_t segment, int64_t *column)
{
    const int64_t width = plan->gather->axis[2].targets;
    *column = cr_cut(width, segment % plan->segments, plan->segments);
    return cr_cut(width, segment % plan->segments + 1, plan->segments);
}

/* The sources [source, source_end) of each axis that rows [row, end) of a segment read; of several slices, all rows. */
static void reach_of_rows(const struct plan *plan, int64_t row, int64_t end, int64_t source[3], int64_t source_end[3])
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
 * channel + channels): pixels one after the other with their channels, or, for PIXELS, channels one after the other
 * with their pixels. Spread, channel and channels are those of y. */
static void stage_rows(struct walk *walk, int64_t row, int64_t end, int64_t channel, int64_t channels)
{
    const struct plan *plan = walk->plan;
    const struct cr_tensor *x = plan->gather->x;
    const int64_t size = plan->kernels->size, width = plan->stage_row, segment = row / plan->rows;
    const int64_t image = segment / plan->segments, images = cr_ceil_div(end, plan->rows) - segment;
    const int64_t pixels_of_slice = plan->stage_rows * width, pixels_of_image = plan->stage_slices * pixels_of_slice;
    const int pixels = plan->orientation == PIXELS, lanes = plan->kernels->lanes;
    const int64_t copies = plan->spreads ? plan->gather->in_channels : 1, pixel = pixels ? 1 : copies * channels;
    const int64_t source = plan->spreads ? channel / plan->gather->out_channels * copies : channel;
    int64_t *const first = walk->first, last[3];

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
static void run_rows(struct walk *walk, int64_t row, int64_t end)
{
    const struct plan *plan = walk->plan;
    const int64_t rows = plan->rows;

    while (row < end) {
        const int64_t first = row % rows, segment = row / rows;
        const int64_t images = first == 0 && plan->segments == 1 ? (end - row) / rows : 0;
        const int64_t last = images ? rows : cr_smaller(rows, first + end - row);
        int64_t column;
        const int64_t column_end = columns_of(plan, segment, &column);
        walk->image = segment / plan->segments;
        walk->image_end = walk->image + cr_larger(images, 1);
        cr_rectangles(plan->gather->axis, first, last, column, column_end, &walk->rectangle, run_rectangle, walk);
        row += images ? images * rows : last - first;
    }
}

/* The same, y by way of result. */
static void run_rows_aside(struct walk *walk, int64_t row, int64_t end)
{
    const struct plan *plan = walk->plan;
    const struct cr_tensor *y = plan->gather->y;
    const int64_t size = plan->kernels->size, channels = walk->channels, height = plan->gather->axis[1].targets;
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

static void select_panel(struct walk *walk, int64_t panel)
{
    const struct plan *plan = walk->plan;
    const int64_t place = panel - walk->first_panel;
    /* The chunks of a prepared panel lie one after the other; in the workspace there is one. */
    const int64_t chunk =
        plan->whole ? walk->tap * plan->gather->in_channels + walk->c * (walk->tap_end - walk->tap) : 0;
    const int64_t at =
        place / plan->panel_share * plan->panel_next +
        place % plan->panel_share * plan->gather->out_channels + chunk * plan->panel_row;
    walk->group = panel / plan->panels_of_group;
    walk->channel = panel % plan->panels_of_group * plan->panel_channels;
    walk->channels = cr_smaller(plan->panel_channels, plan->vector_channels - walk->channel);
    walk->panel = cr_at(walk->panels, at, plan->kernels->size);
}

/* Rows [row, end) of panels [panel, panel_end), a batch. */
static void run_batch(struct walk *walk, int64_t panel, int64_t panel_end, int64_t row, int64_t end)
{
    const struct plan *plan = walk->plan;
    const struct cr_gather *gather = plan->gather;
    const int64_t band = plan->stages || panel_end - panel > 1 ? plan->band : end - row;
    const int64_t height = gather->axis[1].targets;

    walk->first_panel = plan->whole ? 0 : panel;
    walk->batch_channel = panel % plan->panels_of_group * plan->panel_channels;
    walk->batch_end = cr_smaller(plan->vector_channels,
                                 walk->batch_channel + (panel_end - panel) * plan->panel_channels);
    for (walk->tap = 0; walk->tap < plan->taps; walk->tap = walk->tap_end) {
        walk->tap_end = cr_smaller(walk->tap + plan->tap_chunk, plan->taps);
        for (walk->c = 0; walk->c < gather->in_channels; walk->c = walk->c_end) {
            walk->c_end = cr_smaller(walk->c + plan->channel_chunk, gather->in_channels);
            walk->first_chunk = walk->tap == 0 && walk->c == 0;
            walk->last_chunk = walk->tap_end == plan->taps && walk->c_end == gather->in_channels;
            for (int64_t i = panel, of_group; plan->packs && i < panel_end; i += of_group) {
                of_group = cr_smaller(panel_end - i, plan->panels_of_group - i % plan->panels_of_group);
                select_panel(walk, i);
                pack_chunk(walk,
                           cr_smaller(of_group * plan->panel_channels, plan->vector_channels - walk->channel));
            }
            for (int64_t start = row, next; start < end; start = next) {
                next = cr_smaller(start + band, end);
                /* Of a copy, rows of one slice, or slices of one image, or images, each from its first row on. */
                if (plan->stages && (band < height || start % height))
                    next = cr_smaller(next, (start / height + 1) * height);
                if (plan->stages && (plan->stage_images == 1 || start % plan->rows))
                    next = cr_smaller(next, (start / plan->rows + 1) * plan->rows);
                for (int64_t i = panel; i < panel_end; i++) {
                    select_panel(walk, i);
                    if (plan->stages && plan->orientation == DIAGONAL)
                        stage_rows(walk, start, next, walk->channel, walk->channels);
                    else if (plan->stages && (i == panel || i % plan->panels_of_group == 0))
                        stage_rows(walk, start, next, walk->group * gather->in_channels + walk->c,
                                   walk->c_end - walk->c);
                    (plan->result_rows ? run_rows_aside : run_rows)(walk, start, next);
                }
            }
        }
    }
}

/* Rows [row, end) of panels [panel, panel_end), batch by batch. */
static void run_panels(struct walk *walk, int64_t panel, int64_t panel_end, int64_t row, int64_t end)
{
    const struct plan *plan = walk->plan;
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
    const struct plan *plan = context;
    const int64_t rows = plan->gather->N * plan->segments * plan->rows;
    char *workspace = plan->workspace + part * plan->part_bytes;
    struct walk walk = {
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
    const struct plan *plan = context;
    struct walk walk = {.plan = plan, .panels = cr_at(plan->prepared, 0, 1)};

    run_panels(&walk, cr_cut(plan->panels, part, parts), cr_cut(plan->panels, part + 1, parts), 0, 0);
}

/* -------------------------------------------------------------------------------------------------- the plan ---- */

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
static int set_stage(struct plan *plan, int64_t channels, int64_t spare, double times)
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

static int64_t groups_of_tile(const struct plan *plan)
{
    return cr_groups_of_tile(plan->kernels, plan->gather->out_channels);
}

static int has_narrow_groups(const struct plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    return is_depthwise(gather) ||
           (plan->channel_chunk == gather->in_channels &&
            cr_groups_are_narrow(plan->kernels, gather->groups, gather->out_channels));
}

/* Pixels side by side in x and in y: of a row and a phase; with 1x1 kernels, of all rows that follow each other. */
static int64_t pixels_of_line(const struct plan *plan)
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
static double terms_of(const struct plan *plan)
{
    const struct cr_axis *axis = plan->gather->axis;
    return (double)plan->gather->in_channels * (double)plan->taps /
           (double)(axis[0].phases * axis[1].phases * axis[2].phases);
}

/* The same if pixels of a line fill vectors. Pixels at borders see other taps each, and go by channels; where y lies by
 * channels, vectors are transposed, which takes as long as 5 terms of their sums, and where a phase leaves gaps in it
 * stored element by element, 12. */
static double filling_by_pixels(const struct plan *plan, double by_channels)
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
 * vector takes 0.7 ns and 0.65 more for each term, that way 3.9 and 0.18: 64 channels of 1,000 pixels with 9 taps 50
 * and 20 us. Where planes share cache sets and come from the last cache, three times as long: 128x128 190 and 240. */
static int copies_depthwise(const struct plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const struct cr_axis *width = &gather->axis[2];
    const double terms = terms_of(plan);
    const double plane = (double)(plan->rows * width->targets * plan->kernels->size);
    const int far = gather->x->channel * plan->kernels->size % (4 * SCATTERING) == 0 &&
                    plane * (double)gather->groups > BATCH_BYTES;
    const double pixels = 0.7 + 0.65 * terms, channels = 3.9 + 0.18 * terms;

    return pixels / (far ? 3 * channels : channels) * filling(plan->kernels, plan->kernels->rows, gather->groups) >
           filling_by_pixels(plan, 1.0 / plan->kernels->lanes);
}

/* Whether a spread copy of narrow groups is faster than a transposed one, by pixels: cycles for each in-channel and
 * vector of y. Spreading takes as long again for each vector that the channels of a vector's groups come from: 4 images
 * of 1,000 pixels, 16 channels to 3 in each group, 980 and 280 us; 4 to 1 at 28x28 34 and 133. */
static int spreading_pays(const struct plan *plan, double by_pixels)
{
    const struct cr_gather *gather = plan->gather;
    const double terms = terms_of(plan) / (double)gather->in_channels;
    const double vectors = (double)cr_ceil_div(gather->in_channels, gather->out_channels);
    const double transposing = 0.5 * plan->kernels->lanes / (double)gather->out_channels;
    return 3 * vectors + 1.2 * terms < 1.5 * terms / by_pixels + transposing;
}

/* Which tiles, and whether x is copied for them. */
static void choose_tiles(struct plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const struct cr_axis *width = &gather->axis[2];
    const int lanes = plan->kernels->lanes;
    const int by_channel = gather->x->channel == 1;
    const int by_pixel = cr_axis_source_step(width) * gather->x->space[2] == 1;
    const double used = (double)gather->out_channels * (double)plan->taps /
                        (width->backward ? 1 : (double)width->stride * (double)gather->axis[1].stride);
    const int scattered = gather->x->channel * plan->kernels->size % SCATTERING == 0 && gather->in_channels > WAYS;
    const int copy_pays = !by_channel && gather->in_channels >= lanes && used >= WORTH_STAGING;
    const int64_t longest = cr_larger(gather->N, cr_larger(gather->axis[1].targets, width->targets));
    const double by_channels = filling(plan->kernels, longest, gather->out_channels);
    const double by_pixels = filling_by_pixels(plan, by_channels);
    const double worthwhile = copy_pays ? (plan->taps > 1 ? 1.1 : 1) : gather->y->channel == 1 ? 1 : 0.8;

    plan->stages = 0;
    plan->segments = 1;
    plan->orientation = CHANNELS;
    const int copies = !by_channel && (!by_pixel || copies_depthwise(plan));
    if (is_depthwise(gather) &&
        (by_channel || (copies && set_stage(plan, plan->kernels->columns, 0, HUGE_VAL)))) {
        plan->orientation = DIAGONAL;
        plan->stages = !by_channel;
    } else if (!is_depthwise(gather) && by_channel && has_narrow_groups(plan) && spreading_pays(plan, by_pixels) &&
               set_stage(plan, groups_of_tile(plan) * gather->out_channels * gather->in_channels, 0, HUGE_VAL)) {
        plan->orientation = DIAGONAL;
        plan->stages = plan->spreads = 1;
    } else if (by_pixel && by_pixels > worthwhile * by_channels) {
        plan->orientation = PIXELS;
        plan->stages =
            scattered && plan->taps > 1 && set_stage(plan, plan->channel_chunk, 2 * lanes, used / WORTH_STAGING);
    } else if (!by_pixel && cr_axis_source_step(width) == 1 && gather->in_channels > 1 &&
               set_stage(plan, plan->channel_chunk, 2 * lanes,
                         2 * used * (1 / by_channels - 1 / by_pixels) / WORTH_STAGING)) {
        plan->orientation = PIXELS;
        plan->stages = 1;
    } else if (copy_pays)
        plan->stages = set_stage(plan, plan->channel_chunk, 0, used / WORTH_STAGING);
}

/* Batches of panels, bands of rows, and which of the two threads share out: rows where x is too large to be read once
 * for every batch, since every part has to pack the panels then. */
static void set_blocks(struct plan *plan, int parts)
{
    const struct cr_gather *gather = plan->gather;
    const int64_t size = plan->kernels->size;
    plan->across_groups = gather->groups > 1 && plan->panels_of_group == 1 && plan->orientation != DIAGONAL &&
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
static void set_result(struct plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const struct cr_axis *width = &gather->axis[2];
    const int by_pixels = gather->y->channel != 1 && gather->y->space[2] == 1;
    const int at_once = plan->tap_chunk == plan->taps && plan->channel_chunk == gather->in_channels;
    const int64_t segment = cr_larger(1, cr_ceil_div(width->targets, plan->segments));

    const int64_t pixels = gather->N * plan->rows * width->targets;
    const int in_rows = plan->orientation == CHANNELS && width->phases == 1 &&
                        (plan->taps == 1 || pixels <= 2 * plan->kernels->rows);

    plan->result_rows = 0;
    if (!by_pixels || !at_once || plan->orientation == PIXELS || in_rows) return;
    plan->result_rows = RESULT_BYTES / plan->kernels->size / plan->panel_channels / segment;
    if (plan->result_rows > plan->rows) plan->result_rows -= plan->result_rows % plan->rows;
}

static enum cr_status allocate_workspace(struct plan *plan, int parts, struct cr_scratch *scratch)
{
    const int64_t pair_bytes = sizeof(struct cr_pair), line = 64;
    int64_t steps = 1, bytes, panel = 0;

    for (int axis = 0; axis < 3; axis++) {
        const int64_t pairs = cr_axis_pairs(&plan->gather->axis[axis]);
        steps = pairs < STEPS ? cr_smaller(STEPS, steps * pairs) : STEPS;
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
    if (cr_multiply_add(plan->part_bytes, parts, 0, &bytes)) bytes = INT64_MAX;
    plan->workspace = cr_scratch_open(scratch, bytes);
    return plan->workspace ? CR_OK : CR_OUT_OF_MEMORY;
}

/* Taps and in-channels are cut into chunks, which set the order of summation: they do not depend on how w is read. */
static struct plan plan_of(const struct cr_gather *gather)
{
    const struct cr_axis *axis = gather->axis;
    struct plan plan = {
        .gather = gather,
        .kernels = cr_kernels(gather->dtype),
        .taps = axis[0].kernel * axis[1].kernel * axis[2].kernel,
        .rows = axis[0].targets * axis[1].targets,
    };

    plan.channel_chunk = cr_larger(CHANNELS_LEAST, cr_smaller(CHANNEL_CHUNK, PANEL_ROWS / plan.taps));
    plan.channel_chunk = cr_ceil_div(gather->in_channels, cr_ceil_div(gather->in_channels, plan.channel_chunk));
    plan.tap_chunk = cr_smaller(plan.taps, cr_larger(1, PANEL_ROWS / plan.channel_chunk));
    if (plan.tap_chunk > axis[2].kernel) plan.tap_chunk -= plan.tap_chunk % axis[2].kernel;
    return plan;
}

/* The panels, and how they lie. */
static void set_panels(struct plan *plan)
{
    const struct cr_gather *gather = plan->gather;
    const int diagonal = plan->orientation == DIAGONAL, alone = !diagonal && plan->whole && has_narrow_groups(plan);
    const int64_t channels = gather->groups * gather->out_channels;
    const int64_t columns =
        diagonal || alone ? groups_of_tile(plan) * gather->out_channels : plan->kernels->columns;

    plan->panel_channels = diagonal ? columns : plan->kernels->columns;
    plan->vector_channels = diagonal ? channels : gather->out_channels;
    plan->panels_of_group = cr_ceil_div(plan->vector_channels, plan->panel_channels);
    plan->panels = plan->panels_of_group * (diagonal ? 1 : gather->groups);
    plan->panel_share = alone ? groups_of_tile(plan) : 1;
    plan->panel_row = cr_smaller(columns, alone ? channels : plan->vector_channels);
    plan->panel_next = plan->panel_row * (plan->whole ? plan->taps * gather->in_channels
                                                      : plan->tap_chunk * plan->channel_chunk);
}

/* Tiles, panels and blocks. */
static void set_plan(struct plan *plan, int parts)
{
    const struct cr_gather *gather = plan->gather;
    const struct cr_kernels *kernels = plan->kernels;
    const int64_t pixels = gather->N * plan->rows * gather->axis[2].targets;

    choose_tiles(plan);
    plan->tile = plan->orientation == DIAGONAL ? kernels->diagonal : kernels->product;
    /* Packing a panel costs about what a row of tiles does: not worth it for one or two of them. */
    plan->packs = !plan->whole &&
                  (plan->orientation == DIAGONAL ||
                   (plan->orientation == CHANNELS && (gather->w->batch != 1 || pixels > 2 * kernels->rows)) ||
                   (plan->orientation == PIXELS && gather->axis[2].kernel > 1 && pixels > 2 * kernels->rows));
    plan->from_panels = plan->packs || plan->whole;
    set_panels(plan);
    set_blocks(plan, parts);
    set_result(plan);
}

enum cr_status cr_gather(const struct cr_gather *gather, const void *prepared)
{
    const struct cr_axis *axis = gather->axis;
    struct plan plan = plan_of(gather);
    const int64_t taps_of_phase = cr_ceil_div(plan.taps, axis[0].phases * axis[1].phases * axis[2].phases);
    const double operations = (double)gather->N * (double)plan.rows * (double)axis[2].targets * (double)taps_of_phase *
                              (double)gather->in_channels * (double)gather->out_channels * (double)gather->groups;
    /* Of one channel, or of each by itself, they take four times as long: there is a load for each. */
    const int parts = cr_parts(gather->in_channels == 1 ? 4 * operations : operations);
    struct cr_scratch scratch;

    if (gather->N == 0) return CR_OK;
    plan.prepared = prepared;
    plan.whole = prepared != NULL;
    set_plan(&plan, parts);
    const enum cr_status status = allocate_workspace(&plan, parts, &scratch);
    if (status != CR_OK) return status;
    cr_parallel(parts, run_part, &plan);
    cr_scratch_close(&scratch);
    return CR_OK;
}

/* Packing all panels, as any later call reads them. */
static struct plan plan_of_panels(const struct cr_gather *gather)
{
    struct plan plan = plan_of(gather);
    plan.orientation = has_narrow_groups(&plan) ? DIAGONAL : CHANNELS;
    plan.packs = plan.whole = 1;
    set_panels(&plan);
    plan.batch = plan.panels;
    return plan;
}

int64_t cr_gather_prepared_bytes(const struct cr_gather *gather)
{
    const struct plan plan = plan_of_panels(gather);
    int64_t elements, bytes;
    const int overflow = cr_multiply_add(plan.panels, plan.panel_next, 0, &elements) ||
                         cr_multiply_add(elements, plan.kernels->size, 0, &bytes);
    return overflow ? -1 : bytes;
}

void cr_gather_prepare(const struct cr_gather *gather, void *prepared)
{
    struct plan plan = plan_of_panels(gather);
    plan.prepared = prepared;
    cr_parallel(cr_parts((double)plan.panels * (double)plan.panel_next), prepare_part, &plan);
}
