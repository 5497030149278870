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

static void step(const struct cr_recurrence *r, int64_t t, int64_t row, int64_t m)
{
    const struct cr_units first = cr_units_of(r, t, row);
    cr_recurrent_product(r, CR_U, m, first.h_before, r->R, first.gates, 4 * first.n, 1, r->weights->b_hh);
    cr_recurrent_gates(r, t, row, m, r->kernels->lstm_gates);
    if (r->sequence->P)
        cr_recurrent_product(r, CR_V, m, first.h, first.n, cr_row_of(r, r->h, (t + 1) & r->slots, row, r->R), r->R, 0,
                             NULL);
}

enum cr_status cr_lstm_forward(const struct cr_sequence *sequence, const struct cr_series *x,
                               const struct cr_weights *weights, const struct cr_state *state,
                               const struct cr_series *y, const struct cr_state *last, const struct cr_cache *cache)
{
    struct cr_recurrence r = cr_lstm_cell(sequence, weights);
    r.step = step;
    return cr_recurrent_forward(&r, x, state, y, last, cache);
}
