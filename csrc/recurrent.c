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

enum cr_status cr_recurrent_open_operands(struct cr_recurrence *r, int backward, int first, int64_t chunk)
{
    const int64_t B = r->sequence->B, T = r->sequence->T, chunks = cr_ceil_div(T, chunk);
    enum cr_status status = CR_OK;

    if (!backward && r->weights->prepared) return cr_recurrent_open_prepared(r);
    for (int i = first; i < CR_OPERANDS && status == CR_OK; i++) {
        const struct cr_block block = cr_recurrent_block(r, i);
        if (!block.rows) continue;
        void *const data = cr_at(block.matrix->data, block.first * block.matrix->row, r->kernels->size);
        const struct cr_matrix as_it_is = {data, block.matrix->row, block.matrix->column};
        const struct cr_matrix transposed = {data, block.matrix->column, block.matrix->row};
        status = cr_operand_open(&r->operand[i], r->kernels, backward ? &as_it_is : &transposed,
                                 backward ? block.rows : block.columns, backward ? block.columns : block.rows,
                                 i == CR_W ? chunk * B : B, i == CR_W ? chunks : T, r->parts);
    }
    return status;
}

void cr_recurrent_close_operands(struct cr_recurrence *r)
{
    for (int i = 0; i < CR_OPERANDS; i++) cr_operand_close(&r->operand[i]);
}

/* ---- a step ---- */

int64_t cr_recurrent_cut(const struct cr_recurrence *r, const struct cr_share *share, int64_t columns, int64_t *end)
{
    const int64_t width = r->kernels->columns, panels = cr_ceil_div(columns, width);
    if (share->parts == 1) { /* no division: a step of 32 units takes 0.1 us */
        *end = columns;
        return 0;
    }
    *end = cr_smaller(columns, cr_cut(panels, share->part + 1, share->parts) * width);
    return cr_cut(panels, share->part, share->parts) * width;
}

/* Columns: the most that one row goes through at once in any table, and whole panels and tiles of all others. */
enum { STRIP = 128 };

/* Columns [first, end) from the last strip to the first. */
static void multiply_backwards(const struct cr_product *product, int64_t start, int64_t first, int64_t end, int room)
{
    for (int64_t j; end > first; end = j) {
        j = cr_larger(first, (end - 1) / STRIP * STRIP);
        cr_product(product, start + j, start + end, room);
    }
}

void cr_recurrent_multiply(const struct cr_recurrence *r, int number, const struct cr_share *share,
                           struct cr_product *product)
{
    const int64_t n = r->operand[number].n;
    const int64_t gates = share->parts == 1 || r->dgates || number == CR_V ? 1 : n / r->sequence->H;
    const int64_t units = gates == 1 ? n : r->sequence->H;
    int64_t end;
    const int64_t first = cr_recurrent_cut(r, share, units, &end);

    product->b = &r->operand[number];
    for (int64_t gate = 0; gate < gates; gate++)
        if (product->backwards)
            multiply_backwards(product, (gates - 1 - gate) * units, first, end, share->room);
        else
            cr_product(product, gate * units + first, gate * units + end, share->room);
}

void cr_recurrent_product(const struct cr_recurrence *r, int number, const struct cr_share *share, const void *a,
                          int64_t a_row, void *c, int64_t c_row, int accumulate, const void *bias)
{
    struct cr_product product = {
        .b = &r->operand[number],
        .rows = {.outer = 1, .inner = share->m, .a_outer = 0, .a_inner = a_row, .a_k = 1, .c_outer = 0,
                 .c_inner = c_row, .c_column = 1},
        .a = a,
        .c = c,
        .accumulate = accumulate,
        .bias = bias,
        .backwards = share->t % 2 != 0 && !(r->dgates && r->pieces > 1),
    };
    cr_recurrent_multiply(r, number, share, &product);
}

void cr_recurrent_gates(const struct cr_recurrence *r, const struct cr_share *share,
                        void (*kernel)(const struct cr_units *units))
{
    int64_t end;
    const int64_t first = cr_recurrent_cut(r, share, r->sequence->H, &end);

    for (int64_t row = share->row; row < share->row + share->m; row++) {
        struct cr_units units = cr_units_of(r, share->t, row);
        units.first = first;
        units.end = end;
        kernel(&units);
    }
}

struct phase {
    const struct cr_recurrence *r;
    struct cr_share share;
    int number;
};

static void run_phase(void *context, int part, int parts)
{
    const struct phase *phase = context;
    struct cr_share share = phase->share;
    share.part = part;
    share.parts = parts;
    share.room = part;
    phase->r->phase[phase->number](phase->r, &share);
}

void cr_recurrent_step(const struct cr_recurrence *r, int64_t t, int64_t row, int64_t m, int room)
{
    struct phase phase = {.r = r, .share = {t, row, m, 0, 1, room}};
    for (; phase.number < r->phases; phase.number++)
        if (r->by_columns)
            cr_parallel(r->parts, run_phase, &phase);
        else
            r->phase[phase.number](r, &phase.share);
}

/* ---- the rows of many steps at once ---- */

struct rows {
    const struct cr_recurrence *r;
    int number;
    struct cr_product product;
};

static void run_columns(void *context, int part, int parts)
{
    const struct rows *work = context;
    const struct cr_share share = {.part = part, .parts = parts, .room = part};
    struct cr_product product = work->product;
    cr_recurrent_multiply(work->r, work->number, &share, &product);
}

static void run_rows(void *context, int part, int parts)
{
    const struct rows *work = context;
    const struct cr_share all = {.parts = 1, .room = part};
    const int64_t size = work->r->kernels->size;
    struct cr_product product = work->product;
    struct cr_rows *rows = &product.rows;
    int64_t *const count = rows->outer > 1 ? &rows->outer : &rows->inner;
    const int64_t start = cr_cut(*count, part, parts);

    product.a = cr_at(product.a, start * (rows->outer > 1 ? rows->a_outer : rows->a_inner), size);
    product.c = cr_at(product.c, start * (rows->outer > 1 ? rows->c_outer : rows->c_inner), size);
    *count = cr_cut(*count, part + 1, parts) - start;
    cr_recurrent_multiply(work->r, work->number, &all, &product);
}

void cr_recurrent_rows(const struct cr_recurrence *r, int number, const struct cr_series *from,
                       const struct cr_series *to, const void *bias)
{
    const int64_t steps = r->last - r->first, B = r->sequence->B;
    struct rows work = {r, number, {.a = from->data, .c = to->data, .bias = bias}};
    struct cr_rows *rows = &work.product.rows;

    /* Tiles lie along whatever is longer: all rows at once, if they can be counted through, steps or the batch. */
    if (B == 1 || steps == 1 || (from->time == B * from->row && to->time == B * to->row))
        *rows = (struct cr_rows){.outer = 1, .inner = steps * B, .a_inner = B == 1 ? from->time : from->row,
                                 .c_inner = B == 1 ? to->time : to->row};
    else if (steps > B)
        *rows = (struct cr_rows){.outer = B, .inner = steps, .a_outer = from->row, .a_inner = from->time,
                                 .c_outer = to->row, .c_inner = to->time};
    else
        *rows = (struct cr_rows){.outer = steps, .inner = B, .a_outer = from->time, .a_inner = from->row,
                                 .c_outer = to->time, .c_inner = to->row};
    rows->a_k = from->column;
    rows->c_column = to->column;
    const int64_t most = rows->outer > 1 ? rows->outer : rows->inner;
    const int parts = r->by_columns ? r->parts : (int)cr_smaller(r->parts, cr_larger(1, most));
    cr_parallel(parts, r->by_columns ? run_columns : run_rows, &work);
}

/* ---- rows and steps ---- */

/* Who shares out columns meets the others after every phase, which costs 0.5 us, and h goes from one cache to the
 * other: that pays where a thread would have few rows of its own, since up to four take as long as one, and where U
 * does not stay in a second-level cache, of which each then holds a share. Two threads, by rows and by columns: LSTM
 * 100,4,256,256 1.81 and 1.46 ms, 100,8,256,256 2.85 and 2.93, 25,16,512,512 6.66 and 5.06; RNN 25,16,512,512 (1 MB of
 * U) 1.21 and 1.28. A step has to be worth the meeting: LSTM 100,2,128,128 takes as long either way. */
enum { FEW_ROWS = 4, CACHE_BYTES = 2 * 1024 * 1024, STEP_OPERATIONS = 500 * 1000 };

static void share_out(struct cr_recurrence *r)
{
    const struct cr_sequence *s = r->sequence;
    const double rows = (double)cr_larger(s->B, FEW_ROWS), elements = (double)r->gates * (double)s->H * (double)r->R;
    r->parts = cr_parts((double)s->T * rows * r->gates * (double)s->H * (double)(s->inputs + r->R));
    r->by_columns = r->parts > 1 && rows * elements > STEP_OPERATIONS &&
                    (s->B < FEW_ROWS * (int64_t)r->parts || elements * (double)r->kernels->size > CACHE_BYTES);
}

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
    share_out(r);
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
    cr_parallel(r->by_columns ? 1 : (int)cr_smaller(r->parts, cr_larger(1, r->sequence->B)), part, r);
}
