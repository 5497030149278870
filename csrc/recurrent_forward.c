/* The walk forward in time. */
#include <string.h>

#include "recurrent.h"

/* Without a cache, the gates of so many bytes of steps at a time: they stay in a second-level cache. */
enum { CHUNK_BYTES = 512 * 1024 };

static void run_part(void *context, int part, int parts)
{
    const struct cr_recurrence *r = context;
    const int64_t rows = cr_cut(r->sequence->B, part + 1, parts), size = r->kernels->size;
    const unsigned long mode = cr_float_mode();

    cr_set_float_mode(cr_flushing(mode));
    for (int64_t t = r->first; t < r->last; t++)
        for (int64_t row = cr_cut(r->sequence->B, part, parts), end; row < rows; row = end) {
            const int runs = cr_recurrent_run(r, t, row, rows, &end);
            if (runs) r->step(r, t, row, end - row);
            for (; row < end; row++) {
                void *y = cr_at(r->y->data, t * r->y->time + row * r->y->row, size);
                if (runs)
                    memcpy(y, cr_row_of(r, r->h, (t + 1) % r->slots, row, r->R), (size_t)(r->R * size));
                else
                    memset(y, 0, (size_t)(r->R * size));
            }
        }
    cr_set_float_mode(mode);
}

/* The input part W x + b of steps [first, last), into the gates. */
static enum cr_status project(const struct cr_recurrence *r, const struct cr_series *x)
{
    const struct cr_sequence *s = r->sequence;
    const struct cr_matrix *w = &r->weights->w_ih;
    const int64_t width = r->gates * s->H;
    const struct cr_conv conv = cr_series_conv(r, r->last - r->first, s->inputs, width);
    const struct cr_tensor image =
        cr_series_image(cr_at(x->data, r->first * x->time, r->kernels->size), x->time, x->row, x->column);
    const struct cr_tensor kernel = {.data = w->data, .batch = w->row, .channel = w->column};
    const struct cr_tensor gates = cr_series_image(r->gate_values, s->B * width, width, 1);
    return cr_conv_forward(&conv, &image, &kernel, r->weights->b_ih, &gates);
}

/* Arrays: the cache's, or a workspace with room for two states and a chunk of steps. */
static enum cr_status open_arrays(struct cr_recurrence *r, const struct cr_cache *cache)
{
    const struct cr_sequence *s = r->sequence;
    const int64_t size = r->kernels->size, rows = s->B * size;

    if (cache) {
        r->h = cache->h;
        r->c = cache->c;
        r->gate_values = cache->gates;
        r->extra = cache->extra;
        r->slots = s->T + 1;
        r->gate_slots = s->T;
        return CR_OK;
    }
    r->slots = 2;
    r->gate_slots = cr_larger(1, cr_smaller(s->T, CHUNK_BYTES / (rows * r->gates * s->H)));
    const int64_t h = 2 * rows * r->R, c = r->has_c ? 2 * rows * s->H : 0;
    const int64_t gates = r->gate_slots * rows * r->gates * s->H;
    const int64_t extra = r->has_extra ? r->gate_slots * rows * s->H : 0;
    if (!(r->workspace = cr_allocate(h + c + gates + extra))) return CR_OUT_OF_MEMORY;
    r->h = r->workspace;
    r->c = r->h + h;
    r->gate_values = r->c + c;
    r->extra = r->gate_values + gates;
    return CR_OK;
}

/* U [G*H, R] as [R, gates*H], piece by piece, and V [P, H] as [H, P]. */
static enum cr_status open_operands(struct cr_recurrence *r)
{
    const struct cr_sequence *s = r->sequence;
    const struct cr_matrix *u = &r->weights->w_hh, *v = &r->weights->w_hr;
    enum cr_status status = CR_OK;

    for (int i = 0; i < r->pieces && status == CR_OK; i++)
        status = cr_operand_open(&r->operand[i], r->kernels,
                                 cr_at(u->data, r->piece[i].first * s->H * u->row, r->kernels->size), r->R,
                                 r->piece[i].gates * s->H, u->column, u->row, s->B, s->T);
    if (status == CR_OK && s->P)
        status = cr_operand_open(&r->projection, r->kernels, v->data, s->H, s->P, v->column, v->row, s->B, s->T);
    return status;
}

/* into [B, width] from slot lengths[b] of an array, or from a state. */
static void copy_last(const struct cr_recurrence *r, char *from, int64_t width, void *into)
{
    const struct cr_sequence *s = r->sequence;
    for (int64_t b = 0; into && b < s->B; b++) {
        const int64_t end = s->lengths ? s->lengths[b] : s->T;
        memcpy(cr_row_of(r, into, 0, b, width), cr_row_of(r, from, end % r->slots, b, width),
               (size_t)(width * r->kernels->size));
    }
}

static void set_first(const struct cr_recurrence *r, char *into, int64_t width, const void *from)
{
    const size_t bytes = (size_t)(r->sequence->B * width * r->kernels->size);
    if (from)
        memcpy(into, from, bytes);
    else
        memset(into, 0, bytes);
}

enum cr_status cr_recurrent_forward(struct cr_recurrence *r, const struct cr_series *x, const struct cr_state *state,
                                    const struct cr_series *y, const struct cr_state *last,
                                    const struct cr_cache *cache)
{
    const struct cr_sequence *s = r->sequence;
    enum cr_status status = cr_recurrent_check(r);
    if (status != CR_OK || s->B == 0) return status;

    r->kernels = cr_kernels(s->dtype);
    r->R = s->P ? s->P : s->H;
    r->y = y;
    if ((status = open_arrays(r, cache)) == CR_OK && (status = open_operands(r)) == CR_OK) {
        set_first(r, r->h, r->R, state->h);
        if (r->has_c) set_first(r, r->c, s->H, state->c);
        for (; r->first < s->T && status == CR_OK; r->first = r->last) {
            r->last = cr_smaller(s->T, r->first + r->gate_slots);
            if ((status = project(r, x)) == CR_OK) cr_recurrent_walk(r, run_part);
        }
        copy_last(r, r->h, r->R, last->h);
        if (r->has_c) copy_last(r, r->c, s->H, last->c);
    }
    for (int i = 0; i < r->pieces; i++) cr_release(r->operand[i].packed);
    cr_release(r->projection.packed);
    cr_release(r->workspace);
    return status;
}
