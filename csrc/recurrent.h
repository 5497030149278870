/* What the recurrent cells share: validation, the walk over time, and the products that are done once for all steps.
 *
 * Forward, the input part W x + b of all steps is one product over (T, B) rows; left in the loop over time are U h and
 * the gates. Backward, the loop makes dgates and dh = dgates U; dx, dW, dU, dV and db are one product each, over all
 * steps, after it. Rows of the batch are shared out between threads, and each goes through all its steps with no
 * barrier.
 *
 * A cell says how many gates it has, how U is cut into the products of a step, and what one step does to some rows. */
#ifndef CR_RECURRENT_H
#define CR_RECURRENT_H

#include "conv.h"

/* A matrix [k, n] as the B of products: where it lies if it can be streamed as it is, else in panels as wide as a tile,
 * one after the other. One row goes through as many of them at once as its tile has room for. */
struct cr_operand {
    const struct cr_kernels *kernels;
    struct cr_panels panels;
    int64_t k, n;
    int64_t column; /* its stride along n, inside a panel: 1, but of a matrix that lies along k and is read so */
    void *packed; /* owned; NULL if panels are somebody else's */
    struct cr_matrix unpacked; /* with data: a panel is packed when a product needs it, into the room of one a thread */
};

/* matrix [k, n] for `products` products of up to `rows` rows each, by `parts` threads. */
CR_HIDDEN enum cr_status cr_operand_open(struct cr_operand *operand, const struct cr_kernels *kernels,
                                         const struct cr_matrix *matrix, int64_t k, int64_t n, int64_t rows,
                                         int64_t products, int parts);
CR_HIDDEN void cr_operand_close(struct cr_operand *operand);

/* The same in two steps: the bytes of packed panels; and an operand over them, packed from matrix or, if that is NULL,
 * as they are. Not to be closed. */
CR_HIDDEN int64_t cr_operand_bytes(const struct cr_kernels *kernels, int64_t k, int64_t n);
CR_HIDDEN void cr_operand_pack(struct cr_operand *operand, const struct cr_kernels *kernels,
                               const struct cr_matrix *matrix, int64_t k, int64_t n, void *panels);

/* Rows of A and C in two loops, the inner one along the tiles: row (i, j) of A begins at i*a_outer + j*a_inner, of C at
 * i*c_outer + j*c_inner. Along k, A has stride a_k, and C c_column along n. */
struct cr_rows {
    int64_t outer, inner;
    int64_t a_outer, a_inner, a_k, c_outer, c_inner, c_column;
};

/* C (+)= A B + bias. */
struct cr_product {
    const struct cr_operand *b;
    struct cr_rows rows;
    const void *a;
    void *c;
    int accumulate;
    const void *bias; /* [n], or NULL */
    int backwards;    /* from the last columns to the first, in cr_recurrent_multiply */
};

/* Columns [first, end) of C; a panel of an operand that is not packed is, into room `room`. */
CR_HIDDEN void cr_product(const struct cr_product *product, int64_t first, int64_t end, int room);

/* Some gates of U, a product of their own in a step: dgates or dextra = (h or extra) times them. */
struct cr_piece {
    int first, gates;
    int of_dextra; /* its gradient is dextra, not part of dgates */
    int of_extra;  /* it multiplies extra, not h */
};

/* The operands of a pass: W; U, piece by piece; V. Forward they are transposed. */
enum { CR_W, CR_U, CR_U_SECOND, CR_V, CR_OPERANDS };

/* Rows [first, first + rows) of one of the weights, [.., columns]: what an operand is made of. */
struct cr_block {
    const struct cr_matrix *matrix;
    int64_t first, rows, columns;
};

/* What one thread does in a step: for rows [row, row + m), none of which has ended, part `part` of `parts` of the
 * units, or of whatever else the columns are that it writes. */
struct cr_share {
    int64_t t, row, m;
    int part, parts;
    int room; /* of the thread: no other that runs now has this number */
};

/* One pass over one layer. */
struct cr_recurrence {
    const struct cr_sequence *sequence;
    const struct cr_kernels *kernels;
    const struct cr_weights *weights;

    /* The cell. */
    int gates; /* G */
    int has_c, has_extra;
    int pieces;
    struct cr_piece piece[2];
    /* A step. A phase reads all that those before it have written, and what it writes itself in its own share. */
    int phases;
    void (*phase[3])(const struct cr_recurrence *r, const struct cr_share *share);

    int64_t R; /* width of h */
    struct cr_operand operand[CR_OPERANDS];
    /* Slot t & slots of h and c is the state before step t: all ones if every step has one, 1 if two take turns, 0 if
     * the state is stepped in place. Slot t - kept of gate_values and extra belongs to step t. */
    int64_t slots, kept;
    char *h, *c, *gate_values, *extra;
    const struct cr_series *y;

    /* Backward. dh and dc are carried from step to step; the gradient at h_t comes in and that at h_{t-1} goes out.
     * Slot t - first of dgates, dextra and dh_all belongs to step t. */
    char *dgates, *dextra; /* [chunk, B, G*H], [chunk, B, H] */
    char *dh, *dc, *dm;    /* [B, R], [B, H]; dm [B, H]: at o tanh(c) under a projection */
    char *dh_all;          /* [chunk, B, R], or NULL */
    const struct cr_series *dy;
    int64_t truncate;

    int64_t first, last; /* steps [first, last) of this walk */
    int parts;           /* threads for this pass */
    int by_columns;      /* they share out the columns of every phase, not the rows once for all steps */
};

/* Row `row` of slot `slot` of a [slots, B, width] array. */
static inline void *cr_row_of(const struct cr_recurrence *r, char *base, int64_t slot, int64_t row, int64_t width)
{
    return base + (slot * r->sequence->B + row) * width * r->kernels->size;
}

/* What a kernel needs of row `row` in step t. Inline, since most ask for some of it. */
static inline struct cr_units cr_units_of(const struct cr_recurrence *r, int64_t t, int64_t row)
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
        units.dgates = cr_row_of(r, r->dgates, t - r->first, row, r->gates * H);
        units.dh = cr_row_of(r, r->dm ? r->dm : r->dh, 0, row, H);
        if (r->has_c) units.dc = cr_row_of(r, r->dc, 0, row, H);
        if (r->dextra) units.dextra = cr_row_of(r, r->dextra, t - r->first, row, H);
    }
    return units;
}

/* Checks what r came with, and sets kernels and R. */
CR_HIDDEN enum cr_status cr_recurrent_open(struct cr_recurrence *r);

/* That of operand number `number`; without rows if the cell has no such operand. */
CR_HIDDEN struct cr_block cr_recurrent_block(const struct cr_recurrence *r, int number);

/* Operands, from number `first` on, for walks of `chunk` steps. */
CR_HIDDEN enum cr_status cr_recurrent_open_operands(struct cr_recurrence *r, int backward, int first, int64_t chunk);
CR_HIDDEN void cr_recurrent_close_operands(struct cr_recurrence *r);

/* recurrent_prepare.c: the operands of the forward pass from prepared weights. */
CR_HIDDEN enum cr_status cr_recurrent_open_prepared(struct cr_recurrence *r);

/* The share's columns of a product with operand number `number`, which are those of its units in all gates. */
CR_HIDDEN void cr_recurrent_multiply(const struct cr_recurrence *r, int number, const struct cr_share *share,
                                     struct cr_product *product);

/* The same for the rows of a step: C (+)= A B + bias, rows of A [m, k] a_row apart, of C c_row apart. Every second step
 * begins with the columns that the one before has left in a cache: LSTM 100,1,64,128 takes 162 us, not 186, and RNN
 * 100,1,256,1024 3.3 ms, not 4.1. But a pass that adds two products has one order of them. */
CR_HIDDEN void cr_recurrent_product(const struct cr_recurrence *r, int number, const struct cr_share *share,
                                    const void *a, int64_t a_row, void *c, int64_t c_row, int accumulate,
                                    const void *bias);

/* to = from times operand number `number`, + bias, for all rows of steps [r->first, r->last), the first of which are
 * where from [.., B, k] and to [.., B, n] begin; by the threads of r. */
CR_HIDDEN void cr_recurrent_rows(const struct cr_recurrence *r, int number, const struct cr_series *from,
                                 const struct cr_series *to, const void *bias);

/* One of the kernels of gates, for the share's rows and units. */
CR_HIDDEN void cr_recurrent_gates(const struct cr_recurrence *r, const struct cr_share *share,
                                  void (*kernel)(const struct cr_units *units));

/* Forward, the end of a step: h goes into y. Backward, its beginning: the gradient at y is added to dh. */
CR_HIDDEN void cr_recurrent_leave(const struct cr_recurrence *r, const struct cr_share *share);
CR_HIDDEN void cr_recurrent_enter(const struct cr_recurrence *r, const struct cr_share *share);

/* The share's columns [return, *end) of `columns`: whole panels. */
CR_HIDDEN int64_t cr_recurrent_cut(const struct cr_recurrence *r, const struct cr_share *share, int64_t columns,
                                   int64_t *end);

/* Steps in the order of time, or against it, by `part` for its share of the rows; or by the caller for all of them. */
CR_HIDDEN void cr_recurrent_walk(struct cr_recurrence *r, void (*part)(void *recurrence, int part, int parts));

/* All phases of step t for rows [row, row + m), none of which has ended, by the thread that has `room`. */
CR_HIDDEN void cr_recurrent_step(const struct cr_recurrence *r, int64_t t, int64_t row, int64_t m, int room);

/* The rows [row, *end) from row on that have a step t, or those that have none: a run. Returns which. */
CR_HIDDEN int cr_recurrent_run(const struct cr_recurrence *r, int64_t t, int64_t row, int64_t rows, int64_t *end);

/* r comes with sequence, weights and the cell. */
CR_HIDDEN enum cr_status cr_recurrent_forward(struct cr_recurrence *r, const struct cr_series *x,
                                              const struct cr_state *state, const struct cr_series *y,
                                              const struct cr_state *last, const struct cr_cache *cache);
CR_HIDDEN enum cr_status cr_recurrent_backward(struct cr_recurrence *r, const struct cr_series *x,
                                               const struct cr_cache *cache, const struct cr_series *dy,
                                               const struct cr_state *dlast, int64_t truncate,
                                               const struct cr_series *dx, const struct cr_weights *dweights,
                                               const struct cr_state *dstate, void *dh);

/* The cells, without a pass: sequence, weights, gates, pieces. */
CR_HIDDEN struct cr_recurrence cr_rnn_cell(const struct cr_sequence *sequence, const struct cr_weights *weights);
CR_HIDDEN struct cr_recurrence cr_lstm_cell(const struct cr_sequence *sequence, const struct cr_weights *weights);
CR_HIDDEN struct cr_recurrence cr_gru_cell(const struct cr_sequence *sequence, const struct cr_weights *weights);

#endif
