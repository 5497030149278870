/* The vanilla recurrent network, backward: dgates = dh s'(.), dh_{t-1} = dgates U. */
#include "recurrent.h"

static void gates(const struct cr_recurrence *r, const struct cr_share *share)
{
    cr_recurrent_enter(r, share);
    cr_recurrent_gates(r, share, r->kernels->rnn_gates_adjoint);
}

static void before(const struct cr_recurrence *r, const struct cr_share *share)
{
    const struct cr_units units = cr_units_of(r, share->t, share->row);
    cr_recurrent_product(r, CR_U, share, units.dgates, units.n, units.dh, r->R, 0, NULL);
}

enum cr_status cr_rnn_backward(const struct cr_sequence *sequence, const struct cr_series *x,
                               const struct cr_weights *weights, const struct cr_cache *cache,
                               const struct cr_series *dy, const struct cr_state *dlast, int64_t truncate,
                               const struct cr_series *dx, const struct cr_weights *dweights,
                               const struct cr_state *dstate, void *dh)
{
    struct cr_recurrence r = cr_rnn_cell(sequence, weights);
    r.phases = 2;
    r.phase[0] = gates;
    r.phase[1] = before;
    return cr_recurrent_backward(&r, x, cache, dy, dlast, truncate, dx, dweights, dstate, dh);
}
