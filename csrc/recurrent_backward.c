/* Backpropagation through time: the walk against time, and the products over all steps that follow it. */
#include <string.h>

#include "recurrent.h"

void cr_recurrent_enter(const struct cr_recurrence *r, const struct cr_share *share)
{
    const int64_t size = r->kernels->size, t = share->t;
    int64_t end;
    const int64_t first = cr_recurrent_cut(r, share, r->R, &end);

    for (int64_t row = share->row; row < share->row + share->m; row++) {
        void *dh = cr_at(cr_row_of(r, r->dh, 0, row, r->R), first, size);
        r->kernels->add(end - first, cr_at(r->dy->data, t * r->dy->time + row * r->dy->row + first, size), dh);
        if (r->dh_all)
            memcpy(cr_at(cr_row_of(r, r->dh_all, t, row, r->R), first, size), dh, (size_t)((end - first) * size));
    }
}

static void run_part(void *context, int part, int parts)
{
    const struct cr_recurrence *r = context;
    const struct cr_sequence *s = r->sequence;
    const int64_t rows = cr_cut(s->B, part + 1, parts), size = r->kernels->size;
    const unsigned long mode = cr_float_mode();

    cr_set_float_mode(cr_flushing(mode));
    for (int64_t t = s->T - 1; t >= 0; t--) {
        const int cut = r->truncate && t > 0 && t % r->truncate == 0;
        for (int64_t row = cr_cut(s->B, part, parts), end; row < rows; row = end) {
            if (!cr_recurrent_run(r, t, row, rows, &end)) continue;
            cr_recurrent_step(r, t, row, end - row, part);
            if (cut) {
                memset(cr_row_of(r, r->dh, 0, row, r->R), 0, (size_t)((end - row) * r->R * size));
                if (r->has_c) memset(cr_row_of(r, r->dc, 0, row, s->H), 0, (size_t)((end - row) * s->H * size));
            }
        }
    }
    cr_set_float_mode(mode);
}

/* The workspace, and the state's gradient that enters at the end. */
static enum cr_status open_arrays(struct cr_recurrence *r, const struct cr_cache *cache, const struct cr_state *dlast,
                                  void *dh, struct cr_scratch *workspace)
{
    const struct cr_sequence *s = r->sequence;
    const int64_t rows = s->B * r->kernels->size, all = s->T * rows;
    const int64_t bytes[] = {
        all * r->gates * s->H,                   /* dgates */
        r->has_extra && !s->P ? all * s->H : 0,  /* dextra */
        rows * r->R,                             /* dh */
        r->has_c ? rows * s->H : 0,              /* dc */
        s->P ? rows * s->H : 0,                  /* dm */
        s->P && !dh ? all * r->R : 0,            /* dh_all: dV needs it */
    };
    char **const arrays[] = {&r->dgates, &r->dextra, &r->dh, &r->dc, &r->dm, &r->dh_all};
    int64_t total = 0;

    r->h = cache->h;
    r->c = cache->c;
    r->gate_values = cache->gates;
    r->extra = cache->extra;
    r->slots = -1;
    for (int i = 0; i < 6; i++) total += bytes[i];
    char *at = cr_scratch_open(workspace, total);
    if (!at) return CR_OUT_OF_MEMORY;
    for (int i = 0; i < 6; i++) {
        *arrays[i] = bytes[i] ? at : NULL;
        at += bytes[i];
    }
    if (dh) r->dh_all = dh;
    /* Steps past a row's end have no gradient. */
    if (s->lengths) {
        memset(r->dgates, 0, (size_t)(bytes[0] + bytes[1]));
        if (bytes[5]) memset(r->dh_all, 0, (size_t)bytes[5]);
    }
    if (dlast->h)
        memcpy(r->dh, dlast->h, (size_t)bytes[2]);
    else
        memset(r->dh, 0, (size_t)bytes[2]);
    if (r->has_c && dlast->c)
        memcpy(r->dc, dlast->c, (size_t)bytes[3]);
    else if (r->has_c)
        memset(r->dc, 0, (size_t)bytes[3]);
    return CR_OK;
}

/* dw [K, C] = the sum over steps and rows of d [.., K] times x [.., C]; and db [K], that of d. Each if wanted. */
static enum cr_status sum_gradients(const struct cr_recurrence *r, const struct cr_tensor *d, int64_t K,
                                    const struct cr_tensor *x, int64_t C, const struct cr_matrix *dw, void *db)
{
    const struct cr_conv conv = cr_series_conv(r, r->sequence->T, C, K);
    enum cr_status status = CR_OK;

    if (dw->data) {
        const struct cr_tensor kernel = {.data = dw->data, .batch = dw->row, .channel = dw->column};
        status = cr_conv_backward_weights(&conv, d, x, &kernel);
    }
    if (status == CR_OK && db) status = cr_conv_backward_bias(&conv, d, db);
    return status;
}

/* The gradients of W, U, V, b, b' and x, from dgates, dextra and dh of all steps. */
static enum cr_status finish(const struct cr_recurrence *r, const struct cr_series *x, const struct cr_series *dx,
                             const struct cr_weights *dweights)
{
    const struct cr_sequence *s = r->sequence;
    const int64_t H = s->H, width = r->gates * H, size = r->kernels->size;
    const struct cr_tensor dgates = cr_series_image(r->dgates, s->B * width, width, 1);
    const struct cr_tensor inputs = cr_series_image(x->data, x->time, x->row, x->column);
    const struct cr_tensor states = cr_series_image(r->h, s->B * r->R, r->R, 1);
    const struct cr_tensor extras = cr_series_image(r->extra, s->B * H, H, 1);
    enum cr_status status = sum_gradients(r, &dgates, width, &inputs, s->inputs, &dweights->w_ih, dweights->b_ih);

    for (int i = 0; i < r->pieces && status == CR_OK; i++) {
        const struct cr_piece *piece = &r->piece[i];
        const struct cr_tensor of_dextra = cr_series_image(r->dextra, s->B * H, H, 1);
        const struct cr_tensor of_dgates = cr_series_image(
            cr_at(r->dgates, piece->first * H, size), s->B * width, width, 1);
        struct cr_matrix dw = dweights->w_hh;
        if (dw.data) dw.data = cr_at(dw.data, piece->first * H * dw.row, size);
        void *db = dweights->b_hh ? cr_at(dweights->b_hh, piece->first * H, size) : NULL;
        status = sum_gradients(r, piece->of_dextra ? &of_dextra : &of_dgates, piece->gates * H,
                               piece->of_extra ? &extras : &states, r->R, &dw, db);
    }
    if (status == CR_OK && s->P) {
        const struct cr_tensor dh = cr_series_image(r->dh_all, s->B * r->R, r->R, 1);
        status = sum_gradients(r, &dh, s->P, &extras, H, &dweights->w_hr, NULL);
    }
    if (status == CR_OK && dx->data) {
        const struct cr_conv conv = cr_series_conv(r, s->T, width, s->inputs);
        const struct cr_matrix *w = &r->weights->w_ih;
        const struct cr_tensor kernel = {.data = w->data, .batch = w->column, .channel = w->row};
        const struct cr_tensor image = cr_series_image(dx->data, dx->time, dx->row, dx->column);
        status = cr_conv_forward(&conv, &dgates, &kernel, NULL, &image);
    }
    return status;
}

enum cr_status cr_recurrent_backward(struct cr_recurrence *r, const struct cr_series *x, const struct cr_cache *cache,
                                     const struct cr_series *dy, const struct cr_state *dlast, int64_t truncate,
                                     const struct cr_series *dx, const struct cr_weights *dweights,
                                     const struct cr_state *dstate, void *dh)
{
    const struct cr_sequence *s = r->sequence;
    enum cr_status status = cr_recurrent_open(r);
    if (status != CR_OK) return status;
    if (truncate < 0)
        return cr_fail(CR_INVALID_ARGUMENT, "truncate must be at least 0, got %lld", (long long)truncate);

    r->dy = dy;
    r->truncate = truncate;
    r->last = s->T;
    struct cr_scratch workspace;
    if ((status = open_arrays(r, cache, dlast, dh, &workspace)) != CR_OK) return status;
    if ((status = cr_recurrent_open_operands(r, 1, cr_larger(1, s->T))) == CR_OK) {
        cr_recurrent_walk(r, run_part);
        const size_t rows = (size_t)(s->B * r->kernels->size);
        if (dstate->h) memcpy(dstate->h, r->dh, rows * (size_t)r->R);
        if (r->has_c && dstate->c) memcpy(dstate->c, r->dc, rows * (size_t)s->H);
        status = finish(r, x, dx, dweights);
    }
    cr_recurrent_close_operands(r);
    cr_scratch_close(&workspace);
    return status;
}
