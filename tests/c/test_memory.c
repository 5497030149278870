/* Every public function with workspace, under an allocator that fails at the k-th request, for every k: the status is
 * CR_OUT_OF_MEMORY, outputs are untouched and nothing leaks, until there is enough. What is done over and over for
 * little data, a step of a recurrent layer or a small image, asks for nothing. Then a scan of bad geometries. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convrnn.h"

enum { CELLS = 8192, STREAMED = 256 };

static int budget, live, failures;

static void *allocate(size_t size)
{
    void *block = budget-- > 0 ? malloc(size) : NULL;
    live += block != NULL;
    return block;
}

static void release(void *block)
{
    live -= block != NULL;
    free(block);
}

static double a[CELLS], b[CELLS], result[CELLS], prepared[CELLS], bias[4 * STREAMED];

static struct cr_conv small_conv(enum cr_pad_mode mode, int64_t stride)
{
    struct cr_conv conv = {.dtype = CR_FLOAT64, .N = 2, .C = 4, .K = 6, .groups = 2, .pad_mode = mode};
    for (int axis = 0; axis < 3; axis++) {
        conv.in[axis] = axis ? 7 : 1;
        conv.kernel[axis] = axis ? 3 : 1;
        conv.stride[axis] = axis ? stride : 1;
        conv.dilation[axis] = 1;
        conv.pad_low[axis] = axis ? 2 : 0;
        conv.pad_high[axis] = axis ? 1 : 0;
        if (cr_conv_output_size(conv.in[axis], conv.kernel[axis], conv.stride[axis], 1, conv.pad_low[axis],
                                conv.pad_high[axis], &conv.out[axis]))
            abort();
    }
    return conv;
}

static struct cr_tensor image(void *data, int64_t channels, const int64_t *size)
{
    return (struct cr_tensor){data, channels * size[0] * size[1] * size[2], 1,
                              {channels * size[1] * size[2], channels * size[2], channels}};
}

/* A cell over T steps of B rows, its matrices in rows (C) or columns (Fortran), or prepared. Outputs go to result. */
static enum cr_status recur(int cell, enum cr_dtype dtype, int64_t T, int64_t B, int64_t H, int columns, void *weights,
                            const void *panels)
{
    static const int gates[] = {1, 4, 3};
    const int64_t rows = gates[cell] * H, size = dtype == CR_FLOAT32 ? 4 : 8, outputs = T * B * H * size;
    const struct cr_sequence sequence = {.dtype = dtype, .T = T, .B = B, .inputs = H, .H = H, .activation = CR_TANH};
    const struct cr_matrix w = {weights, columns ? 1 : H, columns ? rows : 1};
    const struct cr_weights all = {.w_ih = w, .w_hh = w, .b_ih = bias, .b_hh = bias, .prepared = panels};
    const struct cr_series x = {a, B * H, H, 1}, y = {result, B * H, H, 1};
    const struct cr_state state = {.h = b, .c = b};
    const struct cr_state last = {.h = (char *)result + outputs, .c = (char *)result + outputs + B * H * size};
    enum cr_status (*const forward[])(const struct cr_sequence *, const struct cr_series *, const struct cr_weights *,
                                      const struct cr_state *, const struct cr_series *, const struct cr_state *,
                                      const struct cr_cache *) = {cr_rnn_forward, cr_lstm_forward, cr_gru_forward};
    return forward[cell](&sequence, &x, &all, &state, &y, &last, NULL);
}

/* Function `which` of conv, with arrays that fit the geometry `fits`. */
static enum cr_status call(int which, const struct cr_conv *conv, const struct cr_conv *fits)
{
    const struct cr_tensor x = image(a, fits->C, fits->in), y = image(b, fits->K, fits->out);
    const struct cr_tensor w = {b, 1, fits->K, {0, 2 * 3 * fits->K, 2 * fits->K}};
    const struct cr_tensor to_x = image(result, fits->C, fits->in), to_y = image(result, fits->K, fits->out);
    const struct cr_tensor to_w = {result, 1, fits->K, {0, 2 * 3 * fits->K, 2 * fits->K}};
    struct cr_pool pool = {.dtype = CR_FLOAT64, .N = conv->N, .C = conv->C};
    for (int axis = 0; axis < 3; axis++) {
        pool.in[axis] = conv->in[axis];
        pool.size[axis] = conv->kernel[axis];
        pool.stride[axis] = conv->stride[axis];
        pool.pad_low[axis] = conv->pad_low[axis];
        pool.pad_high[axis] = conv->pad_high[axis];
        pool.out[axis] = conv->out[axis];
    }
    switch (which) {
    case 0: return cr_conv_forward(conv, &x, &w, bias, &to_y);
    case 1: return cr_conv_backward_data(conv, &y, &w, bias, &to_x);
    case 2: return cr_conv_backward_weights(conv, &y, &x, &to_w);
    case 3: return cr_conv_backward_bias(conv, &y, result);
    case 4: return cr_max_pool_forward(&pool, &x, &to_y);
    case 5: return cr_max_pool_backward(&pool, &y, &x, &to_x);
    case 6: return cr_map(CR_FUNCTION_TANH, CR_FLOAT64, 100, a, result);
    case 10: return cr_conv_prepare(conv, &w, result);
    case 11: return cr_conv_forward_prepared(conv, &x, prepared, bias, &to_y);
    default: return recur(which - 7, CR_FLOAT64, 40, 4, 16, 0, a, NULL);
    }
}

static void expect(int condition, const char *what, int which, int k)
{
    if (condition) return;
    failures++;
    printf("function %d, request %d: %s\n", which, k, what);
}

static void sweep(int which, const struct cr_conv *conv)
{
    for (int k = 0; k < 100; k++) {
        memset(result, 77, sizeof result);
        budget = k;
        const enum cr_status status = call(which, conv, conv);
        expect(live == 0, "blocks leaked", which, k);
        if (status == CR_OK) return;
        expect(status == CR_OUT_OF_MEMORY && *cr_error_message(), "wrong status or no words", which, k);
        for (size_t i = 0; i < sizeof result; i++)
            if (((char *)result)[i] != 77) {
                expect(0, "output touched", which, k);
                break;
            }
    }
    expect(0, "never enough memory", which, 100);
}

/* One step of one row, whose weights are streamed as they lie. */
static void stream(void)
{
    double *const weights = calloc(4 * STREAMED * STREAMED, sizeof *weights);
    if (!weights) abort();
    for (int cell = 0; cell < 3; cell++)
        for (int64_t H = 1; H <= STREAMED; H++)
            for (int dtype = CR_FLOAT32; dtype <= CR_FLOAT64; dtype++) {
                budget = 0;
                expect(recur(cell, (enum cr_dtype)dtype, 1, 1, H, 1, weights, NULL) == CR_OK, "a step allocates", cell,
                       (int)H);
            }
    free(weights);

    struct cr_conv conv = small_conv(CR_PAD_CONSTANT, 1);
    conv.N = conv.C = conv.K = conv.groups = 1;
    budget = 0;
    expect(call(0, &conv, &conv) == CR_OK, "a small image allocates", 0, 0);
}

/* With prepared weights, and by Winograd's algorithm, of which twenty images have several blocks of tiles. */
static void sweep_algorithm(enum cr_algorithm algorithm)
{
    static const int functions[] = {0, 1, 2, 10, 11};
    struct cr_conv conv = small_conv(CR_PAD_CONSTANT, 1);
    const struct cr_tensor w = {b, 1, conv.K, {0, 2 * 3 * conv.K, 2 * conv.K}};
    int64_t bytes = -1;

    conv.algorithm = algorithm;
    budget = 1;
    expect(cr_conv_prepared_size(&conv, &bytes) == CR_OK && bytes > 0 && bytes <= (int64_t)sizeof prepared &&
               cr_conv_prepare(&conv, &w, prepared) == CR_OK,
           "weights not prepared", 10, 0);
    for (conv.N = 1; conv.N <= 20; conv.N += 19)
        for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) sweep(functions[i], &conv);
}

/* Prepared weights serve any T and B, the matrices themselves being away; and no other cell. */
static void recur_prepared(void)
{
    enum { T = 40, B = 4, H = 16 };
    static double wanted[CELLS], panels[8 * 4 * H * H];
    const struct cr_sequence sequence = {.dtype = CR_FLOAT64, .inputs = H, .H = H, .activation = CR_TANH};
    const struct cr_matrix w = {a, H, 1};
    const struct cr_weights weights = {.w_ih = w, .w_hh = w};

    for (int cell = CR_RNN; cell <= CR_GRU; cell++) {
        int64_t bytes = -1;
        budget = 0;
        expect(cr_recurrent_prepared_size((enum cr_cell)cell, &sequence, &bytes) == CR_OK && bytes > 0 &&
                   bytes <= (int64_t)sizeof panels &&
                   cr_recurrent_prepare((enum cr_cell)cell, &sequence, &weights, panels) == CR_OK,
               "matrices not prepared", cell, 0);
        for (int64_t rows = 1; rows <= B; rows++) {
            budget = 100;
            expect(recur(cell, CR_FLOAT64, T, rows, H, 0, a, NULL) == CR_OK, "matrices", cell, (int)rows);
            memcpy(wanted, result, sizeof wanted);
            memset(result, 77, sizeof result);
            expect(recur(cell, CR_FLOAT64, T, rows, H, 0, NULL, panels) == CR_OK, "prepared", cell, (int)rows);
            const size_t written = (size_t)((T + 2 - (cell != CR_LSTM)) * rows * H) * sizeof *wanted;
            expect(memcmp(wanted, result, written) == 0, "not the same bits", cell, (int)rows);
        }
        expect(recur((cell + 1) % 3, CR_FLOAT64, 1, 1, H, 0, NULL, panels) == CR_INVALID_ARGUMENT, "another cell", cell,
               0);
        expect(recur(cell, CR_FLOAT32, 1, 1, H, 0, NULL, panels) == CR_INVALID_ARGUMENT, "another dtype", cell, 0);
        expect(recur(cell, CR_FLOAT64, 1, 1, H / 2, 0, NULL, panels) == CR_INVALID_ARGUMENT, "another size", cell, 0);
    }
    expect(cr_recurrent_prepare((enum cr_cell)3, &sequence, &weights, panels) == CR_INVALID_ARGUMENT, "no cell", 3, 0);
}

/* Backward through time: dx of any strides, or none; and blocks that come back when one is refused. */
static void recur_backward(void)
{
    enum { T = 9, B = 5, H = 16, X = T * B * H, APART = 3 };
    static double cache[4 * (T + 1) * B * H], y[X], dx[2][APART * X], dw[2][2 * H * H], db[2][2 * H];
    const struct cr_sequence sequence = {.dtype = CR_FLOAT64, .T = T, .B = B, .inputs = H, .H = H,
                                         .activation = CR_TANH};
    const struct cr_weights weights = {.w_ih = {b, H, 1}, .w_hh = {b + H * H, H, 1}, .b_ih = bias, .b_hh = bias};
    const struct cr_series x = {a, B * H, H, 1}, ty = {y, B * H, H, 1};
    const struct cr_series tdx[] = {{dx[0], B * H, H, 1}, {dx[1], APART * H, APART * T * H, APART}, {NULL, 0, 0, 0}};
    const struct cr_state none = {NULL, NULL};
    const struct cr_cache kept = {.h = cache, .gates = cache + (T + 1) * B * H};
    enum cr_status status = CR_OUT_OF_MEMORY;

    budget = 100;
    expect(cr_rnn_forward(&sequence, &x, &weights, &none, &ty, &none, &kept) == CR_OK, "forward", 12, 0);
    memset(dx, 0, sizeof dx);
    for (int i = 0; i < 3; i++) {
        const struct cr_weights into = {.w_ih = {dw[i > 0], H, 1}, .w_hh = {dw[i > 0] + H * H, H, 1},
                                        .b_ih = db[i > 0], .b_hh = db[i > 0] + H};
        status = CR_OUT_OF_MEMORY;
        for (int k = 0; k < 100 && status == CR_OUT_OF_MEMORY; k++) {
            budget = k;
            status = cr_rnn_backward(&sequence, &x, &weights, &kept, &ty, &none, 0, &tdx[i], &into, &none, NULL);
            expect(live == 0, "blocks leaked", 12, k);
        }
        expect(status == CR_OK, "backward", 12, i);
        expect(memcmp(db[i > 0], db[i > 0] + H, sizeof db[0] / 2) == 0, "b and b' have one gradient", 12, i);
    }
    expect(memcmp(dw[0], dw[1], sizeof dw[0]) == 0 && memcmp(db[0], db[1], sizeof db[0]) == 0, "other weights", 12, 0);
    for (int64_t t = 0; t < T; t++)
        for (int64_t row = 0; row < B; row++)
            for (int64_t i = 0; i < H; i++) {
                const double *at = dx[1] + APART * (t * H + row * T * H + i);
                expect(at[0] == dx[0][t * B * H + row * H + i] && at[1] == 0 && at[2] == 0, "dx apart", 12, (int)t);
            }
}

/* Every field of the geometry replaced by every value that it cannot have: a status and words, never a crash. */
static void scan_bad_geometries(enum cr_algorithm algorithm)
{
    static const int64_t bad_values[] = {-1, 0, INT64_MIN, INT64_MAX, (int64_t)1 << 62};
    struct cr_conv good = small_conv(CR_PAD_CONSTANT, 1);

    good.algorithm = algorithm;
    for (int which = 0; which < 3; which++)
        for (int64_t field = 0; field < 25; field++)
            for (size_t i = 0; i < sizeof bad_values / sizeof *bad_values; i++) {
                struct cr_conv bad = good;
                int64_t *value = &bad.N + field; /* N, C, K, groups and seven triples, in a row */
                const int stride = value >= bad.stride && value < bad.dilation, pad = value >= bad.pad_low;
                /* Legal: a large stride, a large dilation of one tap (of depth), no batch, no padding. */
                if ((stride || value == &bad.dilation[0]) && bad_values[i] > 0) continue;
                if ((pad || value == &bad.N) && bad_values[i] == 0) continue;
                *value = bad_values[i];
                expect(call(which, &bad, &good) != CR_OK && *cr_error_message(), "bad geometry accepted", which,
                       (int)field);
            }
}

int main(void)
{
    for (int i = 0; i < CELLS; i++) a[i] = b[i] = i % 7 - 3;
    cr_set_num_threads(1);
    cr_set_allocator(allocate, release);
    for (int which = 0; which < 10; which++)
        for (int mode = CR_PAD_CONSTANT; mode <= CR_PAD_WRAP; mode++)
            for (int64_t stride = 1; stride < 4; stride++) {
                const struct cr_conv conv = small_conv((enum cr_pad_mode)mode, stride);
                sweep(which, &conv);
            }
    stream();
    recur_prepared();
    recur_backward();
    sweep_algorithm(CR_DIRECT);
    sweep_algorithm(CR_WINOGRAD);
    cr_set_allocator(NULL, NULL);
    scan_bad_geometries(CR_AUTO);
    scan_bad_geometries(CR_WINOGRAD);
    printf("%d failures\n", failures);
    return failures != 0;
}
