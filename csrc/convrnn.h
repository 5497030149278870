/* convrnn: convolution and recurrence in C, forward and backward, on strided arrays.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Introduction
 * ------------
 * This header is the whole of the C interface and its manual. The library knows nothing of Python; it needs a C11
 * compiler with GCC/Clang vector types, libm-free arithmetic and POSIX threads.
 *
 *     struct cr_conv conv = {.dtype = CR_FLOAT32, .N = 1, .C = 3, .K = 8, .groups = 1,
 *                            .in = {1, 28, 28}, .kernel = {1, 3, 3}, .out = {1, 26, 26},
 *                            .stride = {1, 1, 1}, .dilation = {1, 1, 1}};
 *     enum cr_status status = cr_conv_forward(&conv, &x, &w, NULL, &y);
 *     if (status != CR_OK) fprintf(stderr, "%s: %s\n", cr_status_name(status), cr_error_message());
 *
 * Letters, everywhere: N batch, C in-channels, K out-channels, D H W depth, height and width of the image, KD KH KW
 * of the kernel, OD OH OW of the output. Gradients are `d` + the tensor: dx, dw, db, dy.
 *
 * Rules for every function
 * ------------------------
 * - Sizes and strides are int64_t; strides count elements, not bytes, and may be zero or negative.
 * - The caller owns every array. Inputs are never written to; nothing is kept after the call returns. Data pointers
 *   are aligned to their element. Outputs may not overlap inputs, and no two elements of an output may be the same.
 * - Everything is checked, and all workspace is allocated, before the first byte of an output is written: on a status
 *   other than CR_OK the outputs are untouched.
 * - Every function may be called from many threads at once. Results do not depend on the number of threads, nor on
 *   N or the position in the batch, bit for bit; they may differ between instruction sets.
 * - Zero N is legal: nothing is computed (gradients of the weights are zero). All other sizes are at least 1.
 */
#ifndef CONVRNN_H
#define CONVRNN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CR_VERSION "0.1.0"

/* -------------------------------------------------------------------------------------------------- status ---- */

enum cr_status {
    CR_OK = 0,
    CR_INVALID_ARGUMENT, /* a size, stride or option that has no meaning, or operands that disagree */
    CR_OVERFLOW,         /* a product of sizes does not fit 63 bits */
    CR_OUT_OF_MEMORY     /* workspace could not be allocated */
};

/* The name of a status: "CR_OK", ... A static string. */
const char *cr_status_name(enum cr_status status);

/* Words for the last status other than CR_OK in the calling thread: which argument, what was given, what was
 * expected. Valid until the next call in the same thread; "" before any failure. */
const char *cr_error_message(void);

/* ------------------------------------------------------------------------------------------- process wide ---- */

/* The version of the library that runs, CR_VERSION of its own header. A static string. */
const char *cr_version(void);

/* The instruction set in use: "generic", "avx2" or "avx512". Chosen at first use: the best that the processor and the
 * build have, or the one named by the environment variable CONVRNN_ISA, if it can run. A static string. */
const char *cr_isa(void);

/* The instruction sets this processor can run, of those that were built, best last. Returns their number and points
 * *names at a static array. */
int cr_available_isas(const char *const **names);

/* Switches to the instruction set called name, as CONVRNN_ISA does. For tests; not while other calls run.
 * CR_INVALID_ARGUMENT if it is unknown or cannot run here. */
enum cr_status cr_set_isa(const char *name);

/* The number of threads a call may use, the calling one included. Initially CONVRNN_NUM_THREADS, else
 * OMP_NUM_THREADS, else the processors this process may use (affinity, cgroup quota). Setting it to 1 joins the
 * idle workers. CR_INVALID_ARGUMENT for n < 1. */
int cr_get_num_threads(void);
enum cr_status cr_set_num_threads(int64_t n);

/* Replaces malloc and free for all workspace, e.g. to count or to fail. NULL, NULL restores them, and with them what
 * each calling thread keeps until it ends, up to 2 MiB. Not while calls run. Blocks must be aligned as malloc aligns
 * them. */
void cr_set_allocator(void *(*allocate)(size_t size), void (*release)(void *block));

/* ---------------------------------------------------------------------------------------------- operands ---- */

enum cr_dtype { CR_FLOAT32 = 0, CR_FLOAT64 = 1 };

/* An image, a feature map or a kernel: where it lies. Memory layout, rank, flipping and a missing batch axis are
 * nothing but strides. Sizes stand in struct cr_conv or struct cr_pool.
 *
 *     x   element [n, c, d, h, w]    at data + n*batch + c*channel + d*space[0] + h*space[1] + w*space[2]
 *     w   element [k, c, kd, kh, kw] at data + k*batch + c*channel + kd*space[0] + kh*space[1] + kw*space[2]
 *
 * A convolution in one or two dimensions has extent 1 along the axes it lacks; their strides are not looked at. */
struct cr_tensor {
    void *data;
    int64_t batch;    /* of x, y: between images. Of w: between out-channels */
    int64_t channel;  /* of x, y: between channels. Of w: between in-channels of a group */
    int64_t space[3]; /* along D, H, W */
};

/* ------------------------------------------------------------------------------------------- convolution ---- */

/* What lies beyond the image, in the names and with the rules of numpy.pad. */
enum cr_pad_mode {
    CR_PAD_CONSTANT = 0, /* zeros; skipped, never multiplied */
    CR_PAD_REFLECT,      /* d c b | a b c d | c b a */
    CR_PAD_SYMMETRIC,    /* c b a | a b c d | d c b */
    CR_PAD_EDGE,         /* a a a | a b c d | d d d */
    CR_PAD_WRAP          /* b c d | a b c d | a b c */
};

/* How forward, backward_data and backward_weights are computed.
 *
 *     CR_DIRECT    the products of the sum, one by one: an output depends on its own window alone
 *     CR_WINOGRAD  F(2x2, 3x3) or F(4x4, 3x3): 2.25 or 4 times fewer multiplications, larger rounding errors, and a NaN
 *                  or an infinity may reach any output of its tile, or tap of its channels. For 3x3 kernels in two axes
 *                  (the first of in and of kernel is 1) of stride and dilation 1, and CR_PAD_CONSTANT;
 *                  CR_INVALID_ARGUMENT for any other
 *     CR_AUTO      what cr_conv_algorithm says, and in backward_weights Winograd if dtype is CR_FLOAT32, from 16
 *                  channels of a group and 7x7 outputs on: by dtype, channels and sizes, never by N */
enum cr_algorithm { CR_AUTO = 0, CR_DIRECT, CR_WINOGRAD };

enum cr_activation { CR_IDENTITY = 0, CR_RELU, CR_TANH, CR_SIGMOID };

/* The geometry of a convolution (cross-correlation: the kernel is not flipped; flip it with negative strides).
 *
 *     y[n,k,o] = act(b[k] + sum_{c,q} w[k,c,q] x[n, c, o*stride + q*dilation - pad_low])
 *     out = floor((in + pad_low + pad_high - dilation*(kernel-1) - 1) / stride) + 1            per axis
 */
struct cr_conv {
    enum cr_dtype dtype;
    int64_t N, C, K; /* batch, in-channels, out-channels */
    int64_t groups;  /* divides C and K; groups == C is a depthwise convolution */
    int64_t in[3];   /* D, H, W of x */
    int64_t kernel[3];
    int64_t out[3]; /* what cr_conv_output_size gives, or less: then the first outputs alone */
    int64_t stride[3], dilation[3];
    int64_t pad_low[3], pad_high[3];
    enum cr_pad_mode pad_mode;
    enum cr_activation activation; /* forward only: the backward passes take the gradient at the pre-activation */
    enum cr_algorithm algorithm;   /* backward_bias is always direct */
};

/* The output extent of one axis (formula above).
 * in, kernel, stride, dilation >= 1, pads >= 0; out_size [written].
 * CR_INVALID_ARGUMENT if the kernel's extent exceeds the padded image, CR_OVERFLOW past 63 bits. */
enum cr_status cr_conv_output_size(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad_low,
                                   int64_t pad_high, int64_t *out_size);

/* y = act(b + w * x).
 * x [N, C, in]            image; read
 * w [K, C/groups, kernel] kernel; read
 * b [K]                   bias, contiguous; read; may be NULL
 * y [N, K, out]           written */
enum cr_status cr_conv_forward(const struct cr_conv *conv, const struct cr_tensor *x, const struct cr_tensor *w,
                               const void *b, const struct cr_tensor *y);

/* What forward and backward_data take: CR_DIRECT or CR_WINOGRAD. For CR_AUTO, Winograd if dtype is CR_FLOAT32, its
 * root-mean-square error at most four times that of the direct sum, and it is the faster of the two for one image.
 * algorithm [written] */
enum cr_status cr_conv_algorithm(const struct cr_conv *conv, enum cr_algorithm *algorithm);

/* Weights prepared once for many forward calls: w in the order in which it is read, or, where cr_conv_algorithm says
 * CR_WINOGRAD, evaluated at the points of its tiles, 1.8 or 4 times as large; rounded up to whole panels. The results
 * are those of cr_conv_forward, bit for bit. A prepared w serves any N and layout, and any sizes of image for which the
 * algorithm and, of Winograd's, the size of tiles are the same; it is refused (CR_INVALID_ARGUMENT) where it does not
 * serve, also after cr_set_isa.
 *
 * bytes [written]
 * w [K, C/groups, kernel] read
 * prepared                bytes, aligned to the element, best to 64 bytes; written by cr_conv_prepare; of the caller */
enum cr_status cr_conv_prepared_size(const struct cr_conv *conv, int64_t *bytes);
enum cr_status cr_conv_prepare(const struct cr_conv *conv, const struct cr_tensor *w, void *prepared);
enum cr_status cr_conv_forward_prepared(const struct cr_conv *conv, const struct cr_tensor *x, const void *prepared,
                                        const void *b, const struct cr_tensor *y);

/* dx = the gradient of <dy, w * x> with respect to x: a convolution of dy with the flipped kernel.
 * It is also the transposed convolution, which is why it takes a bias over the channels of dx.
 *
 *     dx[n,c,i] = b[c] + sum of w[k,c,q] dy[n,k,o] over all k, q, o that read x[n,c,i] in the forward pass
 *
 * dy [N, K, out]           read
 * w  [K, C/groups, kernel] read
 * b  [C]                   contiguous; read; may be NULL
 * dx [N, C, in]            written */
enum cr_status cr_conv_backward_data(const struct cr_conv *conv, const struct cr_tensor *dy,
                                     const struct cr_tensor *w, const void *b, const struct cr_tensor *dx);

/* dw = the gradient of <dy, w * x> with respect to w: a convolution of x with dy.
 *
 *     dw[k,c,q] = sum_{n,o} dy[n,k,o] x[n, c, o*stride + q*dilation - pad_low]
 *
 * The order of a depthwise sum depends on what lies side by side in x and dy: pixels of a row, channels, or both.
 *
 * dy [N, K, out]           read
 * x  [N, C, in]            read
 * dw [K, C/groups, kernel] written */
enum cr_status cr_conv_backward_weights(const struct cr_conv *conv, const struct cr_tensor *dy,
                                        const struct cr_tensor *x, const struct cr_tensor *dw);

/* db[k] = sum_{n,o} dy[n,k,o]. Of conv only dtype, N, K and out are looked at.
 * dy [N, K, out] read
 * db [K]         contiguous; written */
enum cr_status cr_conv_backward_bias(const struct cr_conv *conv, const struct cr_tensor *dy, void *db);

/* ----------------------------------------------------------------------------------------------- pooling ---- */

/* Maximum over a window. Average pooling is a depthwise convolution with a constant kernel (strides 0). */
struct cr_pool {
    enum cr_dtype dtype;
    int64_t N, C;
    int64_t in[3];   /* D, H, W of x */
    int64_t size[3]; /* window */
    int64_t out[3];  /* as of a convolution with this kernel and dilation 1 */
    int64_t stride[3];
    int64_t pad_low[3], pad_high[3]; /* smaller than the window; hold -infinity */
};

/* y[n,c,o] = the maximum of x[n,c,:] over the window of o; a NaN in the window is passed on.
 * x [N, C, in]  read
 * y [N, C, out] written */
enum cr_status cr_max_pool_forward(const struct cr_pool *pool, const struct cr_tensor *x, const struct cr_tensor *y);

/* dx = the gradient of <dy, max_pool(x)>: dy goes to the first maximum (or NaN) of its window, in row-major order.
 * dy [N, C, out] read
 * x  [N, C, in]  read
 * dx [N, C, in]  written */
enum cr_status cr_max_pool_backward(const struct cr_pool *pool, const struct cr_tensor *dy,
                                    const struct cr_tensor *x, const struct cr_tensor *dx);

/* -------------------------------------------------------------------------------------------- recurrence ---- */

/* A recurrent layer in one direction over a batch of sequences. Letters: T time, B batch, I input size, H hidden size,
 * G gates (1, 4, 3 for RNN, LSTM, GRU), R the width of h: P with a projection, else H.
 *
 *     RNN   h_t = s(W x_t + b + U h_{t-1} + b')
 *     LSTM  i, f, o = sigmoid, g = tanh of (W x_t + b + U h_{t-1} + b');  c_t = f c_{t-1} + i g;  h_t = o tanh(c_t),
 *           or h_t = V (o tanh(c_t)) with a projection
 *     GRU   r, z = sigmoid(W x_t + b + U h_{t-1} + b');  h_t = (1 - z) n + z h_{t-1}, with
 *           n = tanh(W x_t + b + r (U h_{t-1} + b'))   if reset_after
 *           n = tanh(W x_t + b + U (r h_{t-1}) + b')   otherwise
 *
 * Gates stand in the order i f g o and r z n. Another direction is a series with a negative time stride. Time steps
 * flush subnormals to zero; the floating-point mode of the caller is restored. A sequence cut into chunks, with the
 * state carried, gives the same bits, down to single steps. */
struct cr_sequence {
    enum cr_dtype dtype;
    int64_t T, B;                  /* may be 0 */
    int64_t inputs, H;             /* inputs is I, a name that <complex.h> has taken */
    int64_t P;                     /* LSTM: width of the projected h; 0 without a projection */
    const int64_t *lengths;        /* [B] steps of each row, 0..T; NULL: T. x past a row's end must be finite */
    enum cr_activation activation; /* RNN: s; ignored otherwise */
    int reset_after;               /* GRU */
};

/* [T, B, width]: element [t, b, i] at data + t*time + b*row + i*column. */
struct cr_series {
    void *data;
    int64_t time, row, column;
};

/* [rows, columns], any strides. */
struct cr_matrix {
    void *data;
    int64_t row, column;
};

/* The parameters of a layer, or their gradients. */
struct cr_weights {
    struct cr_matrix w_ih; /* W [G*H, I] */
    struct cr_matrix w_hh; /* U [G*H, R] */
    struct cr_matrix w_hr; /* V [P, H]; data NULL without a projection */
    void *b_ih, *b_hh;     /* b, b' [G*H], contiguous; NULL: none */
    const void *prepared;  /* NULL, or what cr_recurrent_prepare made of W, U and V, which forward does not read then */
};

/* h [B, R] and, for an LSTM, c [B, H]; contiguous; NULL: zeros when read, not wanted when written. */
struct cr_state {
    void *h, *c;
};

/* What forward keeps for backward, all contiguous; slot t of h and c is the state before step t. Where lengths are
 * given, the caller has filled h, gates and extra with zeros. */
struct cr_cache {
    void *h;     /* [T + 1, B, R] */
    void *c;     /* [T + 1, B, H] LSTM; else NULL */
    void *gates; /* [T, B, G*H] after their activations */
    void *extra; /* [T, B, H] LSTM with a projection: o tanh(c); GRU: U h + b' of n if reset_after, r h otherwise;
                    else NULL */
};

/* y [T, B, R] = every h, zero past a row's end; the state after each row's last step.
 * x [T, B, I]      read
 * state            read; members may be NULL
 * y [T, B, R]      written; column stride 1
 * last             written; members may be NULL; may not alias state
 * cache            written; NULL: inference, nothing is kept */
enum cr_status cr_rnn_forward(const struct cr_sequence *sequence, const struct cr_series *x,
                              const struct cr_weights *weights, const struct cr_state *state,
                              const struct cr_series *y, const struct cr_state *last, const struct cr_cache *cache);
enum cr_status cr_lstm_forward(const struct cr_sequence *sequence, const struct cr_series *x,
                               const struct cr_weights *weights, const struct cr_state *state,
                               const struct cr_series *y, const struct cr_state *last, const struct cr_cache *cache);
enum cr_status cr_gru_forward(const struct cr_sequence *sequence, const struct cr_series *x,
                              const struct cr_weights *weights, const struct cr_state *state,
                              const struct cr_series *y, const struct cr_state *last, const struct cr_cache *cache);

/* Matrices prepared once for many forward calls, as their products read them, rounded up to whole panels; each call
 * would pack them, or read them from where they lie. The results are the same, bit for bit. They serve any T and B, and
 * are refused (CR_INVALID_ARGUMENT) with other sizes, another cell or dtype, and after cr_set_isa.
 *
 * sequence  T, B and lengths are not looked at
 * bytes     [written]
 * weights   w_ih, w_hh, w_hr; read
 * prepared  bytes, aligned to the element, best to 64 bytes; written by cr_recurrent_prepare; of the caller, and to be
 *           kept as long as the prepared of some weights points there */
enum cr_cell { CR_RNN = 0, CR_LSTM, CR_GRU };
enum cr_status cr_recurrent_prepared_size(enum cr_cell cell, const struct cr_sequence *sequence, int64_t *bytes);
enum cr_status cr_recurrent_prepare(enum cr_cell cell, const struct cr_sequence *sequence,
                                    const struct cr_weights *weights, void *prepared);

/* Backpropagation through time: gradients of the loss whose gradients at y and at the last state are dy and dlast.
 * With truncate = k, 1 <= k < T, the gradient through the state is cut at every multiple of k steps.
 * x, weights, cache  those of the forward call; read
 * dy [T, B, R]       read; column stride 1
 * dlast              read; members may be NULL
 * truncate           0: full
 * dx [T, B, I]       written
 * dweights           written; members with data NULL are skipped
 * dstate             written; members may be NULL
 * dh [T, B, R]       contiguous; written: the gradient at every h, through time included; NULL: not wanted. Where
 *                    lengths are given, the caller has filled it with zeros */
enum cr_status cr_rnn_backward(const struct cr_sequence *sequence, const struct cr_series *x,
                               const struct cr_weights *weights, const struct cr_cache *cache,
                               const struct cr_series *dy, const struct cr_state *dlast, int64_t truncate,
                               const struct cr_series *dx, const struct cr_weights *dweights,
                               const struct cr_state *dstate, void *dh);
enum cr_status cr_lstm_backward(const struct cr_sequence *sequence, const struct cr_series *x,
                                const struct cr_weights *weights, const struct cr_cache *cache,
                                const struct cr_series *dy, const struct cr_state *dlast, int64_t truncate,
                                const struct cr_series *dx, const struct cr_weights *dweights,
                                const struct cr_state *dstate, void *dh);
enum cr_status cr_gru_backward(const struct cr_sequence *sequence, const struct cr_series *x,
                               const struct cr_weights *weights, const struct cr_cache *cache,
                               const struct cr_series *dy, const struct cr_state *dlast, int64_t truncate,
                               const struct cr_series *dx, const struct cr_weights *dweights,
                               const struct cr_state *dstate, void *dh);

/* -------------------------------------------------------------------------------------------- elementwise ---- */

enum cr_function { CR_FUNCTION_EXP = 0, CR_FUNCTION_TANH, CR_FUNCTION_SIGMOID, CR_FUNCTION_RELU };

/* y[i] = f(x[i]), at most 2 ULP from the exact value; NaN is kept, tanh and sigmoid saturate to exactly +-1, 0, 1.
 * x [n] contiguous; read
 * y [n] contiguous; written; may be x itself
 * n     >= 0 */
enum cr_status cr_map(enum cr_function function, enum cr_dtype dtype, int64_t n, const void *x, void *y);

#ifdef __cplusplus
}
#endif
#endif
