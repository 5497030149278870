/* Workspace. Everything the library allocates goes through here, so that one hook sees (and can fail) it all. */
#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime.h"

enum { alignment = 64 }; /* a cache line, and the widest vector */

/* Blocks of so many bytes lie on large pages where the system has them, as NumPy's arrays do. They are often fresh from
 * the system in each call, and 8,160 faults for 32 MiB took 14 ms of the 85 of LSTM 25,32,1024,1024. */
enum { large_block = 4 << 20, large_page = 2 << 20 };

static void *(*allocate_hook)(size_t size) = malloc;
static void (*release_hook)(void *block) = free;

void cr_set_allocator(void *(*allocate)(size_t size), void (*release)(void *block))
{
    /* Half a pair would hand blocks of one allocator to another. */
    int both = allocate != NULL && release != NULL;
    allocate_hook = both ? allocate : malloc;
    release_hook = both ? release : free;
}

/* The allocator's block, and in it what the caller gets:
 *
 *     | less than a line | address of the block | size bytes, aligned |
 *
 * so any allocator will do, and release needs no size and no table. */
void *cr_allocate(int64_t size)
{
    const size_t line = size >= large_block ? large_page : alignment, overhead = sizeof(void *) + line - 1;
    char *raw = NULL;
    if ((uint64_t)size <= PTRDIFF_MAX - overhead) /* a negative size is too large as well */
        raw = allocate_hook((size_t)size + overhead);
    if (raw == NULL) {
        cr_fail(CR_OUT_OF_MEMORY, "%" PRId64 " bytes of workspace could not be allocated", size);
        return NULL;
    }
    char *first = raw + sizeof(void *);
    char *block = first + (-(uintptr_t)first & (line - 1));
#ifdef MADV_HUGEPAGE
    if (size >= large_block) madvise(block, (size_t)size, MADV_HUGEPAGE);
#endif
    memcpy(block - sizeof(void *), &raw, sizeof raw);
    return block;
}

void cr_release(void *block)
{
    if (block == NULL)
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
