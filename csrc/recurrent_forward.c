/* The walk forward in time. */
#include <string.h>

#include "recurrent.h"

/* Gates go through the input part and then the walk a chunk of steps at a time: so many bytes of them stay in a
 * second-level cache. But a chunk has rows enough to be worth reading W, which may be larger than that cache, and where
 * so many rows of gates do not stay there either, four times as many cost nothing more: at H = 1024, B = 32 chunks of
 * one step took 29 % longer than 128 rows, and those 5 to 12 % longer than 512. */
enum { CHUNK_BYTES = 512 * 1024, CHUNK_ROWS = 128 };

static int64_t rows_of_chunk(int64_t row_bytes)
{
    const int64_t least = CHUNK_ROWS * row_bytes;
    return least <= CHUNK_BYTES ? CHUNK_BYTES / row_bytes : least <= 2 * CHUNK_BYTES ? CHUNK_ROWS : 4 * CHUNK_ROWS;
}

/* ---- the walk ---- */

void cr_recurrent_leave(const struct cr_recurrence *r, const struct cr_share *share)
{
    const int64_t size = r->kernels->size;
    int64_t end;
    const int64_t first = cr_recurrent_cut(r, share, r->R, &end);

    for (int64_t row = share->row; row < share->row + share->m; row++)
        memcpy(cr_at(r->y->data, share->t * r->y->time + row * r->y->row + first, size),
               cr_at(cr_row_of(r, r->h, (share->t + 1) & r->slots, row, r->R), first, size),
               (size_t)((end - first) * size));
}

static void run_part(void *context, int part, int parts)
{
    const struct cr_recurrence *r = context;
    const int64_t rows = cr_cut(r->sequence->B, part + 1, parts), size = r->kernels->size;
    const unsigned long mode = cr_float_mode();

    cr_set_float_mode(cr_flushing(mode));
    for (int64_t t = r->first; t < r->last; t++)
        for (int64_t row = cr_cut(r->sequence->B, part, parts), end; row < rows; row = end)
            if (cr_recurrent_run(r, t, row, rows, &end))
                cr_recurrent_step(r, t, row, end - row, part);
            else
                for (int64_t i = row; i < end; i++)
                    memset(cr_at(r->y->data, t * r->y->time + i * r->y->row, size), 0, (size_t)(r->R * size));
    cr_set_float_mode(mode);
}

/* Arrays: the cache's; without one, the workspace has room for a chunk of steps. The state is then stepped where it is
 * wanted in the end; or, if others still read what one has written, from one of two slots into the other. */
static enum cr_status open_arrays(struct cr_recurrence *r, const struct cr_state *last, const struct cr_cache *cache,
                                  int64_t chunk, struct cr_scratch *workspace)
{
    const struct cr_sequence *s = r->sequence;
    const int64_t rows = s->B * r->kernels->size, slots = r->by_columns ? 2 : 1;
    const int in_place = !r->by_columns;
    const int64_t bytes[] = {
        cache ? 0 : chunk * rows * r->gates * s->H,
        cache || !r->has_extra ? 0 : chunk * rows * s->H,
        cache || (in_place && last->h) ? 0 : slots * rows * r->R,
        cache || (in_place && last->c) || !r->has_c ? 0 : slots * rows * s->H,
    };
    char *const room = cr_scratch_open(workspace, bytes[0] + bytes[1] + bytes[2] + bytes[3]);
    if (!room) return CR_OUT_OF_MEMORY;

    r->slots = cache ? -1 : slots - 1;
    if (cache) {
        r->h = cache->h;
        r->c = cache->c;
        r->gate_values = cache->gates;
        r->extra = cache->extra;
    } else {
        r->gate_values = room;
        r->extra = r->gate_values + bytes[0];
        r->h = bytes[2] ? r->extra + bytes[1] : last->h;
        r->c = bytes[3] ? r->extra + bytes[1] + bytes[2] : last->c;
    }
    return CR_OK;
}

/* A copy of a state, or zeros. */
static void set_first(const struct cr_recurrence *r, char *into, int64_t width, const void *from)
{
    const size_t bytes = (size_t)(r->sequence->B * width * r->kernels->size);
    if (from)
        memcpy(into, from, bytes);
    else
        memset(into, 0, bytes);
}

/* into [B, width]: the last state of each row, from its slot. */
static void copy_last(const struct cr_recurrence *r, char *from, int64_t width, void *into)
{
    const struct cr_sequence *s = r->sequence;
    for (int64_t b = 0; into && into != from && b < s->B; b++) {
        const int64_t end = (s->lengths ? s->lengths[b] : s->T) & r->slots;
        memcpy(cr_row_of(r, into, 0, b, width), cr_row_of(r, from, end, b, width), (size_t)(width * r->kernels->size));
    }
}

enum cr_status cr_recurrent_forward(struct cr_recurrence *r, const struct cr_series *x, const struct cr_state *state,
                                    const struct cr_series *y, const struct cr_state *last,
                                    const struct cr_cache *cache)
{
    const struct cr_sequence *s = r->sequence;
    enum cr_status status = cr_recurrent_open(r);
    if (status != CR_OK || s->B == 0) return status;

    r->y = y;
    const int64_t width = r->gates * s->H, size = r->kernels->size;
    const int64_t chunk = cr_larger(1, cr_smaller(s->T, rows_of_chunk(width * size) / s->B));
    struct cr_scratch workspace;

    if ((status = open_arrays(r, last, cache, chunk, &workspace)) != CR_OK) return status;
    if ((status = cr_recurrent_open_operands(r, 0, CR_W, chunk)) == CR_OK) {
        set_first(r, r->h, r->R, state->h);
        if (r->has_c) set_first(r, r->c, s->H, state->c);
        for (; r->first < s->T; r->first = r->last) {
            r->last = cr_smaller(s->T, r->first + chunk);
            if (!cache) r->kept = r->first;
            const struct cr_series input = {cr_at(x->data, r->first * x->time, size), x->time, x->row, x->column};
            const struct cr_series gates = {cr_row_of(r, r->gate_values, r->first - r->kept, 0, width), s->B * width,
                                            width, 1};
            cr_recurrent_rows(r, CR_W, &input, &gates, r->weights->b_ih);
            cr_recurrent_walk(r, run_part);
        }
        copy_last(r, r->h, r->R, last->h);
        if (r->has_c) copy_last(r, r->c, s->H, last->c);
    }
    cr_recurrent_close_operands(r);
    cr_scratch_close(&workspace);
    return status;
}
