/* The vanilla recurrent network, backward: dgates = dh s'(.), dh_{t-1} = dgates U. */
#include "recurrent.h"

static void step(const struct cr_recurrence *r, int64_t t, int64_t row, int64_t m)
{
    const struct cr_units first = cr_units_of(r, t, row);
    cr_recurrent_gates(r, t, row, m, r->kernels->rnn_gates_adjoint);
    cr_recurrent_product(r, CR_U, m, first.dgates, first.n, first.dh, r->R, 0, NULL);
}

enum cr_status cr_rnn_backward(const struct cr_sequence *sequence, const struct cr_series *x,
                               const struct cr_weights *weights, const struct cr_cache *cache,
                               const struct cr_series *dy, const struct cr_state *dlast, int64_t truncate,
                               const struct cr_series *dx, const struct cr_weights *dweights,
                               const struct cr_state *dstate, void *dh)
{
    struct cr_recurrence r = cr_rnn_cell(sequence, weights);
    r.step = step;
    return cr_recurrent_backward(&r, x, cache, dy, dlast, truncate, dx, dweights, dstate, dh);
}
