/* What the products of cr_conv_backward_weights read: x and dy where they lie, or copies of them. */
#include <assert.h>
#include <string.h>

#include "conv_backward_weights.h"

/* A line of dy by its coordinates, which are counted on: a division for each would cost as much as its products. */
struct place {
    int64_t line, image, depth, height;
};

static struct place first_line(const struct cr_weights_walk *walk)
{
    const int64_t height = walk->plan->axis[1].targets, depth = walk->plan->axis[0].targets;
    return (struct place){walk->line, walk->line / (height * depth), walk->line / height % depth, walk->line % height};
}

static void next_line(const struct cr_weights_plan *plan, struct place *at)
{
    at->line++;
    if (++at->height < plan->axis[1].targets) return;
    at->height = 0;
    if (++at->depth < plan->axis[0].targets) return;
    at->depth = 0;
    at->image++;
}

/* Where a line of dy lies in place; packed, the lines of a block have width_block pixels each, in x and in dy. */
static int64_t place_in_dy(const struct cr_weights_plan *plan, const struct place *at)
{
    return at->image * plan->dy->batch + at->depth * plan->dy->space[0] + at->height * plan->dy->space[1];
}

static int64_t packed_pixel(const struct cr_weights_walk *walk, const struct place *at)
{
    return (at->line - walk->line) * walk->plan->width_block;
}

/* Whether tap (td, th) of a line meets the image, and where: the row of its slice, and the offset. */
static int find_in_x(const struct cr_weights_plan *plan, const struct place *at, int64_t td, int64_t th, int64_t *row,
                     int64_t *offset)
{
    const int64_t d = cr_axis_source(&plan->axis[0], at->depth, td);
    *row = cr_axis_source(&plan->axis[1], at->height, th);
    *offset = at->image * plan->x->batch + d * plan->x->space[0] + *row * plan->x->space[1];
    return d >= 0 && *row >= 0;
}

/* The rows of the slices that a tap (td, ...) of the lines sees, one slice after the other. */
static int64_t row_of_x(const struct cr_weights_plan *plan, const struct place *at, int64_t row)
{
    return (at->image * plan->axis[0].targets + at->depth) * plan->axis[1].sources + row;
}

void cr_weights_pack_dy(const struct cr_weights_walk *walk, int64_t channels)
{
    const struct cr_weights_plan *plan = walk->plan;
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
        plan->kernels->pack(&panels, cr_at(dy->data, from + cr_weights_panel_of_dy(walk) * dy->channel, size),
                            lines * pixels, channels, dy->space[2], dy->channel);
        for (int64_t line = 0; line < lines; line++) next_line(plan, &at);
    }
}

void cr_weights_pack_x(const struct cr_weights_walk *walk, int64_t chunk_end)
{
    const struct cr_weights_plan *plan = walk->plan;
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
                                             .next = CR_WEIGHTS_PIXELS * rows,
                                             .fold = 1};
            plan->kernels->pack(&panels, cr_at(x->data, from + source * x->space[2] + first * x->channel, size),
                                pixels, channels, x_step, x->channel);
        }
}

void cr_weights_open_stage(struct cr_weights_walk *walk, int64_t slice)
{
    const struct cr_weights_plan *plan = walk->plan;
    const int64_t panel = plan->stages_group ? 0 : walk->channel / plan->panel_channels;
    const int64_t number = (walk->group * plan->panels_of_group + panel) * plan->axis[0].kernel + slice;

    if (number == walk->stage_number) return;
    walk->stage_number = number;
    memset(walk->staged, 0, (size_t)plan->stage_rows);
}

/* Copies the channels of a row of x, at offset, unless another tap has seen it, and returns where; the rows that follow
 * it in memory are copied with it. */
static int64_t stage_row(const struct cr_weights_walk *walk, int64_t row, int64_t offset, int64_t columns)
{
    const struct cr_weights_plan *plan = walk->plan;
    const struct cr_tensor *x = plan->x;
    const int64_t size = plan->kernels->size, pixel = plan->stage_pixel, number = row - walk->stage_row;
    const int64_t to = number * plan->stage_columns * pixel;
    void *const target = cr_at(walk->stage, to, size);
    const void *const source =
        cr_at(x->data, offset + walk->stage_column * x->space[2] + cr_weights_panel_of_x(walk) * x->channel, size);

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

void cr_weights_list_lines(struct cr_weights_walk *walk, int64_t td, int64_t th)
{
    const struct cr_weights_plan *plan = walk->plan;
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
