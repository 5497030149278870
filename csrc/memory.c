/* Workspace. Everything the library allocates goes through here, so that one hook sees (and can fail) it all. */
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime.h"

enum { alignment = 64 }; /* a cache line, and the widest vector */

/* Blocks of so many bytes lie on large pages, whole ones, where the system has them, as NumPy's large arrays do. They
 * are often fresh from the system in each call, and 8,160 faults for 32 MiB took 14 ms of the 85 of LSTM
 * 25,32,1024,1024. */
enum { large_page = 2 << 20 };

static void *(*allocate_hook)(size_t size) = malloc;
static void (*release_hook)(void *block) = free;

/* ---- what a thread keeps ---- */

/* A thread keeps the room for the workspace of its calls, up to so many bytes, whatever they are for. From malloc they
 * would be the end of the heap, which it hands back to the system as soon as they are free, and every call would fault
 * its pages in anew: of 1,040 us for forward and backward of LSTM 100,1,64,128, 500. */
enum { KEPT_BYTES = 2 << 20 };

static _Thread_local struct {
    char *room;         /* NULL until it is needed */
    int64_t used, open; /* bytes, and blocks: with the last of them all is free again */
} kept;

static pthread_key_t kept_key;
static pthread_once_t kept_once = PTHREAD_ONCE_INIT;
static int kept_at_exit; /* threads give their room back when they end; if they cannot, there is none */

static void end_thread(void *room)
{
    free(room);
    kept.room = NULL; /* whoever calls the library later in the thread's end gets another */
    kept.used = 0;
}

static void make_key(void) { kept_at_exit = pthread_key_create(&kept_key, end_thread) == 0; }

/* size bytes of the thread's room; NULL if they are not to be had there. */
static void *take_kept(int64_t size)
{
#ifdef __SANITIZE_ADDRESS__ /* which sees where a block ends only if malloc made it */
    return NULL;
#endif
    if (allocate_hook != malloc || size < 0 || size > KEPT_BYTES - kept.used) return NULL;
    if (!kept.room) {
        char *room = NULL;
        pthread_once(&kept_once, make_key);
        if (!kept_at_exit || !(room = aligned_alloc(alignment, KEPT_BYTES))) return NULL;
        if (pthread_setspecific(kept_key, room) != 0) {
            free(room);
            return NULL;
        }
        kept.room = room;
    }
    char *const block = kept.room + kept.used;
    kept.used += (size + alignment - 1) / alignment * alignment;
    kept.open++;
    return block;
}

static int give_back_kept(const void *block)
{
    if (!kept.room || (uintptr_t)block - (uintptr_t)kept.room >= KEPT_BYTES) return 0;
    if (--kept.open == 0) kept.used = 0;
    return 1;
}

/* ---- allocation ---- */

void cr_set_allocator(void *(*allocate)(size_t size), void (*release)(void *block))
{
    /* Half a pair would hand blocks of one allocator to another. */
    int both = allocate != NULL && release != NULL;
    allocate_hook = both ? allocate : malloc;
    release_hook = both ? release : free;
}

/* The allocator's block, and in it what the caller gets:
 *
 *     | less than a line | address of the block | lines of size bytes |
 *
 * so any allocator will do, and release needs no size and no table. */
void *cr_allocate(int64_t size)
{
    char *const at_hand = take_kept(size);
    if (at_hand) return at_hand;
    const size_t line = size >= large_page ? large_page : alignment, overhead = sizeof(void *) + 2 * (line - 1);
    const size_t lines = ((size_t)size + line - 1) / line * line;
    char *raw = NULL;
    if ((uint64_t)size <= PTRDIFF_MAX - overhead) /* a negative size is too large as well */
        raw = allocate_hook(sizeof(void *) + line - 1 + lines);
    if (raw == NULL) {
        cr_fail(CR_OUT_OF_MEMORY, "%" PRId64 " bytes of workspace could not be allocated", size);
        return NULL;
    }
    char *first = raw + sizeof(void *);
    char *block = first + (-(uintptr_t)first & (line - 1));
#ifdef MADV_HUGEPAGE
    if (line == large_page) madvise(block, lines, MADV_HUGEPAGE);
#endif
    memcpy(block - sizeof(void *), &raw, sizeof raw);
    return block;
}

void cr_release(void *block)
{
    if (block == NULL || give_back_kept(block))
        return;
    void *raw;
    memcpy(&raw, (char *)block - sizeof(void *), sizeof raw);
    release_hook(raw);
}

void *cr_scratch_open(struct cr_scratch *scratch, int64_t size)
{
    const int fits = size >= 0 && size <= (int64_t)sizeof scratch->room;
    scratch->allocated = fits ? NULL : cr_allocate(size);
    return fits ? scratch->room : scratch->allocated;
}

void cr_scratch_close(struct cr_scratch *scratch) { cr_release(scratch->allocated); }

int cr_multiply_add(int64_t a, int64_t b, int64_t c, int64_t *result)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) || __builtin_add_overflow(product, c, result);
}
