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
            memcpy(cr_at(cr_row_of(r, r->dh_all, t - r->first, row, r->R), first, size), dh,
                   (size_t)((end - first) * size));
    }
}

static void run_part(void *context, int part, int parts)
{
    const struct cr_recurrence *r = context;
    const struct cr_sequence *s = r->sequence;
    const int64_t rows = cr_cut(s->B, part + 1, parts), size = r->kernels->size;
    const unsigned long mode = cr_float_mode();

    cr_set_float_mode(cr_flushing(mode));
    for (int64_t t = r->last - 1; t >= r->first; t--) {
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

/* Gradients of so many bytes are made before they are multiplied: they stay in a second-level cache until then, and no
 * call has room for those of all steps, fresh pages each time. */
enum { CHUNK_BYTES = 1024 * 1024 };

/* Whole blocks of those that the gradients of weights are added in. */
static int64_t steps_of_chunk(const struct cr_recurrence *r)
{
    const struct cr_sequence *s = r->sequence;
    const int64_t block = cr_larger(1, CR_WEIGHTS_PIXELS / cr_larger(1, s->B));
    const int64_t step_bytes = cr_larger(1, s->B * r->kernels->size * (r->gates + r->has_extra) * s->H);
    return cr_larger(1, CHUNK_BYTES / step_bytes / block) * block;
}

/* The workspace, and the state's gradient that enters at the end. */
static enum cr_status open_arrays(struct cr_recurrence *r, const struct cr_cache *cache, const struct cr_state *dlast,
                                  int64_t chunk, int keeps_dh, struct cr_scratch *workspace)
{
    const struct cr_sequence *s = r->sequence;
    const int64_t rows = s->B * r->kernels->size, all = chunk * rows;
    const int64_t bytes[] = {
        all * r->gates * s->H,                   /* dgates */
        r->has_extra && !s->P ? all * s->H : 0,  /* dextra */
        rows * r->R,                             /* dh */
        r->has_c ? rows * s->H : 0,              /* dc */
        s->P ? rows * s->H : 0,                  /* dm */
        s->P && !keeps_dh ? all * r->R : 0,      /* dh_all: dV needs it */
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

/* data [.., B, width], contiguous, from slot `first` on; NULL if it is. */
static struct cr_series steps_of(const struct cr_recurrence *r, char *data, int64_t first, int64_t width)
{
    return (struct cr_series){data ? cr_row_of(r, data, first, 0, width) : NULL, r->sequence->B * width, width, 1};
}

/* A [.., B, channels] array as the image of a 1x1 convolution over (steps, B) pixels: of one row, over steps. */
static struct cr_tensor image_of(const struct cr_recurrence *r, const struct cr_series *series)
{
    const int one = r->sequence->B == 1;
    return (struct cr_tensor){.data = series->data, .channel = series->column,
                              .space = {0, one ? 0 : series->time, one ? series->time : series->row}};
}

/* dw [K, C] = the sum over the chunk's steps and rows of d [.., K] times x [.., C]; and db [K], that of d. Each if
 * wanted, and added to the sum over what follows in time. */
static enum cr_status sum_gradients(const struct cr_recurrence *r, const struct cr_series *d, int64_t K,
                                    const struct cr_series *x, int64_t C, const struct cr_matrix *dw, void *db)
{
    const int64_t steps = r->last - r->first, B = r->sequence->B;
    const struct cr_tensor dy = image_of(r, d), image = image_of(r, x);
    const int later = r->last < r->sequence->T;
    struct cr_conv conv = {.dtype = r->sequence->dtype, .N = steps && B, .C = C, .K = K, .groups = 1};
    enum cr_status status = CR_OK;

    for (int axis = 0; axis < 3; axis++) {
        conv.in[axis] = conv.out[axis] = cr_larger(1, axis == 0 ? 1 : (axis == 1) == (B == 1) ? B : steps);
        conv.kernel[axis] = conv.stride[axis] = conv.dilation[axis] = 1;
    }
    if (dw->data) {
        const struct cr_tensor kernel = {.data = dw->data, .batch = dw->row, .channel = dw->column};
        status = cr_conv_sum_weights(&conv, &dy, &image, &kernel, later);
    }
    if (status == CR_OK && db) status = cr_conv_sum_bias(&conv, &dy, db, later);
    return status;
}

/* The gradients of W, U, V, b, b' and x, from dgates, dextra and dh of the chunk's steps. */
static enum cr_status finish(const struct cr_recurrence *r, const struct cr_series *x, const struct cr_series *dx,
                             const struct cr_weights *dweights)
{
    const struct cr_sequence *s = r->sequence;
    const int64_t H = s->H, first = r->first, size = r->kernels->size;
    const struct cr_series dgates = steps_of(r, r->dgates, 0, r->gates * H);
    const struct cr_series dextra = steps_of(r, r->dextra, 0, H);
    const struct cr_series inputs = {cr_at(x->data, first * x->time, size), x->time, x->row, x->column};
    const struct cr_series states = steps_of(r, r->h, first, r->R), extras = steps_of(r, r->extra, first, H);
    enum cr_status status =
        sum_gradients(r, &dgates, r->gates * H, &inputs, s->inputs, &dweights->w_ih, dweights->b_ih);

    for (int i = 0; i < r->pieces && status == CR_OK; i++) {
        const struct cr_piece *piece = &r->piece[i];
        const int64_t start = piece->first * H;
        struct cr_series d = dgates;
        struct cr_matrix dw = dweights->w_hh;
        void *db = dweights->b_hh ? cr_at(dweights->b_hh, start, size) : NULL;

        d.data = cr_at(d.data, start, size);
        if (dw.data) dw.data = cr_at(dw.data, start * dw.row, size);
        if (db && dweights->b_ih && !piece->of_dextra) { /* b and b' have one gradient */
            memcpy(db, cr_at(dweights->b_ih, start, size), (size_t)(piece->gates * H * size));
            db = NULL;
        }
        status = sum_gradients(r, piece->of_dextra ? &dextra : &d, piece->gates * H,
                               piece->of_extra ? &extras : &states, r->R, &dw, db);
    }
    if (status == CR_OK && s->P) {
        const struct cr_series dh = steps_of(r, r->dh_all, 0, r->R);
        status = sum_gradients(r, &dh, s->P, &extras, H, &dweights->w_hr, NULL);
    }
    if (status == CR_OK && dx->data) {
        const struct cr_series outputs = {cr_at(dx->data, first * dx->time, size), dx->time, dx->row, dx->column};
        cr_recurrent_rows(r, CR_W, &dgates, &outputs, NULL);
    }
    return status;
}

/* Steps [r->first, r->last), and what of the gradients is theirs. */
static enum cr_status run_chunk(struct cr_recurrence *r, const struct cr_series *x, const struct cr_series *dx,
                                const struct cr_weights *dweights, void *dh)
{
    const struct cr_sequence *s = r->sequence;

    if (dh) r->dh_all = cr_row_of(r, dh, r->first, 0, r->R);
    if (s->lengths) { /* steps past a row's end have no gradient */
        const int64_t rows = (r->last - r->first) * s->B * r->kernels->size;
        memset(r->dgates, 0, (size_t)(rows * r->gates * s->H));
        if (r->dextra) memset(r->dextra, 0, (size_t)(rows * s->H));
        if (r->dh_all && !dh) memset(r->dh_all, 0, (size_t)(rows * r->R));
    }
    cr_recurrent_walk(r, run_part);
    return finish(r, x, dx, dweights);
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
    const int64_t chunk = cr_larger(1, cr_smaller(s->T, steps_of_chunk(r))), rows = s->B * r->kernels->size;
    struct cr_scratch workspace;
    if ((status = open_arrays(r, cache, dlast, chunk, dh != NULL, &workspace)) != CR_OK) return status;
    status = cr_recurrent_open_operands(r, 1, dx->data ? CR_W : CR_U, chunk);
    r->first = s->T;
    do { /* once even where there are no steps: gradients are zero then */
        r->last = r->first;
        r->first = cr_larger(0, r->last - 1) / chunk * chunk;
        if (status == CR_OK) status = run_chunk(r, x, dx, dweights, dh);
    } while (r->first > 0);
    if (status == CR_OK && dstate->h) memcpy(dstate->h, r->dh, (size_t)(rows * r->R));
    if (status == CR_OK && r->has_c && dstate->c) memcpy(dstate->c, r->dc, (size_t)(rows * s->H));
    cr_recurrent_close_operands(r);
    cr_scratch_close(&workspace);
    return status;
}
