/* What the forward and the backward walk over time share. */
#include "recurrent.h"

/* ---- operands ---- */

struct cr_block cr_recurrent_block(const struct cr_recurrence *r, int number)
{
    const struct cr_sequence *s = r->sequence;
    const struct cr_weights *weights = r->weights;
    const struct cr_piece *piece = &r->piece[number == CR_U_SECOND];

    if (number == CR_W) return (struct cr_block){&weights->w_ih, 0, r->gates * s->H, s->inputs};
    if (number == CR_V) return (struct cr_block){&weights->w_hr, 0, s->P, s->H};
    return (struct cr_block){&weights->w_hh, piece->first * s->H, piece->gates * s->H, r->R};
}

enum cr_status cr_recurrent_open_operands(struct cr_recurrence *r, int backward, int64_t chunk)
{
    const int64_t B = r->sequence->B, T = r->sequence->T, chunks = cr_ceil_div(T, chunk);
    enum cr_status status = CR_OK;

    if (!backward && r->weights->prepared) return cr_recurrent_open_prepared(r);
    for (int i = backward ? CR_U : CR_W; i < CR_OPERANDS && status == CR_OK; i++) {
        const struct cr_block block = cr_recurrent_block(r, i);
        if (!block.rows) continue;
        void *const data = cr_at(block.matrix->data, block.first * block.matrix->row, r->kernels->size);
        const struct cr_matrix as_it_is = {data, block.matrix->row, block.matrix->column};
        const struct cr_matrix transposed = {data, block.matrix->column, block.matrix->row};
        status = cr_operand_open(&r->operand[i], r->kernels, backward ? &as_it_is : &transposed,
                                 backward ? block.rows : block.columns, backward ? block.columns : block.rows,
                                 i == CR_W ? chunk * B : B, i == CR_W ? chunks : T);
    }
    return status;
}

void cr_recurrent_close_operands(struct cr_recurrence *r)
{
    for (int i = 0; i < CR_OPERANDS; i++) cr_operand_close(&r->operand[i]);
}

/* ---- a step ---- */

void cr_recurrent_product(const struct cr_recurrence *r, int number, int64_t m, const void *a, int64_t a_row, void *c,
                          int64_t c_row, int accumulate, const void *bias)
{
    const struct cr_product product = {
        .b = &r->operand[number],
        .rows = {.outer = 1, .inner = m, .a_inner = a_row, .a_k = 1, .c_inner = c_row},
        .a = a,
        .c = c,
        .accumulate = accumulate,
        .bias = bias,
    };
    cr_product(&product, 1);
}

void cr_recurrent_gates(const struct cr_recurrence *r, int64_t t, int64_t row, int64_t m,
                        void (*gates)(const struct cr_units *units))
{
    for (int64_t i = row; i < row + m; i++) {
        const struct cr_units units = cr_units_of(r, t, i);
        gates(&units);
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

enum cr_status cr_recurrent_open(struct cr_recurrence *r)
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
    r->kernels = cr_kernels(s->dtype);
    r->R = s->P ? s->P : s->H;
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
    const int64_t H = s->H, slot = t - r->kept, before = t & r->slots, after = (t + 1) & r->slots;
    struct cr_units units = {
        .n = H,
        .activation = s->activation,
        .reset_after = s->reset_after,
        .gates = cr_row_of(r, r->gate_values, slot, row, r->gates * H),
        .h_before = cr_row_of(r, r->h, before, row, r->R),
        .h = cr_row_of(r, r->h, after, row, r->R),
    };
    if (r->has_extra) units.extra = cr_row_of(r, r->extra, slot, row, H);
    if (s->P) units.h = units.extra; /* to be projected */
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
