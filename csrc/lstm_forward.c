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
    cr_operand_product(&r->operand[0], r->kernels, m, first.h_before, r->R, first.gates, 4 * first.n, 1,
                       r->weights->b_hh);
    for (int64_t i = 0; i < m; i++) {
        struct cr_units units = cr_units_of(r, t, row + i);
        if (r->sequence->P) units.h = units.extra;
        r->kernels->lstm_gates(&units);
    }
    if (r->sequence->P)
        cr_operand_product(&r->projection, r->kernels, m, first.extra, first.n, first.h, r->R, 0, NULL);
}

enum cr_status cr_lstm_forward(const struct cr_sequence *sequence, const struct cr_series *x,
                               const struct cr_weights *weights, const struct cr_state *state,
                               const struct cr_series *y, const struct cr_state *last, const struct cr_cache *cache)
{
    struct cr_recurrence r = cr_lstm_cell(sequence, weights);
    r.step = step;
    return cr_recurrent_forward(&r, x, state, y, last, cache);
}
