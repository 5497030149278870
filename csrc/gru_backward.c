/* The gated recurrent unit, backward. */
#include "recurrent.h"

static void step(const struct cr_recurrence *r, int64_t t, int64_t row, int64_t m)
{
    const struct cr_units first = cr_units_of(r, t, row);
    const int64_t n = first.n, size = r->kernels->size;

    cr_recurrent_gates(r, t, row, m, r->kernels->gru_update_adjoint);
    if (r->sequence->reset_after)
        cr_recurrent_product(r, CR_U_SECOND, m, first.dextra, n, first.dh, n, 1, NULL);
    else {
        cr_recurrent_product(r, CR_U_SECOND, m, cr_at(first.dgates, 2 * n, size), 3 * n, first.dextra, n, 0, NULL);
        cr_recurrent_gates(r, t, row, m, r->kernels->gru_reset_adjoint);
    }
    cr_recurrent_product(r, CR_U, m, first.dgates, 3 * n, first.dh, n, 1, NULL);
}

enum cr_status cr_gru_backward(const struct cr_sequence *sequence, const struct cr_series *x,
                               const struct cr_weights *weights, const struct cr_cache *cache,
                               const struct cr_series *dy, const struct cr_state *dlast, int64_t truncate,
                               const struct cr_series *dx, const struct cr_weights *dweights,
                               const struct cr_state *dstate, void *dh)
{
    struct cr_recurrence r = cr_gru_cell(sequence, weights);
    r.step = step;
    return cr_recurrent_backward(&r, x, cache, dy, dlast, truncate, dx, dweights, dstate, dh);
}
