/* What the forward and the backward walk over time share. */
#include "recurrent.h"

/* ---- products ---- */

/* Terms of a sum that are added into one accumulator, as in a convolution: longer sums are added up in blocks, so that
 * their rounding error does not grow with k, and a block of a panel stays in a second-level cache. */
enum { DEPTH = 1024 };

enum cr_status cr_operand_open(struct cr_operand *operand, const struct cr_kernels *kernels,
                               const struct cr_matrix *matrix, int64_t k, int64_t n, int64_t rows, int64_t products)
{
    /* A packed matrix is read several times as fast by tiles of many rows: rows of the original that lie a power of two
     * apart share a few cache sets. One row streams the original just as well. Packing costs about four products. */
    const int packs = matrix->column != 1 || (rows > 1 && products * cr_ceil_div(rows, kernels->rows) > 4);
    /* What one row needs once takes turns in the room of one panel, which stays in the first-level cache: LSTM
     * 1,1,256,256 from row-major matrices takes 98 us, not 242; with panels as wide as a tile of one row, 108. */
    const int in_turn = packs && rows == 1 && products == 1;
    const int64_t lanes = kernels->lanes;
    const int64_t width = rows > 1 || in_turn ? kernels->columns
                                              : cr_smaller(kernels->row_columns, cr_ceil_div(n, lanes) * lanes);
    int64_t bytes;

    *operand = (struct cr_operand){
        .panels = {.data = matrix->data, .width = width, .row = matrix->row, .next = width}, .k = k, .n = n};
    if (!packs) return CR_OK;

    /* Panels as wide as a tile, one after the other: written and read from their beginning to their end. */
    const int64_t panel = k * width;
    if (cr_multiply_add(in_turn ? 1 : cr_ceil_div(n, width), panel * kernels->size, 0, &bytes)) bytes = -1;
    if (!(operand->packed = cr_allocate(bytes))) return CR_OUT_OF_MEMORY;
    operand->panels = (struct cr_panels){
        .data = operand->packed, .width = width, .row = width, .next = in_turn ? 0 : panel, .fold = 1};
    if (in_turn)
        operand->unpacked = *matrix;
    else
        kernels->pack(&operand->panels, matrix->data, k, n, matrix->row, matrix->column);
    return CR_OK;
}

void cr_operand_close(struct cr_operand *operand) { cr_release(operand->packed); }

void cr_operand_rows(const struct cr_operand *operand, const struct cr_kernels *kernels, const struct cr_rows *rows,
                     const void *a, void *c, int accumulate, const void *bias)
{
    static const struct cr_step step = {0, 0};
    const int64_t size = kernels->size, blocks = cr_ceil_div(rows->inner, kernels->rows);
    struct cr_tile tile = {
        .steps = &step,
        .batch = 1,
        .a_row = rows->a_inner,
        .a_k = rows->a_k,
        .b_k = operand->panels.row,
        .c_row = rows->c_inner,
        .c_column = 1,
    };
    for (int64_t j = 0, panel = 0; j < operand->n; j += operand->panels.width, panel += operand->panels.next) {
        const struct cr_matrix *unpacked = &operand->unpacked;
        if (unpacked->data)
            kernels->pack(&operand->panels, cr_at(unpacked->data, j * unpacked->column, size), operand->k,
                          cr_smaller(operand->panels.width, operand->n - j), unpacked->row, unpacked->column);
        for (int64_t k = 0; k < operand->k; k += DEPTH) {
            tile.n = (int)cr_smaller(operand->panels.width, operand->n - j);
            tile.k = cr_smaller(DEPTH, operand->k - k);
            tile.b = cr_at(operand->panels.data, panel + k * operand->panels.row, size);
            tile.bias_column = bias && k + tile.k == operand->k ? cr_at(bias, j, size) : NULL;
            tile.accumulate = accumulate || k > 0;
            for (int64_t i = 0; i < rows->outer; i++)
                for (int64_t block = 0; block < blocks; block++) {
                    const int64_t row = cr_cut(rows->inner, block, blocks);
                    tile.m = (int)(cr_cut(rows->inner, block + 1, blocks) - row);
                    tile.a = cr_at(a, i * rows->a_outer + row * rows->a_inner + k * rows->a_k, size);
                    tile.c = cr_at(c, i * rows->c_outer + row * rows->c_inner + j, size);
                    kernels->product(&tile);
                }
        }
    }
}

void cr_operand_product(const struct cr_operand *operand, const struct cr_kernels *kernels, int64_t m, const void *a,
                        int64_t a_row, void *c, int64_t c_row, int accumulate, const void *bias)
{
    const struct cr_rows rows = {.outer = 1, .inner = m, .a_inner = a_row, .a_k = 1, .c_inner = c_row};
    cr_operand_rows(operand, kernels, &rows, a, c, accumulate, bias);
}

/* matrix [rows, columns] for the backward pass, its transpose for the forward pass. */
static enum cr_status open_operand(const struct cr_recurrence *r, struct cr_operand *operand, int backward,
                                   const struct cr_matrix *matrix, int64_t first_row, int64_t rows, int64_t columns)
{
    const void *data = cr_at(matrix->data, first_row * matrix->row, r->kernels->size);
    const struct cr_matrix as_it_is = {(void *)(uintptr_t)data, matrix->row, matrix->column};
    const struct cr_matrix transposed = {(void *)(uintptr_t)data, matrix->column, matrix->row};
    return cr_operand_open(operand, r->kernels, backward ? &as_it_is : &transposed, backward ? rows : columns,
                           backward ? columns : rows, r->sequence->B, r->sequence->T);
}

enum cr_status cr_recurrent_open_operands(struct cr_recurrence *r, int backward)
{
    const struct cr_sequence *s = r->sequence;
    enum cr_status status = CR_OK;

    for (int i = 0; i < r->pieces && status == CR_OK; i++)
        status = open_operand(r, &r->operand[i], backward, &r->weights->w_hh, r->piece[i].first * s->H,
                              r->piece[i].gates * s->H, r->R);
    if (status == CR_OK && s->P)
        status = open_operand(r, &r->projection, backward, &r->weights->w_hr, 0, s->P, s->H);
    return status;
}

void cr_recurrent_close_operands(struct cr_recurrence *r)
{
    cr_operand_close(&r->input);
    for (int i = 0; i < r->pieces; i++) cr_operand_close(&r->operand[i]);
    cr_operand_close(&r->projection);
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
