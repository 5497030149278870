/* Convolution, backward to its weights and bias: dw = the convolution of x with dy.
 *
 * For every tap, dw[tap] is a matrix product over pixels: C[c, k] = sum over pixels of x[pixel at the tap, c] *
 * dy[pixel, k], or with dy's channels as rows and x's as columns, whichever takes less time. Where channels are few,
 * the taps of a kernel row are rows of that product too. Pixels are added in blocks of the same size for any number of
 * threads, within a block into one accumulator (of a border column, another) and the blocks one after the other, so the
 * rounding error of n terms grows with the square root of the block and of the number of blocks, not of n. Threads
 * share out disjoint parts of dw, or, where it is small, of the sums of segments of lines, which are as many for any
 * number of threads and are added up in their order.
 *
 * Where x and dy have one channel each, vectors run along the pixels of a line, and their lanes are added up at the
 * end. That is a matter of shape alone: of strided arrays each lane is a tile of its own, with the same sum. */
#include <string.h>

#include "conv_backward_weights.h"

/* Of a dw that is copied to where it belongs, at a time. */
enum { ROWS_OF_DW = 128 };

/* Not more terms than these are added up before what was asked for could arrive. */
enum { FEW_TERMS = 4 };

/* What the tile will write or add to is on its way from the last cache while the products are computed. */
static void prefetch_c(const struct cr_tile *tile, const struct cr_kernels *kernels)
{
    for (int r = 0; r < tile->m; r++)
        for (int column = 0; column < tile->n; column += kernels->lanes)
            __builtin_prefetch(cr_at(tile->c, r * tile->c_row + column * tile->c_column, kernels->size));
}

/* Lines that go on where the one before ends, or of one term each and evenly apart, are one step. */
static void join_steps(const struct cr_weights_walk *walk, struct cr_tile *tile, struct cr_step *first)
{
    const int follow = walk->apart.a == tile->k * tile->a_k && walk->apart.b == tile->k * tile->b_k;

    if (tile->batch < 2 || !walk->even || !(follow || tile->k == 1)) return;
    if (tile->k == 1) {
        tile->a_k = walk->apart.a;
        tile->b_k = walk->apart.b;
    }
    tile->k *= tile->batch;
    *first = tile->steps[0];
    tile->steps = first;
    tile->batch = 1;
}

/* Where dw has row `row`, of tap `tap` of the group. */
static void *row_of_dw(const struct cr_weights_walk *walk, int64_t tap, int64_t row)
{
    const struct cr_weights_plan *plan = walk->plan;
    return cr_at(plan->dw->data, walk->segment * plan->segment_elements + walk->group * plan->w_group +
                                     walk->channel * plan->dw_column + walk->dw_offset + tap * plan->dw->space[2] +
                                     (row - tap * plan->row_channels) * plan->dw_row,
                 plan->kernels->size);
}

/* Where the product begins to read x or dy, and from there the next pixel. */
struct operand {
    const void *data;
    int64_t pixel;
};

/* channel: the row's, if x's channels are rows. */
static struct operand operand_x(const struct cr_weights_walk *walk, const struct cr_weights_piece *piece,
                                int64_t channel)
{
    const struct cr_weights_plan *plan = walk->plan;
    const struct cr_tensor *x = plan->x;
    const int64_t size = plan->kernels->size, source_step = cr_axis_source_step(&plan->axis[2]);

    if (plan->packs_x) {
        const int64_t pixel =
            (piece->row / plan->row_block - walk->chunk) * CR_WEIGHTS_PIXELS + piece->column - walk->column;
        return (struct operand){cr_at(walk->packed_x, pixel * plan->row_block, size), plan->row_block};
    }
    if (plan->stages_x) {
        const int64_t row = plan->spreads ? channel * plan->panel_channels : plan->stages_group ? channel : 0;
        const int64_t from = (piece->source - walk->stage_column) * plan->stage_pixel + row;
        return (struct operand){cr_at(walk->stage, from, size), source_step * plan->stage_pixel};
    }
    channel =
        plan->diagonal || plan->exchanged ? cr_weights_panel_of_x(walk) : walk->group * plan->in_channels + channel;
    return (struct operand){cr_at(x->data, channel * x->channel + piece->source * x->space[2], size),
                            source_step * x->space[2]};
}

static struct operand operand_dy(const struct cr_weights_walk *walk, const struct cr_weights_piece *piece,
                                 int64_t channel)
{
    const struct cr_weights_plan *plan = walk->plan;
    const struct cr_tensor *dy = plan->dy;
    const int64_t size = plan->kernels->size, columns = plan->kernels->columns;

    if (plan->packs_dy)
        return (struct operand){cr_at(walk->panel, (piece->column - walk->column) * columns, size), columns};
    channel = plan->exchanged ? walk->group * plan->out_channels + channel : cr_weights_panel_of_dy(walk);
    return (struct operand){cr_at(dy->data, channel * dy->channel + piece->column * dy->space[2], size), dy->space[2]};
}

static void run_tile(const struct cr_weights_walk *walk, const struct cr_weights_piece *piece, int accumulate)
{
    const struct cr_weights_plan *plan = walk->plan;
    const int64_t channel = piece->row - piece->tap * plan->row_channels;
    const struct operand x = operand_x(walk, piece, channel), dy = operand_dy(walk, piece, channel);
    const struct operand a = plan->exchanged ? dy : x, b = plan->exchanged ? x : dy;
    struct cr_step first;
    struct cr_tile tile = {
        .a = a.data,
        .b = b.data,
        .c = row_of_dw(walk, piece->tap, piece->row),
        .steps = walk->steps,
        .batch = walk->step_count,
        .k = piece->pixels,
        .a_row = plan->a_row,
        .a_k = a.pixel,
        .b_k = b.pixel,
        .b_n = 1,
        .b_gap = 0,
        .c_row = plan->dw_row,
        .c_column = plan->dw_column,
        .m = (int)(piece->row_end - piece->row),
        .n = (int)walk->channels,
        .accumulate = accumulate,
        .activation = CR_IDENTITY,
        .bias_row = NULL,
        .bias_column = NULL,
    };
    join_steps(walk, &tile, &first);
    if (tile.k * tile.batch > FEW_TERMS) prefetch_c(&tile, plan->kernels);
    (plan->diagonal ? plan->kernels->diagonal : plan->kernels->product)(&tile);
}

/* The same along pixels, added to walk->sums: `vectors` times so many pixels of a line as a tile has columns, or less
 * than that once. An x that is the same everywhere, of strides 0, is a product's A. */
static void add_pixels(const struct cr_weights_walk *walk, const struct cr_weights_piece *piece, int64_t vectors,
                       int64_t pixels)
{
    const struct cr_weights_plan *plan = walk->plan;
    const struct cr_kernels *kernels = plan->kernels;
    const int64_t size = kernels->size, columns = kernels->columns;
    const int64_t x_pixel = plan->x->space[2], dy_pixel = plan->dy->space[2];
    const int64_t n = dy_pixel == 1 && (x_pixel == 0 || x_pixel == 1) ? pixels : 1;

    for (int64_t lane = 0; lane < pixels; lane += n) {
        struct cr_step first;
        struct cr_tile tile = {
            .a = cr_at(plan->x->data, (piece->source + lane) * x_pixel, size),
            .b = cr_at(plan->dy->data, (piece->column + lane) * dy_pixel, size),
            .c = cr_at(walk->sums, piece->row % plan->row_block * columns + lane, size),
            .steps = walk->steps,
            .batch = walk->step_count,
            .k = vectors,
            .a_row = plan->a_row,
            .a_k = columns * x_pixel,
            .b_k = columns * dy_pixel,
            .c_row = columns,
            .c_column = 1,
            .m = (int)(piece->row_end - piece->row),
            .n = (int)n,
            .accumulate = 1,
        };
        join_steps(walk, &tile, &first);
        (x_pixel ? kernels->diagonal : kernels->product)(&tile);
    }
}

static void run_pixels(const struct cr_weights_walk *walk, struct cr_weights_piece piece)
{
    const int64_t columns = walk->plan->kernels->columns, vectors = piece.pixels / columns;

    if (vectors) add_pixels(walk, &piece, vectors, columns);
    piece.column += vectors * columns;
    piece.source += vectors * columns;
    if (piece.pixels % columns) add_pixels(walk, &piece, 1, piece.pixels % columns);
}

/* dw = or += the lanes of walk->sums, added up: a product with ones. */
static void add_lanes(const struct cr_weights_walk *walk, int64_t row, int64_t row_end, int accumulate)
{
    const struct cr_weights_plan *plan = walk->plan;
    const struct cr_step step = {0};
    const struct cr_tile tile = {
        .a = walk->sums,
        .b = plan->one,
        .c = row_of_dw(walk, row, row),
        .steps = &step,
        .batch = 1,
        .k = plan->kernels->columns,
        .a_row = plan->kernels->columns,
        .a_k = 1,
        .c_row = plan->dw_row,
        .c_column = 1,
        .m = (int)(row_end - row),
        .n = 1,
        .accumulate = accumulate,
    };
    plan->kernels->product(&tile);
}

static void run_piece(const struct cr_weights_walk *walk, const struct cr_weights_piece *piece, int accumulate)
{
    if (walk->plan->along_pixels)
        run_pixels(walk, *piece);
    else
        run_tile(walk, piece, accumulate);
}

/* The taps from tw on are at work. Which columns the first of them sees is asked for every tile of rows: a division for
 * each would be a tenth of the time of a product over one pixel. */
static void open_tap(struct cr_weights_walk *walk, int64_t tw)
{
    walk->tw = tw;
    walk->run_column = walk->column;
    walk->run_pixels =
        cr_axis_tap_run(&walk->plan->axis[2], tw, &walk->run_column, walk->column_end, &walk->run_source);
}

/* As cr_axis_tap_run, of tap tw + tap in the block of pixels. */
static int64_t tap_run(const struct cr_weights_walk *walk, int64_t tap, int64_t *column, int64_t *source)
{
    if (*column == walk->column_end) return 0;
    if (tap != 0 || *column != walk->column)
        return cr_axis_tap_run(&walk->plan->axis[2], walk->tw + tap, column, walk->column_end, source);
    *column = walk->run_column;
    *source = walk->run_source;
    return walk->run_pixels;
}

/* Rows [row, row_end), one tile, of the group of taps over the block of pixels: first the columns that all their taps
 * see, then for each tap what is left of its own, at the borders. first: nothing is in dw yet. */
static void run_rows(const struct cr_weights_walk *walk, int64_t row, int64_t row_end, int first)
{
    const struct cr_weights_plan *plan = walk->plan;
    const struct cr_axis *width = &plan->axis[2];
    if (plan->joined == 1 && walk->run_pixels == walk->column_end - walk->column) { /* the tap sees every column */
        const struct cr_weights_piece all = {.row = row, .row_end = row_end, .column = walk->column,
                                             .pixels = walk->run_pixels, .source = walk->run_source};
        run_piece(walk, &all, !first);
        return;
    }
    const int64_t C = plan->row_channels, source_step = cr_axis_source_step(width);
    const int64_t low = plan->joined > 1 ? row / C : 0, high = plan->joined > 1 ? (row_end - 1) / C : 0;
    struct cr_weights_piece inner = {.column = walk->column};
    int64_t source;

    if (high > low) { /* the highest tap leaves the image first, the lowest enters it last */
        int64_t last = walk->column, column = walk->column;
        last += tap_run(walk, high, &last, &source);
        if (tap_run(walk, low, &column, &source) > 0 && column < last) {
            inner.column = column;
            inner.pixels = last - column;
            for (inner.tap = low; inner.tap <= high; inner.tap++) {
                inner.source = source + (inner.tap - low) * width->dilation;
                inner.row = cr_larger(row, inner.tap * C);
                inner.row_end = plan->even_rows ? row_end : cr_smaller(row_end, (inner.tap + 1) * C);
                run_piece(walk, &inner, !first);
                if (plan->even_rows) break;
            }
            first = 0;
        }
    }
    for (int64_t tap = low; tap <= high; tap++) {
        struct cr_weights_piece piece = {
            .row = cr_larger(row, tap * C), .row_end = cr_smaller(row_end, (tap + 1) * C), .tap = tap};
        int64_t column = walk->column, pixels;
        int begin = first;
        for (; (pixels = tap_run(walk, tap, &column, &source)) > 0; column += pixels)
            for (int side = 0; side < 2; side++) { /* before and after the inner columns */
                const int64_t from = side ? cr_larger(column, inner.column + inner.pixels) : column;
                const int64_t to = side ? column + pixels : cr_smaller(column + pixels, inner.column);
                if (from >= to) continue;
                piece.column = from;
                piece.pixels = to - from;
                piece.source = source + (from - column) * source_step;
                run_piece(walk, &piece, !begin);
                begin = 0;
            }
        if (begin) run_piece(walk, &piece, 0); /* of no pixels: zero */
    }
}

/* Units [unit, end) of the panel over the block of pixels. */
static void run_units(struct cr_weights_walk *walk, int64_t unit, int64_t end, int first)
{
    const struct cr_weights_plan *plan = walk->plan;
    const struct cr_tensor *dw = plan->dw;
    const int64_t kh = plan->axis[1].kernel, row_units = plan->axis[2].kernel / plan->joined * plan->blocks;

    while (unit < end) {
        const int64_t kernel_row = unit / row_units, row_end = cr_smaller(end, (kernel_row + 1) * row_units);
        const int64_t td = kernel_row / kh, th = kernel_row % kh;
        if (plan->stages_x) cr_weights_open_stage(walk, td);
        cr_weights_list_lines(walk, td, th);
        int64_t block = unit % plan->blocks;
        open_tap(walk, unit % row_units / plan->blocks);
        for (; unit < row_end; unit++, block++) {
            if (block == plan->blocks) {
                block = 0;
                open_tap(walk, walk->tw + 1);
            }
            const int64_t row = block * plan->row_block;
            const int64_t end_of_rows = cr_smaller(row + plan->row_block, plan->rows);
            walk->dw_offset = td * dw->space[0] + th * dw->space[1] + walk->tw * dw->space[2];
            if (plan->along_pixels) memset(walk->sums, 0, (size_t)plan->sums_bytes);
            run_rows(walk, row, end_of_rows, first);
            if (plan->along_pixels) add_lanes(walk, row, end_of_rows, !first);
        }
    }
}

/* The block of pixels under the chunk, for what of it is the part's, [start, end) of panels times units. */
static void run_chunk(struct cr_weights_walk *walk, int64_t start, int64_t end, int first)
{
    const struct cr_weights_plan *plan = walk->plan;
    const int64_t units = plan->units, chunk_end = cr_smaller(walk->chunk + plan->chunk, units);
    int64_t packed_end = 0; /* panels up to there are packed */

    if (plan->packs_x) cr_weights_pack_x(walk, chunk_end);
    for (int64_t panel = start / units; panel * units < end; panel++) {
        const int64_t from = cr_larger(walk->chunk, start - panel * units);
        const int64_t to = cr_smaller(chunk_end, end - panel * units), number = panel % plan->panels_of_group;
        if (from >= to) continue;
        walk->group = panel / plan->panels_of_group;
        walk->channel = number * plan->panel_channels;
        walk->channels = cr_smaller(plan->panel_channels, plan->vector_channels - walk->channel);
        if (plan->packs_dy && panel >= packed_end) {
            const int64_t batch = cr_smaller(plan->batch, cr_ceil_div(end - walk->chunk, units) - panel);
            cr_weights_pack_dy(walk, cr_smaller(batch * plan->panel_channels, plan->vector_channels - walk->channel));
            packed_end = cr_smaller(panel + batch, panel + plan->panels_of_group - number);
            walk->panel = walk->packed_dy;
        } else if (plan->packs_dy)
            walk->panel = cr_at(walk->panel, plan->panel_elements, plan->kernels->size);
        run_units(walk, from, to, first);
    }
}

/* The lines of the walk's segment, for what of it is the part's, [start, end) of panels times units. Once through even
 * where there are no lines, N = 0: dw is zero then. */
static void run_segment(struct cr_weights_walk *walk, int64_t start, int64_t end)
{
    const struct cr_weights_plan *plan = walk->plan;
    const int64_t line_end = cr_smaller(
        plan->lines, cr_cut(plan->line_blocks, (int)walk->segment + 1, plan->segments) * plan->line_block);
    int first = !plan->accumulate || walk->segment > 0;

    walk->line = cr_cut(plan->line_blocks, (int)walk->segment, plan->segments) * plan->line_block;
    for (; first || walk->line < line_end; walk->line = walk->line_end) {
        walk->line_end = cr_smaller(walk->line + plan->line_block, line_end);
        for (walk->column = 0; walk->column < plan->width; walk->column = walk->column_end) {
            walk->column_end = cr_smaller(walk->column + plan->width_block, plan->width);
            walk->stage_number = -1;
            for (walk->chunk = 0; walk->chunk < plan->units; walk->chunk += plan->chunk)
                run_chunk(walk, start, end, first);
            first = 0;
        }
    }
}

static void run_part(void *context, int part, int parts)
{
    const struct cr_weights_plan *plan = context;
    const int64_t units = plan->panels * plan->units, end = cr_cut(plan->segments * units, part + 1, parts);
    char *workspace = plan->workspace + part * plan->part_bytes;
    struct cr_weights_walk walk = {
        .plan = plan,
        .packed_dy = workspace,
        .packed_x = workspace + plan->x_offset,
        .sums = workspace + plan->sums_offset,
        .stage = workspace + plan->stage_offset,
        .spread_row = workspace + plan->spread_offset,
        .staged = workspace + plan->staged_offset,
        .steps = (struct cr_step *)(void *)(workspace + plan->steps_offset),
    };

    for (int64_t unit = cr_cut(plan->segments * units, part, parts), last; unit < end; unit = last) {
        walk.segment = unit / units;
        last = cr_smaller(end, (walk.segment + 1) * units);
        run_segment(&walk, unit - walk.segment * units, last - walk.segment * units);
    }
}

/* The sums of the segments are added up in their order, and go to dw, of in-channels that the part has. There
 * out-channels lie side by side, or taps, or neither. */
static void add_segments(void *context, int part, int parts)
{
    const struct cr_weights_plan *plan = context;
    const struct cr_tensor *dw = plan->caller_dw;
    const int64_t kd = plan->axis[0].kernel, kh = plan->axis[1].kernel, kw = plan->axis[2].kernel;
    const int64_t size = plan->kernels->size, K = plan->segment_dw.channel, tap = plan->in_channels * K;
    const int by_channel = dw->batch == 1, by_tap = !by_channel && dw->space[2] == 1;
    const int at_once = dw->space[1] == kw * dw->space[2] && dw->space[0] == kh * dw->space[1];
    const int64_t count = kd * kh * kw, taps = !by_channel && !by_tap ? 1 : at_once ? count : kw;
    struct cr_panels to = {.width = INT64_MAX, .row = by_channel ? dw->space[2] : dw->batch, .fold = 1};
    const int64_t first = cr_cut(plan->in_channels, part, parts), end = cr_cut(plan->in_channels, part + 1, parts);

    for (int64_t segment = 1; segment < plan->segments; segment++)
        for (int64_t i = 0; i < count; i++) {
            void *const sums = cr_at(plan->segment_dw.data, i * tap + first * K, size);
            plan->kernels->add((end - first) * K, cr_at(sums, segment * plan->segment_elements, size), sums);
        }
    /* Some out-channels at a time, whose rows of dw stay in a cache from one in-channel to the next. */
    for (int64_t k = 0; k < K; k += ROWS_OF_DW)
        for (int64_t c = first; c < end; c++)
            for (int64_t i = 0; i < count; i += taps) {
                const void *const source = cr_at(plan->segment_dw.data, i * tap + c * K + k, size);
                const int64_t rows = cr_smaller(ROWS_OF_DW, K - k);
                to.data = cr_at(dw->data, k * dw->batch + c * dw->channel + i / (kh * kw) * dw->space[0] +
                                              i / kw % kh * dw->space[1] + i % kw * dw->space[2], size);
                if (by_channel)
                    plan->kernels->pack(&to, source, taps, rows, tap, 1);
                else
                    plan->kernels->pack(&to, source, rows, taps, 1, tap);
            }
}

/* Whether dw is a matrix with in-channels along its rows, and x and dy are matrices of the same pixels, so that dw is
 * written along its rows if they change places. With one segment the sums are the same. Where channels do not lie side
 * by side, that pays for one block of pixels: 960 to 160 channels 7x7 99 us and 83, but 256 to 1024 14x14, of 16
 * images, 8.6 ms and 9.7. */
static int changes_places(const struct cr_conv *conv, const struct cr_tensor *dy, const struct cr_tensor *x,
                          const struct cr_tensor *dw)
{
    for (int axis = 0; axis < 3; axis++)
        if (conv->kernel[axis] != 1 || conv->stride[axis] != 1 || conv->in[axis] != conv->out[axis]) return 0;
    return dw->channel == 1 && dw->batch != 1 && conv->groups == 1 && conv->C * conv->K > CR_WEIGHTS_SEGMENT &&
           ((x->channel == 1 && dy->channel == 1) ||
            conv->N * conv->out[0] * conv->out[1] * conv->out[2] <= CR_WEIGHTS_PIXELS);
}

/* The sums so far into the first segment's. */
static void load_sums(const struct cr_weights_plan *plan)
{
    const struct cr_tensor *dw = plan->caller_dw;
    const struct cr_panels to = {
        .data = plan->segment_dw.data, .width = INT64_MAX, .row = plan->segment_dw.channel, .fold = 1};
    plan->kernels->pack(&to, dw->data, plan->in_channels, plan->out_channels, dw->channel, dw->batch);
}

static enum cr_status run(const struct cr_conv *conv, const struct cr_tensor *dy, const struct cr_tensor *x,
                          const struct cr_tensor *dw, int accumulate)
{
    struct cr_weights_plan plan;
    cr_weights_plan(&plan, conv, dy, x, dw, accumulate);
    const int64_t sums_elements = plan.segments * plan.segment_elements;
    plan.workspace = cr_allocate(plan.parts * plan.part_bytes + sums_elements * plan.kernels->size);
    if (!plan.workspace) return CR_OUT_OF_MEMORY;
    plan.segment_dw.data = plan.workspace + plan.parts * plan.part_bytes;
    if (accumulate && plan.copies_dw) load_sums(&plan);
    cr_parallel(plan.parts, run_part, &plan);
    if (plan.copies_dw)
        cr_parallel((int)cr_smaller(cr_parts((double)sums_elements), plan.in_channels), add_segments, &plan);
    cr_release(plan.workspace);
    return CR_OK;
}

enum cr_status cr_conv_sum_weights(const struct cr_conv *conv, const struct cr_tensor *dy, const struct cr_tensor *x,
                                   const struct cr_tensor *dw, int accumulate)
{
    if (!changes_places(conv, dy, x, dw)) return run(conv, dy, x, dw, accumulate);
    struct cr_conv exchanged = *conv;
    exchanged.C = conv->K;
    exchanged.K = conv->C;
    const struct cr_tensor transposed = {.data = dw->data, .batch = dw->channel, .channel = dw->batch};
    return run(&exchanged, x, dy, &transposed, accumulate);
}

enum cr_status cr_conv_backward_weights(const struct cr_conv *conv, const struct cr_tensor *dy,
                                        const struct cr_tensor *x, const struct cr_tensor *dw)
{
    const enum cr_status status = cr_conv_check(conv);
    if (status != CR_OK) return status;
    if (cr_conv_weights_choice(conv) == CR_WINOGRAD) return cr_winograd_weights(conv, dy, x, dw);
    const enum cr_planes_by by = cr_weights_planes_by(conv, dy, x, dw);
    return by != CR_NO_PLANES ? cr_weights_planes(conv, by, dy, x, dw) : cr_conv_sum_weights(conv, dy, x, dw, 0);
}
