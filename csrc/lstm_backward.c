/* Long short-term memory, backward. */
#include "recurrent.h"

static void gates(const struct cr_recurrence *r, const struct cr_share *share)
{
    cr_recurrent_enter(r, share);
    cr_recurrent_gates(r, share, r->kernels->lstm_gates_adjoint);
}

/* Under a projection units.dh is dm = dh V. */
static void project(const struct cr_recurrence *r, const struct cr_share *share)
{
    const struct cr_units units = cr_units_of(r, share->t, share->row);
    void *const dh = cr_row_of(r, r->dh, 0, share->row, r->R);
    cr_recurrent_product(r, CR_V, share, dh, r->R, units.dh, units.n, 0, NULL);
    cr_recurrent_gates(r, share, r->kernels->lstm_gates_adjoint);
}

static void before(const struct cr_recurrence *r, const struct cr_share *share)
{
    const struct cr_units units = cr_units_of(r, share->t, share->row);
    void *const dh = cr_row_of(r, r->dh, 0, share->row, r->R);
    cr_recurrent_product(r, CR_U, share, units.dgates, 4 * units.n, dh, r->R, 0, NULL);
}

enum cr_status cr_lstm_backward(const struct cr_sequence *sequence, const struct cr_series *x,
                                const struct cr_weights *weights, const struct cr_cache *cache,
                                const struct cr_series *dy, const struct cr_state *dlast, int64_t truncate,
                                const struct cr_series *dx, const struct cr_weights *dweights,
                                const struct cr_state *dstate, void *dh)
{
    struct cr_recurrence r = cr_lstm_cell(sequence, weights);
    r.phases = sequence->P ? 3 : 2;
    r.phase[0] = sequence->P ? cr_recurrent_enter : gates;
    r.phase[1] = sequence->P ? project : before;
    r.phase[2] = before;
    return cr_recurrent_backward(&r, x, cache, dy, dlast, truncate, dx, dweights, dstate, dh);
}
