/* What the forward and the backward walk over time share. */
#include "recurrent.h"

/* ---- the products of a step ---- */

enum cr_status cr_operand_open(struct cr_operand *operand, const struct cr_kernels *kernels, const void *data,
                               int64_t k, int64_t n, int64_t stride_k, int64_t stride_n, int64_t rows,
                               int64_t products)
{
    /* A packed matrix is read several times as fast by tiles of many rows: rows of the original that lie a power of two
     * apart share a few cache sets. One row streams the original just as well. Packing costs about four products. */
    const int packs = stride_n != 1 || (rows > 1 && products > 4);
    const int64_t columns = kernels->columns;
    int64_t elements;

    *operand = (struct cr_operand){.data = data, .k = k, .n = n, .stride_k = stride_k};
    operand->width = rows == 1 ? kernels->row_columns : columns;
    operand->panel = operand->width;
    if (!packs) return CR_OK;

    /* For one row, as one matrix whose rows are as long as they come; else in panels as wide as a tile. */
    const int64_t padded = cr_ceil_div(n, columns) * columns;
    if (cr_multiply_add(k, padded * kernels->size, 0, &elements)) elements = -1;
    if (!(operand->packed = cr_allocate(elements))) return CR_OUT_OF_MEMORY;
    operand->data = operand->packed;
    operand->stride_k = rows == 1 ? padded : columns;
    operand->panel = rows == 1 ? operand->width : k * columns;
    const struct cr_panels panels = {
        .data = operand->packed, .width = operand->width, .row = operand->stride_k, .next = operand->panel, .fold = 1};
    kernels->pack(&panels, data, k, n, stride_k, stride_n);
    return CR_OK;
}

void cr_operand_product(const struct cr_operand *operand, const struct cr_kernels *kernels, int64_t m, const void *a,
                        int64_t a_row, void *c, int64_t c_row, int accumulate, const void *bias)
{
    static const struct cr_step step = {0, 0};
    const int64_t size = kernels->size, blocks = cr_ceil_div(m, kernels->rows);
    struct cr_tile tile = {
        .steps = &step,
        .batch = 1,
        .k = operand->k,
        .a_row = a_row,
        .a_k = 1,
        .b_k = operand->stride_k,
        .c_row = c_row,
        .c_column = 1,
        .accumulate = accumulate,
    };
    for (int64_t j = 0, panel = 0; j < operand->n; j += operand->width, panel += operand->panel) {
        tile.n = (int)cr_smaller(operand->width, operand->n - j);
        tile.b = cr_at(operand->data, panel, size);
        tile.bias_column = bias ? cr_at(bias, j, size) : NULL;
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t row = cr_cut(m, block, blocks);
            tile.m = (int)(cr_cut(m, block + 1, blocks) - row);
            tile.a = cr_at(a, row * a_row, size);
            tile.c = cr_at(c, row * c_row + j, size);
            kernels->product(&tile);
        }
    }
}

/* ---- the products over all steps ---- */

struct cr_tensor cr_series_image(const void *data, int64_t time, int64_t row, int64_t column)
{
    return (struct cr_tensor){.data = (void *)(uintptr_t)data, .channel = column, .space = {0, time, row}};
}

struct cr_conv cr_series_conv(const struct cr_recurrence *r, int64_t steps, int64_t C, int64_t K)
{
    const int64_t B = r->sequence->B;
    struct cr_conv conv = {.dtype = r->sequence->dtype, .N = steps && B, .C = C, .K = K, .groups = 1};
    for (int axis = 0; axis < 3; axis++) {
        conv.in[axis] = conv.out[axis] = cr_larger(1, axis == 0 ? 1 : axis == 1 ? steps : B);
        conv.kernel[axis] = conv.stride[axis] = conv.dilation[axis] = 1;
    }
    return conv;
}

/* ---- rows and steps ---- */

enum cr_status cr_recurrent_check(const struct cr_recurrence *r)
{
    const struct cr_sequence *s = r->sequence;
    int64_t steps, most;

    if (s->dtype != CR_FLOAT32 && s->dtype != CR_FLOAT64)
        return cr_fail(CR_INVALID_ARGUMENT, "dtype must be CR_FLOAT32 or CR_FLOAT64, got %d", (int)s->dtype);
    if (s->T < 0 || s->B < 0)
        return cr_fail(CR_INVALID_ARGUMENT, "T and B must be at least 0, got %lld and %lld", (long long)s->T,
                       (long long)s->B);
    if (s->inputs < 1 || s->H < 1 || s->P < 0)
        return cr_fail(CR_INVALID_ARGUMENT, "I and H must be at least 1 and P at least 0, got %lld, %lld and %lld",
                       (long long)s->inputs, (long long)s->H, (long long)s->P);
    if ((int)s->activation < CR_IDENTITY || s->activation > CR_SIGMOID)
        return cr_fail(CR_INVALID_ARGUMENT, "activation has no meaning: %d", (int)s->activation);
    for (int64_t b = 0; s->lengths && b < s->B; b++)
        if (s->lengths[b] < 0 || s->lengths[b] > s->T)
            return cr_fail(CR_INVALID_ARGUMENT, "lengths[%lld] must be in 0..%lld, got %lld", (long long)b,
                           (long long)s->T, (long long)s->lengths[b]);
    /* Room for a byte count of everything that is as long as the sequence, and of the weights. */
    if (s->T == INT64_MAX || cr_multiply_add(s->T + 1, s->B, 1, &steps) ||
        cr_multiply_add(cr_larger(cr_larger(s->inputs, s->H), s->P), 8 * r->gates, 0, &most) ||
        cr_multiply_add(steps, most, 0, &steps) || cr_multiply_add(most, most, 0, &most))
        return cr_fail(CR_OVERFLOW, "the number of elements of x, y or a weight does not fit 63 bits");
    return CR_OK;
}

int cr_recurrent_run(const struct cr_recurrence *r, int64_t t, int64_t row, int64_t rows, int64_t *end)
{
    const int64_t *lengths = r->sequence->lengths;
    if (!lengths) {
        *end = rows;
        return 1;
    }
    const int runs = t < lengths[row];
    for (*end = row + 1; *end < rows && (t < lengths[*end]) == runs;) ++*end;
    return runs;
}

void cr_recurrent_walk(struct cr_recurrence *r, void (*part)(void *recurrence, int part, int parts))
{
    const struct cr_sequence *s = r->sequence;
    const double operations = (double)(r->last - r->first) * (double)s->B * r->gates * (double)s->H * (double)r->R;
    cr_parallel((int)cr_smaller(cr_parts(operations), cr_larger(1, s->B)), part, r);
}

struct cr_units cr_units_of(const struct cr_recurrence *r, int64_t t, int64_t row)
{
    const struct cr_sequence *s = r->sequence;
    const int64_t H = s->H, slot = t % r->gate_slots, before = t % r->slots, after = (t + 1) % r->slots;
    struct cr_units units = {
        .n = H,
        .activation = s->activation,
        .reset_after = s->reset_after,
        .gates = cr_row_of(r, r->gate_values, slot, row, r->gates * H),
        .h_before = cr_row_of(r, r->h, before, row, r->R),
        .h = cr_row_of(r, r->h, after, row, r->R),
    };
    if (r->has_extra) units.extra = cr_row_of(r, r->extra, slot, row, H);
    if (r->has_c) {
        units.c_before = cr_row_of(r, r->c, before, row, H);
        units.c = cr_row_of(r, r->c, after, row, H);
    }
    if (r->dgates) {
        units.dgates = cr_row_of(r, r->dgates, t, row, r->gates * H);
        units.dh = cr_row_of(r, r->dm ? r->dm : r->dh, 0, row, H);
        if (r->has_c) units.dc = cr_row_of(r, r->dc, 0, row, H);
        if (r->dextra) units.dextra = cr_row_of(r, r->dextra, t, row, H);
    }
    return units;
}
