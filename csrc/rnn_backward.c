/* The vanilla recurrent network, backward: dgates = dh s'(.), dh_{t-1} = dgates U. */
#include "recurrent.h"

static void step(const struct cr_recurrence *r, int64_t t, int64_t row, int64_t m)
{
    for (int64_t i = 0; i < m; i++) {
        const struct cr_units units = cr_units_of(r, t, row + i);
        r->kernels->rnn_gates_adjoint(&units);
    }
    const struct cr_units units = cr_units_of(r, t, row);
    cr_operand_product(&r->operand[0], r->kernels, m, units.dgates, units.n, units.dh, r->R, 0, NULL);
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
