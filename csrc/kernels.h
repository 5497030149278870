/* The seam between operators and instruction sets.
 *
 * An operator asks the table of the running instruction set (cr_kernels) for tiles, and never asks the processor.
 * Kernels are compiled from one body, kernels/kernels.inc, once per instruction set and real type; they assert,
 * they do not validate.
 *
 * Which operator uses which tile (A and B are its operands, m rows, n columns, reduced over k):
 *
 *     pass                                 tile      A [m, k]                B [k, n]             C [m, n]
 *     conv forward, channels as vectors    product   x: pixels x C           w, packed: C x K     y: pixels x K
 *     conv forward, pixels as vectors      product   w: K x C                x: C x pixels        y: K x pixels
 *     conv backward_data                   the same two, of dy and w with C and K exchanged
 *     the same, 1x1 with one channel of y  dots      w: 1 x C                x: pixels x C           y: 1 x pixels
 *     the same, 1x1 with one pixel         dots      x: 1 x C                w: K x C                y: 1 x K
 *     the same by Winograd, at a point     product   x, evaluated: tiles x C w, evaluated: C x K  tiles x K
 *     conv backward_weights                product   x: C x pixels           dy, packed: pixels x K    dw: C x K, or
 *                                                    x and dy exchanged
 *     the same, of one channel             diagonal  x: taps x pixels        dy: 1 x pixels          lanes of dw
 *     the same by Winograd, at a point     product   x, evaluated: C x tiles dy, evaluated: tiles x K C x K, or
 *                                                    x and dy exchanged
 *     conv backward_bias                   product   1 (strides 0)           dy                   db: 1 x K
 *     recurrent, input part                product   x: (T, B) x I        w_ih: I x G*H        gates: (T, B) x G*H
 *     recurrent, step t                    product   h[t-1]: B x R           w_hh: R x G*H           gates: B x G*H
 *     the same, one row of one step        dots      1 x R                   w_hh: G*H x R           1 x G*H
 *     BPTT, step t                         product   dgates[t]: B x G*H      w_hh: G*H x R           dh: B x R
 *     BPTT, weights and dx                 conv backward_weights and forward of 1x1 kernels, after the loop
 *     depthwise forward, backward_data     diagonal  x: pixels x channels    w, packed: 1 x channels
 *     the same, 3x3 to 7x7, of what lies   planes,   no product of a tile: see struct cr_planes
 *                             together     channels
 *     depthwise backward_weights           diagonal  x: pixels x channels    dy: pixels x channels  dw: 1 x channels
 *     the same of narrow groups            diagonal  x, spread: pixels x C/g x K, and as above with C/g in place of 1
 *
 * Max pooling is no product and has kernels of its own; average pooling is a depthwise convolution.
 */
#ifndef CR_KERNELS_H
#define CR_KERNELS_H

#include <stdint.h>

#include "convrnn.h"

#define CR_HIDDEN __attribute__((visibility("hidden")))

/* One term of a batch-reduce product: where its A and its B begin, in elements from the tile's base pointers. */
struct cr_step {
    int64_t a, b;
};

/* product:   C[m,n] (+)= sum_i sum_k A_i[m,k] * B_i[k,n]
 * diagonal:  C[m,n] (+)= sum_i sum_k A_i[m,k,n] * B_i[k,n]     n is an axis of A too, contiguous
 * dots:      C[n]   (+)= sum_k A[k] * B[n,k]                   m = 1, a step or none, n <= columns, B contiguous along
 *                                                              k: what reads a matrix once needs no panels of it
 *
 *            n                       The terms of one output are added in ascending (i, k) into one accumulator that
 *         +-----+                    starts at zero; C (if accumulate), then bias are added to that sum, and the
 *       k |  B  |                    activation applied. The order does not depend on m or n: neither does the
 *    k    +-----+                    rounding.
 *  +---+  +-----+
 * m| A | m|  C  |                    Columns past n are neither read nor written.
 *  +---+  +-----+ */
struct cr_tile {
    const void *a;               /* base of A */
    const void *b;               /* base of B */
    void *c;                     /* C */
    const struct cr_step *steps; /* [batch] */
    int64_t batch;               /* number of steps; 0 leaves an empty sum, zero */
    int64_t k;                   /* terms in a step */
    int64_t a_row, a_k;          /* strides of A along m and k, in elements; any */
    int64_t b_k;                 /* stride of B along k; along n it is 1 */
    int64_t b_n;                 /* dots: stride of B along n; along k it is 1 */
    int64_t b_gap;               /* few rows: so far apart lie the columns of a tile of any m, and the next */
    int64_t c_row, c_column;     /* strides of C along m and n; any */
    int m, n;                    /* 1 <= m <= rows of the table, 1 <= n <= columns, cr_columns of them */
    int accumulate;              /* add to C rather than overwrite it */
    enum cr_activation activation;
    const void *bias_row;    /* [m], contiguous; or NULL */
    const void *bias_column; /* [n], contiguous; or NULL */
};

/* A matrix [k, n] in panels of `width` columns: (i, j) is data[j/width*next + i/fold*row + i%fold*apart + j%width].
 * fold is 1 but for a kernel whose taps lie side by side in memory, [n][channel][tap], and apart in the panel. */
struct cr_panels {
    void *data;
    int64_t width, row, next, fold, apart; /* in elements */
};

/* Pixels of a grouped convolution, each of whose channels is written below every output channel of its group:
 * target[i*target_row + c*below + j] = source[i*source_row + j/out_channels*in_channels + c], for rows i, j < n and
 * c < in_channels. n is a multiple of out_channels; both are of a group. */
struct cr_spread {
    const void *source;
    void *target;
    int64_t rows, n, in_channels, out_channels;
    int64_t source_row, target_row, below; /* strides, in elements */
};

/* Depthwise convolution of planes with a kernel of 3x3, 5x5 or 7x7.
 *
 *     planes          y[p,i,j] = act(bias[p] + sum_{h,k} w[p,h,k] x[p, i - before + h, j + first + k*step]), pixels of
 *                     a row side by side; of kernels that have no more rows than plane_taps of the table
 *     planes_adjoint  sums[p,h,k] += sum_{i,j} y[p,i,j] x[p, i - before + h, j + first + k*step], a sum for each lane
 *                     of a vector; y is dy
 *     planes_weights  w[p,h,k] = the lanes of sums[p,h,k] added up
 *
 *     channels        y[p,i,j] = act(bias[p] + sum_{h,k} w[p,h,k] x[p, stride*i - before + h, stride*j + first + k]),
 *                     planes side by side, as many as lanes or more: all strides along them are 1; stride is 1 or 2
 *     channels_transposed
 *                     y[p,i,j] = act(bias[p] + sum_{h,k} w[p,h,k] x[p, (before + i - h)/2, (first + j - k)/2]), of what
 *                     can be halved: backward to data with a stride of 2
 *     channels_adjoint
 *                     w[p,h,k] += sum_{i,j} y[p,i,j] x[p, stride*i - before + h, stride*j + first + k]; y is dy
 *
 * over what has a row of x, one of [0, x_rows), and a column, one of [0, x_columns). The terms of y are added in
 * ascending (h, k), as in a tile.
 *
 * Those by pixels also convolve pixels of a few channels: `mixed` of them side by side, from 2 to CR_MIXED, are one
 * plane, whose column j is one of channel j % mixed. w and bias are those of channels then, and there are sums for each
 * j % mixed that a vector begins at. */
enum { CR_MIXED = 8 };

struct cr_planes {
    const void *x;
    void *w, *y;
    void *sums;       /* [planes, or mixed, taps, taps] vectors */
    const void *bias; /* [planes], contiguous; or NULL */
    enum cr_activation activation;
    int taps, stride, transposed;
    int mixed; /* channels that are one plane, or 1 */
    int64_t plane, plane_end; /* those at work */
    int64_t x_plane, y_plane; /* strides, in elements */
    int64_t x_row, y_row, x_column, y_column;
    int64_t w_plane, w_tap[2], w_panel, w_next; /* plane p of w is p%w_panel*w_plane + p/w_panel*w_next */
    int64_t rows, x_rows, before;
    int64_t columns, x_columns, first, step; /* step: by pixels */
};

/* m x n windows of max pooling, each a box of x.
 *
 *     maximum          y[i,j] = the maximum of the box of x that begins at x + i*x_row + j*x_column, NaN passing
 *     maximum_adjoint  y[i,j] (dy, read) is added to dx where the first maximum of the box stands in x */
struct cr_windows {
    const void *x;
    void *y;
    void *dx;
    int64_t m, n;
    int64_t x_row, x_column, y_row, y_column, dx_row, dx_column; /* strides along m and n, in elements */
    int64_t box[3], x_box[3], dx_box[3];                         /* extent of a window, and strides inside it */
};

/* Winograd's transforms, of n channels side by side at a time; kernels/winograd.inc has the equations. Sides and tiles
 * are those of F(m x m, 3 x 3): m outputs from a patch of m + 2 pixels along each axis, (m + 2)^2 points.
 *
 *     input, weights, output_adjoint
 *                     target[point*plane + row*target_row + c] = the patch, the 3x3 taps, or the tile's m x m
 *                     gradients, at source[cell] + row*source_row + c, evaluated at the point; c to the next multiple
 *                     of lanes is written too */
struct cr_evaluation {
    const void *const *source; /* where each cell begins: [(m+2)^2] pixels, [9] taps or [m^2] outputs, row by row */
    void *target;
    int64_t rows, n;
    int64_t source_row, target_row, plane; /* strides, in elements */
};

/*     output, weights_adjoint
 *                     target[i*row + j*column + c*channel] = act(bias[c] + output, or tap, (i, j) of the tile whose
 *                     products are source[point*plane + part*part_stride + c], added up over parts), i < rows,
 *                     j < columns */
struct cr_interpolation {
    const void *source;
    void *target;
    const void *bias; /* [n], contiguous; or NULL */
    enum cr_activation activation;
    int rows, columns; /* of the tile, what lies in the image: 1..m; or 3 */
    int64_t n, parts;
    int64_t plane, part_stride, row, column, channel; /* strides, in elements */
};

/* Units [first, end) of a row of n hidden units of a recurrent cell at one time step. Gates stand n apart; rows are
 * contiguous, and not all cells have all of them. kernels/gates.inc says what each kernel reads and writes. */
struct cr_units {
    int64_t n, first, end;
    enum cr_activation activation; /* RNN */
    int reset_after;               /* GRU */
    void *gates, *extra;
    const void *h_before, *c_before;
    void *h, *c;
    void *dgates, *dextra, *dh, *dc;
};

/* The kernels of one instruction set and one real type, and the sizes that go with them. */
struct cr_kernels {
    int64_t size;  /* bytes of an element */
    int lanes;     /* elements of a vector */
    int rows;      /* the most rows of a tile */
    int columns;   /* columns of a tile of any m <= rows: the width of a packed panel; a multiple of lanes */
    int row_columns; /* columns of a product tile of one row, >= few_columns */
    int few_columns; /* of one of 2 to few_rows rows; a multiple of columns, as is row_columns */
    int few_rows;
    int plane_taps;  /* rows of the largest kernel that planes are convolved with */

    void (*product)(const struct cr_tile *tile);
    void (*diagonal)(const struct cr_tile *tile);
    void (*dots)(const struct cr_tile *tile);
    void (*planes)(const struct cr_planes *planes);
    void (*planes_adjoint)(const struct cr_planes *planes);
    void (*planes_weights)(const struct cr_planes *planes);
    void (*channels)(const struct cr_planes *planes);
    void (*channels_transposed)(const struct cr_planes *planes);
    void (*channels_adjoint)(const struct cr_planes *planes);

    /* Element (i, j) of a matrix, source[i*source_k + j*source_n], i < k, j < n, into the panels. */
    void (*pack)(const struct cr_panels *to, const void *source, int64_t k, int64_t n, int64_t source_k,
                 int64_t source_n);

    void (*spread)(const struct cr_spread *spread);

    void (*maximum)(const struct cr_windows *windows);
    void (*maximum_adjoint)(const struct cr_windows *windows);

    void (*winograd_input[2])(const struct cr_evaluation *evaluation); /* m = 2, m = 4 */
    void (*winograd_weights[2])(const struct cr_evaluation *evaluation);
    void (*winograd_output[2])(const struct cr_interpolation *interpolation);
    void (*winograd_output_adjoint[2])(const struct cr_evaluation *evaluation);
    void (*winograd_weights_adjoint[2])(const struct cr_interpolation *interpolation);

    void (*rnn_gates)(const struct cr_units *units);
    void (*lstm_gates)(const struct cr_units *units);
    void (*gru_reset)(const struct cr_units *units);
    void (*gru_update)(const struct cr_units *units);
    void (*add)(int64_t n, const void *x, void *y); /* y += x */
    void (*rnn_gates_adjoint)(const struct cr_units *units);
    void (*lstm_gates_adjoint)(const struct cr_units *units);
    void (*gru_update_adjoint)(const struct cr_units *units);
    void (*gru_reset_adjoint)(const struct cr_units *units);

    void (*map[4])(int64_t n, const void *x, void *y); /* by enum cr_function */
};

/* The most columns of a product tile of m rows. */
static inline int cr_columns(const struct cr_kernels *kernels, int64_t m)
{
    return m == 1 ? kernels->row_columns : m <= kernels->few_rows ? kernels->few_columns : kernels->columns;
}

/* Of a first-level cache, at best: lines that lie a multiple of 4 KiB apart and stay in it. */
enum { CR_WAYS = 12 };

/* The most rows of a tile, of `rows` in all that lie a_row elements apart in A. Those a multiple of 4 KiB apart share a
 * set of a first-level cache, in which they stay if they are fewer than its ways. Forward and back through
 * LSTM 25,64,1024,1024 took 555 ms in tiles of 13 rows and takes 365 in tiles of 11, 1x1 from 2,048 channels 28x28
 * 3,430 and 3,200 us. What fits one tile stays one: two of 6 rows read B twice. */
static inline int64_t cr_rows_of_tile(const struct cr_kernels *kernels, int64_t rows, int64_t a_row)
{
    const int share_a_set = a_row * kernels->size % 4096 == 0 && rows > kernels->rows;
    return share_a_set && kernels->rows >= CR_WAYS ? CR_WAYS - 1 : kernels->rows;
}

/* The table of the running instruction set for dtype. Never fails. */
CR_HIDDEN const struct cr_kernels *cr_kernels(enum cr_dtype dtype);

/* One instruction set: what isa/NAME.c exports. */
struct cr_isa {
    const char *name;
    const struct cr_kernels *kernels[2]; /* by enum cr_dtype */
};

extern CR_HIDDEN const struct cr_isa cr_isa_generic;
extern CR_HIDDEN const struct cr_isa cr_isa_avx2;
extern CR_HIDDEN const struct cr_isa cr_isa_avx512;

#endif
