/* The vanilla recurrent network, forward: h_t = s(W x_t + b + U h_{t-1} + b'). */
#include "recurrent.h"

struct cr_recurrence cr_rnn_cell(const struct cr_sequence *sequence, const struct cr_weights *weights)
{
    return (struct cr_recurrence){
        .sequence = sequence, .weights = weights, .gates = 1, .pieces = 1, .piece = {{.first = 0, .gates = 1}}};
}

static void step(const struct cr_recurrence *r, const struct cr_share *share)
{
    const struct cr_units units = cr_units_of(r, share->t, share->row);
    cr_recurrent_product(r, CR_U, share, units.h_before, r->R, units.gates, units.n, 1, r->weights->b_hh);
    cr_recurrent_gates(r, share, r->kernels->rnn_gates);
    cr_recurrent_leave(r, share);
}

enum cr_status cr_rnn_forward(const struct cr_sequence *sequence, const struct cr_series *x,
                              const struct cr_weights *weights, const struct cr_state *state,
                              const struct cr_series *y, const struct cr_state *last, const struct cr_cache *cache)
{
    struct cr_recurrence r = cr_rnn_cell(sequence, weights);
    r.phases = 1;
    r.phase[0] = step;
    return cr_recurrent_forward(&r, x, state, y, last, cache);
}
