/* The gated recurrent unit, backward. */
#include "recurrent.h"

static void update(const struct cr_recurrence *r, const struct cr_share *share)
{
    cr_recurrent_enter(r, share);
    cr_recurrent_gates(r, share, r->kernels->gru_update_adjoint);
}

/* Reset before the product. */
static void reset(const struct cr_recurrence *r, const struct cr_share *share)
{
    const struct cr_units units = cr_units_of(r, share->t, share->row);
    const int64_t n = units.n;
    cr_recurrent_product(r, CR_U_SECOND, share, cr_at(units.dgates, 2 * n, r->kernels->size), 3 * n, units.dextra, n, 0,
                         NULL);
    cr_recurrent_gates(r, share, r->kernels->gru_reset_adjoint);
}

static void before(const struct cr_recurrence *r, const struct cr_share *share)
{
    const struct cr_units units = cr_units_of(r, share->t, share->row);
    const int64_t n = units.n;
    if (r->sequence->reset_after) cr_recurrent_product(r, CR_U_SECOND, share, units.dextra, n, units.dh, n, 1, NULL);
    cr_recurrent_product(r, CR_U, share, units.dgates, 3 * n, units.dh, n, 1, NULL);
}

enum cr_status cr_gru_backward(const struct cr_sequence *sequence, const struct cr_series *x,
                               const struct cr_weights *weights, const struct cr_cache *cache,
                               const struct cr_series *dy, const struct cr_state *dlast, int64_t truncate,
                               const struct cr_series *dx, const struct cr_weights *dweights,
                               const struct cr_state *dstate, void *dh)
{
    struct cr_recurrence r = cr_gru_cell(sequence, weights);
    r.phases = sequence->reset_after ? 2 : 3;
    r.phase[0] = update;
    r.phase[1] = sequence->reset_after ? before : reset;
    r.phase[2] = before;
    return cr_recurrent_backward(&r, x, cache, dy, dlast, truncate, dx, dweights, dstate, dh);
}
