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

static const void *bias_of_n(const struct cr_recurrence *r)
{
    const void *b = r->weights->b_hh;
    return b ? cr_at(b, 2 * r->sequence->H, r->kernels->size) : NULL;
}

/* r and z, and what the product of n leaves to do once r is known. */
static void reset(const struct cr_recurrence *r, const struct cr_share *share)
{
    const struct cr_units units = cr_units_of(r, share->t, share->row);
    const int64_t n = units.n;
    /* U turns back every second step (cr_recurrent_multiply), and with it the order of its pieces. */
    for (int i = 0; i < 2; i++)
        if ((i + share->t) % 2 == 0)
            cr_recurrent_product(r, CR_U, share, units.h_before, n, units.gates, 3 * n, 1, r->weights->b_hh);
        else if (r->sequence->reset_after) /* extra = U h + b' */
            cr_recurrent_product(r, CR_U_SECOND, share, units.h_before, n, units.extra, n, 0, bias_of_n(r));
    cr_recurrent_gates(r, share, r->kernels->gru_reset);
}

static void update(const struct cr_recurrence *r, const struct cr_share *share)
{
    cr_recurrent_gates(r, share, r->kernels->gru_update);
    cr_recurrent_leave(r, share);
}

/* extra = r h: of all units, since U multiplies it. */
static void update_after_product(const struct cr_recurrence *r, const struct cr_share *share)
{
    const struct cr_units units = cr_units_of(r, share->t, share->row);
    const int64_t n = units.n;
    cr_recurrent_product(r, CR_U_SECOND, share, units.extra, n, cr_at(units.gates, 2 * n, r->kernels->size), 3 * n, 1,
                         bias_of_n(r));
    update(r, share);
}

static void reset_and_update(const struct cr_recurrence *r, const struct cr_share *share)
{
    reset(r, share);
    update(r, share);
}

enum cr_status cr_gru_forward(const struct cr_sequence *sequence, const struct cr_series *x,
                              const struct cr_weights *weights, const struct cr_state *state,
                              const struct cr_series *y, const struct cr_state *last, const struct cr_cache *cache)
{
    struct cr_recurrence r = cr_gru_cell(sequence, weights);
    r.phases = sequence->reset_after ? 1 : 2;
    r.phase[0] = sequence->reset_after ? reset_and_update : reset;
    r.phase[1] = update_after_product;
    return cr_recurrent_forward(&r, x, state, y, last, cache);
}
