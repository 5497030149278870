/* Convolution, backward to its weights and bias: dw = the convolution of x with dy.
 *
 * For every tap, dw[tap] is a matrix product over pixels: C[c, k] = sum over pixels of x[pixel at the tap, c] *
 * dy[pixel, k], or with dy's channels as rows and x's as columns, whichever takes less time. Where channels are few,
 * the taps of a kernel row are rows of that product too. Pixels are added in blocks of the same size for any number of
 * threads, within a block into one accumulator (of a border column, another) and the blocks one after the other, so the
 * rounding error of n terms grows with the square root of PIXELS and of n / PIXELS, not of n. Threads share out
 * disjoint parts of dw, or, where it is small, of the sums of segments of lines, which are as many for any number of
 * threads and are added up in their order.
 *
 * Where x and dy have one channel each, vectors run along the pixels of a line, and their lanes are added up at the
 * end. That is a matter of shape alone: of strided arrays each lane is a tile of its own, with the same sum. */
#include <assert.h>
#include <string.h>

#include "conv.h"

/* Panels of dy, of 512 rows of 128 bytes, are packed several side by side, a batch: the longer the rows that are read,
 * the faster. It and the tiles of x over it stay in a second-level cache. There are rather more of x, since a batch is
 * packed anew for each chunk of them: 256 KiB and 1 MiB are 10 to 17 % faster than 512 KiB each. */
enum { PIXELS = 512, PACKED_X_BYTES = 1088 * 1024, BATCH_BYTES = 256 * 1024 };

/* The most of x that is copied at a time: lines of 512 pixels and a kernel of 7 rows have 512 KiB, narrow groups of 4
 * channels, of a 3x3 kernel with a stride of 2, 1.2 MiB. */
enum { STAGE_BYTES = 2048 * 1024 };

/* dy is packed for more tiles of rows than that, x for more panels. */
enum { UNITS_IN_PLACE = 4, PANELS_IN_PLACE = 16 };

/* Of a dw that is copied to where it belongs, at a time. */
enum { ROWS_OF_DW = 128 };

/* Fewer tiles than FEW, of a dw of so many elements, are summed in segments until there are SHARES of them. */
enum { FEW = 8, SHARES = 16, SEGMENT_ELEMENTS = 1024 };

struct plan {
    const struct cr_kernels *kernels;
    const struct cr_tensor *dy, *x, *dw, *caller_dw; /* dw: the caller's, or segment_dw */
    struct cr_axis axis[3];
    int diagonal, packs_dy, packs_x;
    int stages_x;                     /* x is read from a copy of the rows at work, [row][column][channel], */
    int stages_group;                 /* of all channels of a group, which are rows, or of the panel's, */
    int spreads;                      /* or with each channel below every channel of dy of its group, */
    int64_t stage_rows, stage_columns; /* of so many rows and columns, */
    int64_t stage_pixel;              /* a pixel of so many elements */
    int64_t spread_pixel;             /* before it is spread, if channels do not lie side by side; or 0 */
    int64_t in_channels, out_channels; /* of a group */
    int64_t vector_channels;           /* what panels cut up: of a group, the other channels; if diagonal, all of dy */
    int along_pixels;                 /* vectors run along pixels */
    int exchanged;                    /* rows of the product are channels of dy, its columns those of x */
    int64_t row_channels;             /* of a group, the channels that are rows */
    int64_t w_group;                   /* stride of dw from one group to the next */
    int64_t panel_channels, panels_of_group, panels; /* panels: disjoint ranges of those */
    int64_t batch, panel_elements;    /* panels that are packed together, and how far apart */
    int64_t joined;                   /* taps of a kernel row that are rows of one product: all or one */
    int64_t rows, row_block, blocks;  /* rows of the product, joined * row_channels; of a tile; tiles */
    int even_rows;                    /* the rows of a tile are evenly apart, in A and in dw, past the end of a tap */
    int64_t a_row, dw_row, dw_column; /* how far; and columns, in dw */
    int64_t units, chunk;             /* of a panel, tiles of a group of taps; those walked at a time */
    int64_t tiles;                    /* of all panels, if none were wider than a tile of any number of rows */
    int64_t lines, line_block, width, width_block; /* (image, depth, height) and columns of dy; of a block */
    int64_t line_blocks;              /* of all lines; of them, segments take an equal share each */
    int segments;
    int copies_dw;                    /* if they are more than one, or rows of dw are not evenly apart: */
    struct cr_tensor segment_dw;      /* the sums of the first, and */
    int64_t segment_elements;         /* how far apart they are */
    char *workspace;
    int64_t part_bytes, steps_offset, x_offset, sums_offset, sums_bytes, staged_offset, stage_offset, spread_offset;
    const void *one; /* the number, of the dtype */
};

/* Where one part of the work stands. */
struct walk {
    const struct plan *plan;
    struct cr_step *steps;                      /* of the group of taps at work, [step_count], */
    int64_t step_count, tw, dw_offset;          /* whose first tap of the kernel row is tw, in dw there */
    void *packed_dy, *panel, *packed_x;         /* the batch of panels, the one of them at work, tiles of x */
    void *sums;                                 /* along pixels: [row][columns of a tile], of a tile */
    char *stage, *staged, *spread_row;          /* the copy; which of its rows have been written, a row to be spread; */
    int64_t stage_number;                       /* of the slice and panel or group that it is of, or -1; */
    int64_t stage_row, stage_column;            /* it begins at this row of x, as row_of_x counts, and column */
    int64_t group, channel, channels;          /* the panel: channels [channel, channel + channels) of a group */
    int64_t segment, line, line_end, column, column_end; /* the block of pixels */
    int64_t chunk;                              /* the first unit of the chunk */
    struct cr_step apart;                       /* from each step to the next, if that is even */
    int even;
};

/* ---- the operands ---- */

/* A line of dy by its coordinates, which are counted on: a division for each would cost as much as its products. */
struct place {
    int64_t line, image, depth, height;
};

static struct place first_line(const struct walk *walk)
{
    const int64_t height = walk->plan->axis[1].targets, depth = walk->plan->axis[0].targets;
    return (struct place){walk->line, walk->line / (height * depth), walk->line / height % depth, walk->line % height};
}

static void next_line(const struct plan *plan, struct place *at)
{
    at->line++;
    if (++at->height < plan->axis[1].targets) return;
    at->height = 0;
    if (++at->depth < plan->axis[0].targets) return;
    at->depth = 0;
    at->image++;
}

/* Where a line of dy lies in place; packed, the lines of a block have width_block pixels each, in x and in dy. */
static int64_t place_in_dy(const struct plan *plan, const struct place *at)
{
    return at->image * plan->dy->batch + at->depth * plan->dy->space[0] + at->height * plan->dy->space[1];
}

static int64_t packed_pixel(const struct walk *walk, const struct place *at)
{
    return (at->line - walk->line) * walk->plan->width_block;
}

/* Whether tap (td, th) of a line meets the image, and where: the row of its slice, and the offset. */
static int find_in_x(const struct plan *plan, const struct place *at, int64_t td, int64_t th, int64_t *row,
                     int64_t *offset)
{
    const int64_t d = cr_axis_source(&plan->axis[0], at->depth, td);
    *row = cr_axis_source(&plan->axis[1], at->height, th);
    *offset = at->image * plan->x->batch + d * plan->x->space[0] + *row * plan->x->space[1];
    return d >= 0 && *row >= 0;
}

/* The rows of the slices that a tap (td, ...) of the lines sees, one slice after the other. */
static int64_t row_of_x(const struct plan *plan, const struct place *at, int64_t row)
{
    return (at->image * plan->axis[0].targets + at->depth) * plan->axis[1].sources + row;
}

/* The panel's first channel of dy. */
static int64_t panel_of_dy(const struct walk *walk)
{
    return walk->group * walk->plan->out_channels + walk->channel;
}

/* `channels` channels of dy from the panel's first on: the panels of a batch. */
static void pack_dy(const struct walk *walk, int64_t channels)
{
    const struct plan *plan = walk->plan;
    const struct cr_tensor *dy = plan->dy;
    const int64_t size = plan->kernels->size, columns = plan->kernels->columns;

    /* Lines of a slice that follow each other are one. */
    const int64_t pixels = walk->column_end - walk->column;
    const int one_line = pixels == plan->width_block && dy->space[1] == pixels * dy->space[2];

    for (struct place at = first_line(walk); at.line < walk->line_end;) {
        const int64_t from = place_in_dy(plan, &at) + walk->column * dy->space[2];
        const int64_t lines =
            one_line ? cr_smaller(walk->line_end - at.line, plan->axis[1].targets - at.height) : 1;
        const struct cr_panels panels = {.data = cr_at(walk->packed_dy, packed_pixel(walk, &at) * columns, size),
                                         .width = plan->panel_channels,
                                         .row = columns,
                                         .next = plan->panel_elements,
                                         .fold = 1};
        plan->kernels->pack(&panels, cr_at(dy->data, from + panel_of_dy(walk) * dy->channel, size), lines * pixels,
                            channels, dy->space[2], dy->channel);
        for (int64_t line = 0; line < lines; line++) next_line(plan, &at);
    }
}

/* The tiles of x in the chunk, each as [pixel][row]: for a kernel of one tap, so that every element has one place. */
static void pack_x(const struct walk *walk, int64_t chunk_end)
{
    const struct plan *plan = walk->plan;
    const struct cr_tensor *x = plan->x;
    const int64_t size = plan->kernels->size, rows = plan->row_block, first = walk->chunk * rows;
    const int64_t channels = cr_smaller(plan->rows, chunk_end * rows) - first;
    const int64_t x_step = cr_axis_source_step(&plan->axis[2]) * x->space[2];
    int64_t column = walk->column, pixels, source, from;

    for (; (pixels = cr_axis_tap_run(&plan->axis[2], 0, &column, walk->column_end, &source)) > 0; column += pixels)
        for (struct place at = first_line(walk); at.line < walk->line_end; next_line(plan, &at)) {
            int64_t row;
            if (!find_in_x(plan, &at, 0, 0, &row, &from)) continue;
            const int64_t pixel = packed_pixel(walk, &at) + column - walk->column;
            const struct cr_panels panels = {.data = cr_at(walk->packed_x, pixel * rows, size),
                                             .width = rows,
                                             .row = rows,
                                             .next = PIXELS * rows,
                                             .fold = 1};
            plan->kernels->pack(&panels, cr_at(x->data, from + source * x->space[2] + first * x->channel, size),
                                pixels, channels, x_step, x->channel);
        }
}

/* The panel's first channel of x. */
static int64_t panel_of_x(const struct walk *walk)
{
    const struct plan *plan = walk->plan;
    return plan->diagonal ? walk->channel / plan->out_channels * plan->in_channels
                          : walk->group * plan->in_channels + (plan->stages_group ? 0 : walk->channel);
}

/* No row of the block of pixels is in the copy, unless it is of what another panel has seen. */
static void open_stage(struct walk *walk, int64_t slice)
{
    const struct plan *plan = walk->plan;
    const int64_t panel = plan->stages_group ? 0 : walk->channel / plan->panel_channels;
    const int64_t number = (walk->group * plan->panels_of_group + panel) * plan->axis[0].kernel + slice;

    if (number == walk->stage_number) return;
    walk->stage_number = number;
    memset(walk->staged, 0, (size_t)plan->stage_rows);
}

/* Copies the channels of a row of x, at offset, unless another tap has seen it, and returns where; the rows that follow
 * it in memory are copied with it. */
static int64_t stage_row(const struct walk *walk, int64_t row, int64_t offset, int64_t columns)
{
    const struct plan *plan = walk->plan;
    const struct cr_tensor *x = plan->x;
    const int64_t size = plan->kernels->size, pixel = plan->stage_pixel, number = row - walk->stage_row;
    const int64_t to = number * plan->stage_columns * pixel;
    void *const target = cr_at(walk->stage, to, size);
    const void *const source =
        cr_at(x->data, offset + walk->stage_column * x->space[2] + panel_of_x(walk) * x->channel, size);

    assert(number >= 0 && number < plan->stage_rows && columns <= plan->stage_columns);
    if (walk->staged[number]) return to;
    /* Rows of a slice that follow each other are one, if they are too short to fill vectors. */
    const int64_t apart = plan->spread_pixel, height = plan->axis[1].sources;
    const int one_line = !apart && columns < 4 * plan->kernels->lanes && columns == plan->axis[2].sources &&
                         columns == plan->stage_columns && x->space[1] == columns * x->space[2];
    const int64_t most = one_line ? cr_smaller(height - row % height, plan->stage_rows - number) : 1;
    int64_t rows = 1;
    while (rows < most && !walk->staged[number + rows]) rows++;
    memset(walk->staged + number, 1, (size_t)rows);
    if (apart)
        plan->kernels->pack(&(struct cr_panels){.data = walk->spread_row, .width = apart, .row = apart, .fold = 1},
                            source, columns, walk->channels / plan->out_channels * plan->in_channels, x->space[2],
                            x->channel);
    if (plan->spreads)
        plan->kernels->spread(&(struct cr_spread){.source = apart ? walk->spread_row : source,
                                                  .target = target,
                                                  .rows = rows * columns,
                                                  .n = walk->channels,
                                                  .in_channels = plan->in_channels,
                                                  .out_channels = plan->out_channels,
                                                  .source_row = apart ? apart : x->space[2],
                                                  .target_row = pixel,
                                                  .below = plan->panel_channels});
    else
        plan->kernels->pack(&(struct cr_panels){.data = target, .width = pixel, .row = pixel, .fold = 1}, source,
                            rows * columns, plan->stages_group ? plan->in_channels : walk->channels, x->space[2],
                            x->channel);
    return to;
}

/* A step for each line of the block in which tap (td, th) meets the image. */
static void list_lines(struct walk *walk, int64_t td, int64_t th)
{
    const struct plan *plan = walk->plan;
    struct place at = first_line(walk);
    int64_t steps = 0, row, offset, columns_end = 0, rows_end;

    if (plan->stages_x) {
        cr_axis_reach(&plan->axis[1], at.height, at.height + 1, &walk->stage_row, &rows_end);
        walk->stage_row = row_of_x(plan, &at, walk->stage_row);
        cr_axis_reach(&plan->axis[2], walk->column, walk->column_end, &walk->stage_column, &columns_end);
    }
    walk->even = 1;
    for (; at.line < walk->line_end; next_line(plan, &at)) {
        struct cr_step *const step = &walk->steps[steps];
        if (!find_in_x(plan, &at, td, th, &row, &offset)) continue;
        const int64_t in_x =
            plan->packs_x    ? packed_pixel(walk, &at) * plan->row_block
            : plan->stages_x ? stage_row(walk, row_of_x(plan, &at, row), offset, columns_end - walk->stage_column)
                             : offset;
        const int64_t in_dy =
            plan->packs_dy ? packed_pixel(walk, &at) * plan->kernels->columns : place_in_dy(plan, &at);
        *step = plan->exchanged ? (struct cr_step){.a = in_dy, .b = in_x} : (struct cr_step){.a = in_x, .b = in_dy};
        if (steps == 1) walk->apart = (struct cr_step){.a = step->a - step[-1].a, .b = step->b - step[-1].b};
        if (steps > 1 && (step->a - step[-1].a != walk->apart.a || step->b - step[-1].b != walk->apart.b))
            walk->even = 0;
        steps++;
    }
    walk->step_count = steps;
}

/* ---- the products ---- */

/* Rows of the product, [row, row_end), and columns of dy, from `column` on; tap `tap` of the row of the kernel sees
 * the first of them at source. */
struct piece {
    int64_t row, row_end, tap, column, pixels, source;
};

/* What the tile will write or add to is on its way from the last cache while the products are computed. */
static void prefetch_c(const struct cr_tile *tile, const struct cr_kernels *kernels)
{
    for (int r = 0; r < tile->m; r++)
        for (int column = 0; column < tile->n; column += kernels->lanes)
            __builtin_prefetch(cr_at(tile->c, r * tile->c_row + column * tile->c_column, kernels->size));
}

/* Lines that go on where the one before ends, or of one term each and evenly apart, are one step. */
static void join_steps(const struct walk *walk, struct cr_tile *tile, struct cr_step *first)
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
static void *row_of_dw(const struct walk *walk, int64_t tap, int64_t row)
{
    const struct plan *plan = walk->plan;
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
static struct operand operand_x(const struct walk *walk, const struct piece *piece, int64_t channel)
{
    const struct plan *plan = walk->plan;
    const struct cr_tensor *x = plan->x;
    const int64_t size = plan->kernels->size, source_step = cr_axis_source_step(&plan->axis[2]);

    if (plan->packs_x) {
        const int64_t pixel = (piece->row / plan->row_block - walk->chunk) * PIXELS + piece->column - walk->column;
        return (struct operand){cr_at(walk->packed_x, pixel * plan->row_block, size), plan->row_block};
    }
    if (plan->stages_x) {
        const int64_t row = plan->spreads ? channel * plan->panel_channels : plan->stages_group ? channel : 0;
        const int64_t from = (piece->source - walk->stage_column) * plan->stage_pixel + row;
        return (struct operand){cr_at(walk->stage, from, size), source_step * plan->stage_pixel};
    }
    channel = plan->diagonal || plan->exchanged ? panel_of_x(walk) : walk->group * plan->in_channels + channel;
    return (struct operand){cr_at(x->data, channel * x->channel + piece->source * x->space[2], size),
                            source_step * x->space[2]};
}

static struct operand operand_dy(const struct walk *walk, const struct piece *piece, int64_t channel)
{
    const struct plan *plan = walk->plan;
    const struct cr_tensor *dy = plan->dy;
    const int64_t size = plan->kernels->size, columns = plan->kernels->columns;

    if (plan->packs_dy)
        return (struct operand){cr_at(walk->panel, (piece->column - walk->column) * columns, size), columns};
    channel = plan->exchanged ? walk->group * plan->out_channels + channel : panel_of_dy(walk);
    return (struct operand){cr_at(dy->data, channel * dy->channel + piece->column * dy->space[2], size), dy->space[2]};
}

static void run_tile(const struct walk *walk, const struct piece *piece, int accumulate)
{
    const struct plan *plan = walk->plan;
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
        .c_row = plan->dw_row,
        .c_column = plan->dw_column,
        .m = (int)(piece->row_end - piece->row),
        .n = (int)walk->channels,
        .accumulate = accumulate,
    };
    join_steps(walk, &tile, &first);
    prefetch_c(&tile, plan->kernels);
    (plan->diagonal ? plan->kernels->diagonal : plan->kernels->product)(&tile);
}

/* The same along pixels, added to walk->sums: `vectors` times so many pixels of a line as a tile has columns, or less
 * than that once. An x that is the same everywhere, of strides 0, is a product's A. */
static void add_pixels(const struct walk *walk, const struct piece *piece, int64_t vectors, int64_t pixels)
{
    const struct plan *plan = walk->plan;
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

static void run_pixels(const struct walk *walk, struct piece piece)
{
    const int64_t columns = walk->plan->kernels->columns, vectors = piece.pixels / columns;

    if (vectors) add_pixels(walk, &piece, vectors, columns);
    piece.column += vectors * columns;
    piece.source += vectors * columns;
    if (piece.pixels % columns) add_pixels(walk, &piece, 1, piece.pixels % columns);
}

/* dw = or += the lanes of walk->sums, added up: a product with ones. */
static void add_lanes(const struct walk *walk, int64_t row, int64_t row_end, int accumulate)
{
    const struct plan *plan = walk->plan;
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

static void run_piece(const struct walk *walk, const struct piece *piece, int accumulate)
{
    if (walk->plan->along_pixels)
        run_pixels(walk, *piece);
    else
        run_tile(walk, piece, accumulate);
}

/* Rows [row, row_end), one tile, of the group of taps over the block of pixels: first the columns that all their taps
 * see, then for each tap what is left of its own, at the borders. first: nothing is in dw yet. */
static void run_rows(const struct walk *walk, int64_t row, int64_t row_end, int first)
{
    const struct plan *plan = walk->plan;
    const struct cr_axis *width = &plan->axis[2];
    const int64_t C = plan->row_channels, end = walk->column_end, source_step = cr_axis_source_step(width);
    const int64_t low = row / C, high = (row_end - 1) / C;
    struct piece inner = {.column = walk->column};
    int64_t source;

    if (high > low) { /* the highest tap leaves the image first, the lowest enters it last */
        int64_t last = walk->column, column = walk->column;
        last += cr_axis_tap_run(width, walk->tw + high, &last, end, &source);
        if (cr_axis_tap_run(width, walk->tw + low, &column, end, &source) > 0 && column < last) {
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
        struct piece piece = {
            .row = cr_larger(row, tap * C), .row_end = cr_smaller(row_end, (tap + 1) * C), .tap = tap};
        int64_t column = walk->column, pixels;
        int begin = first;
        for (; (pixels = cr_axis_tap_run(width, walk->tw + tap, &column, end, &source)) > 0; column += pixels)
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
static void run_units(struct walk *walk, int64_t unit, int64_t end, int first)
{
    const struct plan *plan = walk->plan;
    const struct cr_tensor *dw = plan->dw;
    const int64_t kh = plan->axis[1].kernel, row_units = plan->axis[2].kernel / plan->joined * plan->blocks;

    while (unit < end) {
        const int64_t kernel_row = unit / row_units, row_end = cr_smaller(end, (kernel_row + 1) * row_units);
        const int64_t td = kernel_row / kh, th = kernel_row % kh;
        if (plan->stages_x) open_stage(walk, td);
        list_lines(walk, td, th);
        for (; unit < row_end; unit++) {
            const int64_t row = unit % plan->blocks * plan->row_block;
            const int64_t end_of_rows = cr_smaller(row + plan->row_block, plan->rows);
            walk->tw = unit % row_units / plan->blocks;
            walk->dw_offset = td * dw->space[0] + th * dw->space[1] + walk->tw * dw->space[2];
            if (plan->along_pixels) memset(walk->sums, 0, (size_t)plan->sums_bytes);
            run_rows(walk, row, end_of_rows, first);
            if (plan->along_pixels) add_lanes(walk, row, end_of_rows, !first);
        }
    }
}

/* The block of pixels under the chunk, for what of it is the part's, [start, end) of panels times units. */
static void run_chunk(struct walk *walk, int64_t start, int64_t end, int first)
{
    const struct plan *plan = walk->plan;
    const int64_t units = plan->units, chunk_end = cr_smaller(walk->chunk + plan->chunk, units);
    int64_t packed_end = 0; /* panels up to there are packed */

    if (plan->packs_x) pack_x(walk, chunk_end);
    for (int64_t panel = start / units; panel * units < end; panel++) {
        const int64_t from = cr_larger(walk->chunk, start - panel * units);
        const int64_t to = cr_smaller(chunk_end, end - panel * units), number = panel % plan->panels_of_group;
        if (from >= to) continue;
        walk->group = panel / plan->panels_of_group;
        walk->channel = number * plan->panel_channels;
        walk->channels = cr_smaller(plan->panel_channels, plan->vector_channels - walk->channel);
        if (plan->packs_dy && panel >= packed_end) {
            const int64_t batch = cr_smaller(plan->batch, cr_ceil_div(end - walk->chunk, units) - panel);
            pack_dy(walk, cr_smaller(batch * plan->panel_channels, plan->vector_channels - walk->channel));
            packed_end = cr_smaller(panel + batch, panel + plan->panels_of_group - number);
            walk->panel = walk->packed_dy;
        } else if (plan->packs_dy)
            walk->panel = cr_at(walk->panel, plan->panel_elements, plan->kernels->size);
        run_units(walk, from, to, first);
    }
}

/* The lines of the walk's segment, for what of it is the part's, [start, end) of panels times units. Once through even
 * where there are no lines, N = 0: dw is zero then. */
static void run_segment(struct walk *walk, int64_t start, int64_t end)
{
    const struct plan *plan = walk->plan;
    const int64_t line_end = cr_smaller(
        plan->lines, cr_cut(plan->line_blocks, (int)walk->segment + 1, plan->segments) * plan->line_block);
    int first = 1;

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
    const struct plan *plan = context;
    const int64_t units = plan->panels * plan->units, end = cr_cut(plan->segments * units, part + 1, parts);
    char *workspace = plan->workspace + part * plan->part_bytes;
    struct walk walk = {
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
    const struct plan *plan = context;
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

/* ---- the plan ---- */

/* Rows and columns of a copy of what the taps of a slice of the kernel read of x in a block of pixels: each line its
 * stride, and each slice of x that the block meets what the kernel spans. */
static void size_stage(struct plan *plan, const struct cr_conv *conv)
{
    const struct cr_axis *height = &plan->axis[1];
    const int64_t columns = cr_smaller(conv->out[2], PIXELS), lines = PIXELS / columns;
    const int64_t slices = cr_smaller(conv->N * plan->axis[0].targets, (lines - 1) / height->targets + 2);

    plan->stage_rows = lines * height->stride + slices * cr_axis_sources(height, 1);
    plan->stage_columns = cr_axis_sources(&plan->axis[2], columns);
}

/* Its bytes, with pixels of so many elements. */
static int64_t stage_bytes(const struct plan *plan, int64_t pixel)
{
    return plan->stage_rows * plan->stage_columns * pixel * plan->kernels->size;
}

/* Whether x can be copied, and that much. */
static int can_stage(const struct plan *plan, const struct cr_conv *conv, int64_t pixel)
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
static void plan_tiles(struct plan *plan, const struct cr_conv *conv)
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
static void plan_pixels(struct plan *plan, const struct cr_conv *conv, const struct cr_tensor *dw)
{
    const struct cr_kernels *kernels = plan->kernels;
    const int64_t taps = conv->kernel[0] * conv->kernel[1] * conv->kernel[2];
    const int64_t pixels = PIXELS * (plan->along_pixels ? kernels->columns : 1); /* as many to an accumulator */

    plan->lines = conv->N * conv->out[0] * conv->out[1];
    plan->width = conv->N ? conv->out[2] : 1; /* without images, once through, to write zeros */
    plan->width_block = cr_smaller(plan->width, pixels);
    plan->line_block = cr_smaller(PIXELS, pixels / plan->width_block);
    plan->line_blocks = cr_ceil_div(plan->lines, plan->line_block);

    plan->segments = 1;
    plan->segment_elements = 0;
    if (plan->tiles < FEW && taps * plan->in_channels * conv->K <= SEGMENT_ELEMENTS)
        plan->segments = (int)cr_larger(1, cr_smaller(plan->line_blocks, cr_ceil_div(SHARES, plan->tiles)));
    plan->dw = plan->caller_dw = dw;
    /* Where out-channels lie apart in dw, each tile would transpose what it adds to there and back. Of 1,152 channels
     * 7x7 with 5x5 kernels 155 us, that way 73; 64 images 32x32 of 64 channels, 4x4 to 128, 22.8 ms and 18.9. Few
     * pixels are few tiles: 16 images 8x8, 0.62 and 1.03. */
    const int64_t outputs = conv->N * conv->out[0] * conv->out[1] * conv->out[2];
    const int often = plan->diagonal || (taps > 1 && conv->groups == 1 && !plan->along_pixels && !plan->exchanged &&
                                         outputs > PIXELS);
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
static void plan_operands(struct plan *plan, const struct cr_conv *conv)
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
    const int64_t tile_of_x = (int64_t)PIXELS * plan->row_block * kernels->size;
    const int64_t chunk = plan->packs_x ? cr_larger(1, PACKED_X_BYTES / tile_of_x) : plan->units;
    plan->chunk = cr_ceil_div(plan->units, cr_ceil_div(plan->units, chunk));
    plan->panel_elements = (int64_t)PIXELS * kernels->columns;
    plan->batch = cr_smaller(plan->panels_of_group, BATCH_BYTES / (plan->panel_elements * kernels->size));

    plan->x_offset = plan->packs_dy ? plan->batch * plan->panel_elements * kernels->size : 0;
    plan->steps_offset = plan->x_offset + cr_ceil_div(plan->packs_x ? plan->chunk * tile_of_x : 0, 64) * 64;
    plan->sums_offset = plan->steps_offset + cr_ceil_div(plan->line_block * (int64_t)sizeof(struct cr_step), 64) * 64;
    plan->sums_bytes = plan->along_pixels ? plan->row_block * kernels->columns * kernels->size : 0;
    plan->staged_offset = plan->sums_offset + cr_ceil_div(plan->sums_bytes, 64) * 64;
    plan->stage_offset = plan->staged_offset + cr_ceil_div(plan->stages_x ? plan->stage_rows : 0, 64) * 64;
    const int64_t stage = plan->stages_x ? stage_bytes(plan, plan->stage_pixel) : 0;
    plan->spread_offset = plan->stage_offset + cr_ceil_div(stage, 64) * 64;
    const int64_t spread_row = plan->stage_columns * plan->spread_pixel * kernels->size;
    plan->part_bytes = plan->spread_offset + cr_ceil_div(spread_row, 64) * 64;
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
    return dw->channel == 1 && dw->batch != 1 && conv->groups == 1 && conv->C * conv->K > SEGMENT_ELEMENTS &&
           ((x->channel == 1 && dy->channel == 1) || conv->N * conv->out[0] * conv->out[1] * conv->out[2] <= PIXELS);
}

enum cr_status cr_conv_backward_weights(const struct cr_conv *conv, const struct cr_tensor *dy,
                                        const struct cr_tensor *x, const struct cr_tensor *dw)
{
    static const float one_f32 = 1;
    static const double one_f64 = 1;
    const enum cr_status status = cr_conv_check(conv);
    if (status != CR_OK) return status;
    if (cr_conv_weights_choice(conv) == CR_WINOGRAD) return cr_winograd_weights(conv, dy, x, dw);
    if (changes_places(conv, dy, x, dw)) {
        struct cr_conv exchanged = *conv;
        exchanged.C = conv->K;
        exchanged.K = conv->C;
        const struct cr_tensor transposed = {.data = dw->data, .batch = dw->channel, .channel = dw->batch};
        return cr_conv_backward_weights(&exchanged, x, dy, &transposed);
    }

    struct plan plan = {
        .kernels = cr_kernels(conv->dtype),
        .dy = dy,
        .x = x,
        .one = conv->dtype == CR_FLOAT32 ? (const void *)&one_f32 : (const void *)&one_f64,
    };
    for (int axis = 0; axis < 3; axis++) cr_axis_open(&plan.axis[axis], conv, axis, 0);
    plan_tiles(&plan, conv);
    plan_pixels(&plan, conv, dw);
    plan_operands(&plan, conv);

    const double taps = (double)conv->kernel[0] * (double)conv->kernel[1] * (double)conv->kernel[2];
    const double operations =
        (double)plan.lines * (double)plan.width * taps * (double)plan.in_channels * (double)conv->K;
    /* As in cr_gather. */
    const double weighed = plan.diagonal || plan.in_channels == 1 ? 4 * operations : operations;
    const int parts = (int)cr_smaller(cr_parts(weighed), plan.segments * plan.panels * plan.units);
    const int64_t sums_elements = plan.segments * plan.segment_elements;
    plan.workspace = cr_allocate(parts * plan.part_bytes + sums_elements * plan.kernels->size);
    if (!plan.workspace) return CR_OUT_OF_MEMORY;
    plan.segment_dw.data = plan.workspace + parts * plan.part_bytes;
    cr_parallel(parts, run_part, &plan);
    if (plan.copies_dw)
        cr_parallel((int)cr_smaller(cr_parts((double)sums_elements), plan.in_channels), add_segments, &plan);
    cr_release(plan.workspace);
    return CR_OK;
}
