/* One axis of a convolution: which taps of the kernel a target sees, and where in the input they lie. Padding, its
 * modes and their adjoints, stride phases and dilation are all here; no operator knows of them. */
#include <stdlib.h>

#include "conv.h"

/* Remainder of a / b in [0, b). */
static int64_t modulo(int64_t a, int64_t b)
{
    const int64_t r = a % b;
    return r < 0 ? r + b : r;
}

/* The cell of an image of extent n that stands for cell i beyond or inside it; -1 for zeros. The rules of numpy.pad,
 * which goes on reflecting past the far side. */
static int64_t folded(int64_t i, int64_t n, enum cr_pad_mode mode)
{
    if (i >= 0 && i < n) return i;
    switch (mode) {
    case CR_PAD_EDGE: return i < 0 ? 0 : n - 1;
    case CR_PAD_WRAP: return modulo(i, n);
    case CR_PAD_SYMMETRIC:
        i = modulo(i, 2 * n);
        return i < n ? i : 2 * n - 1 - i;
    case CR_PAD_REFLECT:
        if (n == 1) return 0;
        i = modulo(i, 2 * n - 2);
        return i < n ? i : 2 * n - 2 - i;
    case CR_PAD_CONSTANT: break;
    }
    return -1;
}

static int compare_borders(const void *left, const void *right)
{
    const struct cr_border *a = left, *b = right;
    if (a->target != b->target) return a->target < b->target ? -1 : 1;
    if (a->tap != b->tap) return a->tap < b->tap ? -1 : 1;
    return a->source < b->source ? -1 : a->source > b->source;
}

/* The pairs of the forward pass that read a cell beyond the image, turned round: the adjoint of the padding. */
static enum cr_status open_border(struct cr_axis *axis)
{
    const int64_t outputs = axis->sources, image = axis->targets;
    const int64_t reach = (axis->kernel - 1) * axis->dilation;
    /* Outputs [0, inside) begin before the image, outputs [beyond, outputs) end past it. */
    const int64_t inside = cr_smaller(cr_ceil_div(axis->low, axis->stride), outputs);
    const int64_t room = image + axis->low - reach; /* an output at or past it, in input cells, ends past the image */
    const int64_t beyond = room <= 0 ? 0 : cr_smaller(cr_ceil_div(room, axis->stride), outputs);
    int64_t most, bytes;

    if (cr_multiply_add(inside + outputs - cr_larger(beyond, inside), axis->kernel, 0, &most) ||
        cr_multiply_add(most, sizeof *axis->border, 0, &bytes))
        bytes = -1;
    if (bytes == 0) return CR_OK;
    if (!(axis->border = cr_allocate(bytes))) return CR_OUT_OF_MEMORY;

    for (int64_t o = 0; o < outputs; o++) {
        if (o == inside && beyond > inside) o = beyond;
        if (o == outputs) break;
        for (int64_t tap = 0; tap < axis->kernel; tap++) {
            const int64_t cell = o * axis->stride + tap * axis->dilation - axis->low;
            if (cell < 0 || cell >= image)
                axis->border[axis->border_count++] =
                    (struct cr_border){.target = folded(cell, image, axis->mode), .tap = tap, .source = o};
        }
    }
    qsort(axis->border, (size_t)axis->border_count, sizeof *axis->border, compare_borders);
    return CR_OK;
}

enum cr_status cr_axis_open(struct cr_axis *axis, const struct cr_conv *conv, int number, int backward)
{
    *axis = (struct cr_axis){
        .targets = backward ? conv->in[number] : conv->out[number],
        .sources = backward ? conv->out[number] : conv->in[number],
        .kernel = conv->kernel[number],
        .stride = conv->stride[number],
        .dilation = conv->dilation[number],
        .low = conv->pad_low[number],
        .phases = backward ? cr_smaller(conv->stride[number], conv->in[number]) : 1,
        .backward = backward,
        .mode = conv->pad_mode,
    };
    return backward && axis->mode != CR_PAD_CONSTANT ? open_border(axis) : CR_OK;
}

void cr_axis_close(struct cr_axis *axis) { cr_release(axis->border); }

int64_t cr_axis_source_step(const struct cr_axis *axis) { return axis->backward ? 1 : axis->stride; }

void cr_axis_reach(const struct cr_axis *axis, int64_t target, int64_t end, int64_t *source, int64_t *source_end)
{
    const int64_t reach = (axis->kernel - 1) * axis->dilation, s = axis->stride;
    const int64_t first = axis->backward ? cr_ceil_div(target + axis->low - reach, s) : target * s - axis->low;
    const int64_t last = axis->backward ? (end - 1 + axis->low) / s : (end - 1) * s + reach - axis->low;
    *source = cr_smaller(axis->sources, cr_larger(0, first));
    *source_end = cr_larger(*source, cr_smaller(axis->sources, last + 1));
}

int64_t cr_axis_sources(const struct cr_axis *axis, int64_t targets)
{
    const int64_t reach = (axis->kernel - 1) * axis->dilation, s = axis->stride;
    const int64_t most = axis->backward ? (targets - 1 + reach) / s + 1 : (targets - 1) * s + reach + 1;
    return cr_smaller(axis->sources, most);
}

int64_t cr_axis_targets(const struct cr_axis *axis, int64_t sources)
{
    const int64_t reach = (axis->kernel - 1) * axis->dilation, s = axis->stride;
    const int64_t most = axis->backward ? sources * s - reach : (sources - reach - 1 + s) / s;
    return sources >= axis->sources ? axis->targets : cr_smaller(axis->targets, cr_larger(0, most));
}

int64_t cr_axis_inside(const struct cr_axis *axis)
{
    const int64_t reach = (axis->kernel - 1) * axis->dilation, s = axis->stride;
    const int64_t first = axis->backward ? reach - axis->low : cr_ceil_div(axis->low, s);
    const int64_t end = axis->backward ? axis->sources * s - axis->low
                                       : cr_ceil_div(axis->sources - reach + axis->low, s);
    return cr_larger(0, cr_ceil_div(cr_smaller(axis->targets, end) - cr_larger(0, first), axis->phases));
}

int64_t cr_axis_source(const struct cr_axis *axis, int64_t target, int64_t tap)
{
    return folded(target * axis->stride + tap * axis->dilation - axis->low, axis->sources, axis->mode);
}

/* The first border pair of a target not before `target`. */
static int64_t find_border(const struct cr_axis *axis, int64_t target)
{
    int64_t first = 0, last = axis->border_count;
    while (first < last) {
        const int64_t middle = first + (last - first) / 2;
        if (axis->border[middle].target < target)
            first = middle + 1;
        else
            last = middle;
    }
    return first;
}

int64_t cr_axis_pairs(const struct cr_axis *axis)
{
    int64_t most = 0;
    for (int64_t i = 0, start = 0; i < axis->border_count; i++) {
        if (axis->border[i].target != axis->border[start].target) start = i;
        most = cr_larger(most, i + 1 - start);
    }
    return axis->kernel + most;
}

/* The taps first, first + skip, ... of a target that hit a cell of what is read or of its padding, with ascending
 * sources first_source, first_source + step, ...; the sources of the next target are axis_source_step further on. */
struct ladder {
    int64_t taps, first_tap, skip, first_source, step;
};

static struct ladder ladder_of(const struct cr_axis *axis, int64_t target)
{
    if (!axis->backward)
        return (struct ladder){axis->kernel, 0, 1, target * axis->stride - axis->low, axis->dilation};

    /* Taps with (target + low - tap*dilation) divisible by stride: every period-th, if any. Euclid's algorithm finds
     * inverse with dilation*inverse = divisor modulo stride, hence the first one. */
    int64_t divisor = axis->stride, rest = axis->dilation, inverse = 0, factor = 1;
    while (rest) {
        const int64_t quotient = divisor / rest, next = divisor % rest, next_factor = inverse - quotient * factor;
        divisor = rest;
        rest = next;
        inverse = factor;
        factor = next_factor;
    }
    const int64_t period = axis->stride / divisor, cell = target + axis->low;
    if (cell % divisor != 0) return (struct ladder){0};
    const int64_t tap = (int64_t)((__int128)(cell / divisor % period) * modulo(inverse, period) % period);
    if (tap >= axis->kernel) return (struct ladder){0};
    const int64_t more = (axis->kernel - 1 - tap) / period, last = tap + more * period;
    return (struct ladder){more + 1, last, -period, (cell - last * axis->dilation) / axis->stride,
                           axis->dilation / divisor};
}

int64_t cr_axis_run(const struct cr_axis *axis, int64_t target, int64_t end, struct cr_pair *pairs, int64_t *count)
{
    const struct ladder ladder = ladder_of(axis, target);
    const int64_t source_step = cr_axis_source_step(axis);
    int64_t run = cr_ceil_div(end - target, axis->phases), pair = 0, low = 0, high = 0;

    if (ladder.taps) { /* rungs [low, high) lie inside what is read */
        low = cr_larger(0, cr_smaller(ladder.taps, cr_ceil_div(-ladder.first_source, ladder.step)));
        high = cr_larger(
            0, cr_smaller(ladder.taps, cr_ceil_div(axis->sources - ladder.first_source, ladder.step)));
        /* The run ends where the highest rung leaves or the one below the lowest enters. */
        if (high > low) {
            const int64_t highest = ladder.first_source + (high - 1) * ladder.step;
            run = cr_smaller(run, (axis->sources - 1 - highest) / source_step + 1);
        }
        if (low > 0) {
            const int64_t below = ladder.first_source + (low - 1) * ladder.step;
            run = cr_smaller(run, cr_ceil_div(-below, source_step));
        }
    }

    if (!axis->backward && axis->mode != CR_PAD_CONSTANT && (low > 0 || high < ladder.taps)) {
        for (; pair < ladder.taps; pair++)
            pairs[pair] = (struct cr_pair){pair, cr_axis_source(axis, target, pair)};
        *count = 1;
        return pair;
    }
    for (int64_t rung = low; rung < high; rung++)
        pairs[pair++] = (struct cr_pair){ladder.first_tap + rung * ladder.skip,
                                         ladder.first_source + rung * ladder.step};

    int64_t border = find_border(axis, target);
    if (border < axis->border_count && axis->border[border].target == target) {
        for (; border < axis->border_count && axis->border[border].target == target; border++)
            pairs[pair++] = (struct cr_pair){axis->border[border].tap, axis->border[border].source};
        run = 1;
    } else if (border < axis->border_count)
        run = cr_smaller(run, cr_ceil_div(axis->border[border].target - target, axis->phases));
    *count = run;
    return pair;
}

int64_t cr_axis_tap_run(const struct cr_axis *axis, int64_t tap, int64_t *target, int64_t end, int64_t *source)
{
    const int64_t start = tap * axis->dilation - axis->low;
    /* Targets [inside, outside) read cells of the image. */
    const int64_t inside = start >= 0 ? 0 : cr_ceil_div(-start, axis->stride);
    const int64_t outside = start >= axis->sources ? 0 : (axis->sources - 1 - start) / axis->stride + 1;

    if (axis->mode == CR_PAD_CONSTANT) *target = cr_larger(*target, inside);
    if (*target >= end) return 0;
    if (*target >= inside && *target < outside) {
        *source = *target * axis->stride + start;
        return cr_smaller(end, outside) - *target;
    }
    if (axis->mode == CR_PAD_CONSTANT) return 0;
    *source = cr_axis_source(axis, *target, tap);
    return 1;
}

void cr_rectangles(const struct cr_axis *axis, int64_t row, int64_t row_end, int64_t column, int64_t column_end,
                   struct cr_rectangle *rectangle, void (*visit)(void *context), void *context)
{
    const int64_t height = axis[1].targets;
    int64_t *const target = rectangle->target, *const count = rectangle->count;

    while (row < row_end) {
        const int64_t h0 = row % height, h1 = cr_smaller(height, h0 + row_end - row);
        target[0] = row / height;
        rectangle->pair_count[0] =
            cr_axis_run(&axis[0], target[0], target[0] + 1, rectangle->pairs[0], &count[0]);
        for (int64_t phase = h0; phase < cr_smaller(h1, h0 + axis[1].phases); phase++)
            for (target[1] = phase; target[1] < h1; target[1] += count[1] * axis[1].phases) {
                rectangle->pair_count[1] = cr_axis_run(&axis[1], target[1], h1, rectangle->pairs[1], &count[1]);
                for (int64_t w = column; w < cr_smaller(column_end, column + axis[2].phases); w++)
                    for (target[2] = w; target[2] < column_end; target[2] += count[2] * axis[2].phases) {
                        rectangle->pair_count[2] =
                            cr_axis_run(&axis[2], target[2], column_end, rectangle->pairs[2], &count[2]);
                        visit(context);
                    }
            }
        row += h1 - h0;
    }
}
