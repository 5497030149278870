/* The tiles of a gather: those of one rectangle of targets, whose taps are one list of steps. */
#include "conv_gather.h"

int64_t cr_gather_rows_before(const struct cr_gather_walk *walk)
{
    return walk->tap * walk->plan->gather->in_channels + walk->c * (walk->tap_end - walk->tap);
}

void cr_gather_select_panel(struct cr_gather_walk *walk, int64_t panel)
{
    const struct cr_gather_plan *plan = walk->plan;
    const int64_t place = panel - walk->first_panel;
    const int64_t at =
        place / plan->panel_share * plan->panel_next +
        place % plan->panel_share * plan->gather->out_channels +
        (cr_gather_rows_before(walk) - walk->first_row) * plan->panel_row;
    walk->group = panel / plan->panels_of_group;
    walk->channel = panel % plan->panels_of_group * plan->panel_channels;
    walk->channels = cr_smaller(plan->panel_channels, plan->vector_channels - walk->channel);
    walk->panel = cr_at(walk->panels, at, plan->kernels->size);
}

/* The steps are of `taps` taps each, along the width. */
static struct cr_tile tile_of_walk(const struct cr_gather_walk *walk, int64_t taps, int begin, int finish)
{
    const struct cr_gather_plan *plan = walk->plan;
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
        plan->orientation == CR_DIAGONAL ? walk->channel : walk->group * gather->in_channels + walk->c;
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

    if (walk->orientation == CR_PIXELS) {
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

static int64_t columns_of_tile(const struct cr_gather_plan *plan, int64_t m)
{
    return plan->tile == plan->kernels->dots ? plan->kernels->columns : cr_columns(plan->kernels, m);
}

static struct line line_of(const struct cr_gather_plan *plan, int64_t m, int64_t n, int64_t a_row)
{
    const struct cr_kernels *kernels = plan->kernels;
    const int64_t strips = cr_ceil_div(m, cr_rows_of_tile(kernels, m, a_row));
    return (struct line){m, n, strips, m / strips, m % strips, columns_of_tile(plan, m)};
}

/* The pixels of the next tile are on their way while this one reads its own: they are read once, too few at a time for
 * the processor to see where it goes. One of 64 channels, 256x256, 353 us without, 297 with. */
static void prefetch_pixels(const struct cr_tile *tile, int64_t columns, int64_t size)
{
    for (int64_t j = columns; j < 2 * columns; j++)
        for (int64_t k = 0; k < tile->k * size; k += 64)
            __builtin_prefetch(cr_at(tile->b, j * tile->b_n * size + k, 1));
}

/* A, B and C begin at a, b and c. */
static void run_line(const struct cr_gather_plan *plan, const struct line *line, struct cr_tile *tile, const void *a,
                     const void *b, void *c)
{
    const void *bias_row = tile->bias_row;
    const int64_t size = plan->kernels->size;

    for (int64_t j = 0; j < line->n; j += line->columns) {
        tile->b = cr_at(b, j * tile->b_n, size);
        tile->n = (int)cr_smaller(line->columns, line->n - j);
        if (plan->tile == plan->kernels->dots && plan->orientation == CR_PIXELS)
            prefetch_pixels(tile, line->columns, size);
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
static int64_t channels_of_tiles(const struct cr_gather_walk *walk, int64_t pixels)
{
    const struct cr_gather_plan *plan = walk->plan;
    const int64_t width = columns_of_tile(plan, pixels);

    if (plan->result_rows) return walk->channels;
    if ((walk->channel - walk->batch_channel) % width) return 0;
    return cr_larger(walk->channels, cr_smaller(width, walk->batch_end - walk->channel));
}

/* All tiles of the rectangle, of the panels walked together, in images [image, image_end), of the steps gathered
 * so far. */
static void run_tiles(struct cr_gather_walk *walk, int64_t steps, int64_t taps, int begin, int finish)
{
    const struct cr_gather_plan *plan = walk->plan;
    const struct cr_rectangle *r = &walk->rectangle;
    const struct cr_axis *height = &plan->gather->axis[1], *width = &plan->gather->axis[2];
    const struct cr_tensor *x = &walk->x, *y = &walk->y;
    const int64_t size = plan->kernels->size;
    const int pixels = walk->orientation == CR_PIXELS;
    struct extent images = {walk->image_end - walk->image, x->batch, y->batch};
    struct extent rows = {r->count[1], cr_axis_source_step(height) * x->space[1], height->phases * y->space[1]};
    struct extent columns = {r->count[2], cr_axis_source_step(width) * x->space[2], width->phases * y->space[2]};

    /* A tile lies along a row, or down a column where the rectangle is taller than wide; or goes through the images
     * where that leaves it few rows: 256 images of 4x4 pixels 11.6 ms, that way 3.4. What is not a row of y by pixels
     * is stored element by element, and a diagonal tile hands vectors on along a row: those leave it sooner. */
    const int along_row = walk->orientation == CR_DIAGONAL || y->channel != 1;
    const int64_t longest = cr_larger(rows.count, columns.count), few = along_row ? 4 : 2;
    struct extent along = columns, inner = rows, outer = images;
    if (!pixels && images.count > longest && few * longest <= plan->kernels->rows)
        along = images, inner = columns, outer = rows;
    else if (!pixels && rows.count > columns.count && (!along_row || few * columns.count <= plan->kernels->rows))
        along = rows, inner = columns;
    join(&inner, &along);
    if (inner.count == 1) join(&outer, &along);

    const int64_t x_first = (walk->image - walk->first_image) * x->batch;
    const int64_t y_first = (walk->image - walk->out_image) * y->batch + r->target[0] * y->space[0] +
                            (r->target[1] - walk->out_row) * y->space[1] +
                            (r->target[2] - walk->out_column) * y->space[2];
    for (int64_t panel = walk->walked; panel < walk->walked_end; panel++) {
        cr_gather_select_panel(walk, panel);
        const int64_t channels =
            walk->orientation == CR_CHANNELS ? channels_of_tiles(walk, along.count) : walk->channels;
        if (channels == 0) continue;
        struct cr_tile tile = tile_of_walk(walk, taps, begin, finish);
        if (!pixels) tile.a_row = along.x;
        const struct line form = pixels ? line_of(plan, channels, along.count, tile.a_row)
                                        : line_of(plan, along.count, channels, tile.a_row);
        const void *const a = pixels ? tile.a : cr_at(tile.a, x_first, size);
        const void *const b = pixels ? cr_at(tile.b, x_first, size) : tile.b;
        void *const c = cr_at(tile.c, y_first, size);

        tile.batch = steps;
        tile.b_n = pixels ? along.x : plan->tile == plan->kernels->dots ? plan->gather->w->batch : 1;
        if (pixels) {
            tile.c_column = along.y;
        } else {
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
}

/* Whether the taps of the rectangle along the width can be one step: equally spaced in x and in w and of one channel
 * each, or following each other, channels and all, in both. */
static int taps_are_one_step(const struct cr_gather_walk *walk)
{
    const struct cr_gather_plan *plan = walk->plan;
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
void cr_gather_rectangle(void *context)
{
    struct cr_gather_walk *walk = context;
    const struct cr_rectangle *r = &walk->rectangle;
    const struct cr_gather_plan *plan = walk->plan;
    const struct cr_gather *gather = plan->gather;
    const int narrow = r->count[2] < r->count[1] && 2 * r->count[2] < plan->kernels->lanes;
    const int by_channels = narrow && plan->orientation == CR_PIXELS && plan->from_panels &&
                            plan->tile == plan->kernels->product;

    walk->orientation = by_channels ? CR_CHANNELS : plan->orientation;
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
                if (steps == CR_GATHER_STEPS) {
                    run_tiles(walk, steps, taps, begin, 0);
                    begin = steps = 0;
                }
                const int64_t source = (pd.source - walk->first[0]) * x->space[0] +
                                       (ph.source - walk->first[1]) * x->space[1] +
                                       (pw.source - walk->first[2]) * x->space[2];
                const int64_t kernel =
                    plan->from_panels ? (tap - walk->tap) * packed_tap
                                      : pd.tap * w->space[0] + ph.tap * w->space[1] + pw.tap * w->space[2];
                walk->steps[steps++] = walk->orientation == CR_PIXELS ? (struct cr_step){.a = kernel, .b = source}
                                                                   : (struct cr_step){.a = source, .b = kernel};
            }
    /* A phase sees none of the taps of many a chunk: 11x11 and stride 4. */
    const int finish = walk->last_chunk && (gather->bias || gather->activation != CR_IDENTITY);
    if (steps > 0 || begin || finish) run_tiles(walk, steps, taps, begin, walk->last_chunk);
}
