/* Long short-term memory, backward. */
#include "recurrent.h"

static void step(const struct cr_recurrence *r, int64_t t, int64_t row, int64_t m)
{
    const struct cr_units first = cr_units_of(r, t, row);
    void *const dh = cr_row_of(r, r->dh, 0, row, r->R);
    if (r->sequence->P) /* first.dh is dm = dh V then */
        cr_recurrent_product(r, CR_V, m, dh, r->R, first.dh, first.n, 0, NULL);
    cr_recurrent_gates(r, t, row, m, r->kernels->lstm_gates_adjoint);
    cr_recurrent_product(r, CR_U, m, first.dgates, 4 * first.n, dh, r->R, 0, NULL);
}

enum cr_status cr_lstm_backward(const struct cr_sequence *sequence, const struct cr_series *x,
                                const struct cr_weights *weights, const struct cr_cache *cache,
                                const struct cr_series *dy, const struct cr_state *dlast, int64_t truncate,
                                const struct cr_series *dx, const struct cr_weights *dweights,
                                const struct cr_state *dstate, void *dh)
{
    struct cr_recurrence r = cr_lstm_cell(sequence, weights);
    r.step = step;
    return cr_recurrent_backward(&r, x, cache, dy, dlast, truncate, dx, dweights, dstate, dh);
}
