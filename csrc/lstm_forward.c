/* Long short-term memory, forward, with or without a projection of h. */
#include "recurrent.h"

struct cr_recurrence cr_lstm_cell(const struct cr_sequence *sequence, const struct cr_weights *weights)
{
    return (struct cr_recurrence){.sequence = sequence,
                                  .weights = weights,
                                  .gates = 4,
                                  .has_c = 1,
                                  .has_extra = sequence->P > 0,
                                  .pieces = 1,
                                  .piece = {{.first = 0, .gates = 4}}};
}

static void step(const struct cr_recurrence *r, const struct cr_share *share)
{
    const struct cr_units units = cr_units_of(r, share->t, share->row);
    cr_recurrent_product(r, CR_U, share, units.h_before, r->R, units.gates, 4 * units.n, 1, r->weights->b_hh);
    cr_recurrent_gates(r, share, r->kernels->lstm_gates);
    if (!r->sequence->P) cr_recurrent_leave(r, share);
}

static void project(const struct cr_recurrence *r, const struct cr_share *share)
{
    const struct cr_units units = cr_units_of(r, share->t, share->row);
    void *const h = cr_row_of(r, r->h, (share->t + 1) & r->slots, share->row, r->R);
    cr_recurrent_product(r, CR_V, share, units.h, units.n, h, r->R, 0, NULL);
    cr_recurrent_leave(r, share);
}

enum cr_status cr_lstm_forward(const struct cr_sequence *sequence, const struct cr_series *x,
                               const struct cr_weights *weights, const struct cr_state *state,
                               const struct cr_series *y, const struct cr_state *last, const struct cr_cache *cache)
{
    struct cr_recurrence r = cr_lstm_cell(sequence, weights);
    r.phases = sequence->P ? 2 : 1;
    r.phase[0] = step;
    r.phase[1] = project;
    return cr_recurrent_forward(&r, x, state, y, last, cache);
}
