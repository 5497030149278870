/* Workspace. Everything the library allocates goes through here, so that one hook sees (and can fail) it all. */
#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

enum { alignment = 64 }; /* a cache line, and the widest vector */

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
 *     | up to 63 bytes | address of the block | size bytes, aligned |
 *
 * so any allocator will do, and release needs no size and no table. */
void *cr_allocate(int64_t size)
{
    const size_t overhead = sizeof(void *) + alignment - 1;
    char *raw = NULL;
    if ((uint64_t)size <= PTRDIFF_MAX - overhead) /* a negative size is too large as well */
        raw = allocate_hook((size_t)size + overhead);
    if (raw == NULL) {
        cr_fail(CR_OUT_OF_MEMORY, "%" PRId64 " bytes of workspace could not be allocated", size);
        return NULL;
    }
    char *first = raw + sizeof(void *);
    char *block = first + (-(uintptr_t)first & (alignment - 1));
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
