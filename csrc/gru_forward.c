/* The gated recurrent unit, forward, with the reset gate after or before the product of n. */
#include "recurrent.h"

struct cr_recurrence cr_gru_cell(const struct cr_sequence *sequence, const struct cr_weights *weights)
{
    const int after = sequence->reset_after != 0;
    return (struct cr_recurrence){.sequence = sequence,
                                  .weights = weights,
                                  .gates = 3,
                                  .has_extra = 1,
                                  .pieces = 2,
                                  .piece = {{.first = 0, .gates = 2},
                                            {.first = 2, .gates = 1, .of_dextra = after, .of_extra = !after}}};
}

static void step(const struct cr_recurrence *r, int64_t t, int64_t row, int64_t m)
{
    const struct cr_units first = cr_units_of(r, t, row);
    const int64_t n = first.n, size = r->kernels->size;
    const int after = r->sequence->reset_after;
    const void *b = r->weights->b_hh, *b_n = b ? cr_at(b, 2 * n, size) : NULL;

    cr_recurrent_product(r, CR_U, m, first.h_before, n, first.gates, 3 * n, 1, b);
    if (after) /* extra = U h + b' */
        cr_recurrent_product(r, CR_U_SECOND, m, first.h_before, n, first.extra, n, 0, b_n);
    cr_recurrent_gates(r, t, row, m, r->kernels->gru_reset);
    if (!after) /* extra = r h */
        cr_recurrent_product(r, CR_U_SECOND, m, first.extra, n, cr_at(first.gates, 2 * n, size), 3 * n, 1, b_n);
    cr_recurrent_gates(r, t, row, m, r->kernels->gru_update);
}

enum cr_status cr_gru_forward(const struct cr_sequence *sequence, const struct cr_series *x,
                              const struct cr_weights *weights, const struct cr_state *state,
                              const struct cr_series *y, const struct cr_state *last, const struct cr_cache *cache)
{
    struct cr_recurrence r = cr_gru_cell(sequence, weights);
    r.step = step;
    return cr_recurrent_forward(&r, x, state, y, last, cache);
}
