/* What operators share and users do not see: words for failures, workspace, threads. */
#ifndef CR_RUNTIME_H
#define CR_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#include "convrnn.h"

#define CR_HIDDEN __attribute__((visibility("hidden")))

/* What threadpoolctl looks up in the Python module, all other symbols of which are hidden. */
#define CR_VISIBLE __attribute__((visibility("default")))

/* status.c: keeps the words for cr_error_message of this thread and returns status, so that a check reads
 * `return cr_fail(CR_INVALID_ARGUMENT, "groups must divide C, but ...", ...)`. Call it from the caller's thread. */
CR_HIDDEN enum cr_status cr_fail(enum cr_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3), cold));

/* memory.c: size bytes, 64-byte aligned, from the allocator of cr_set_allocator; NULL (and words) if there are none
 * or size is negative (an overflow upstream). cr_release(NULL) does nothing. */
CR_HIDDEN void *cr_allocate(int64_t size);
CR_HIDDEN void cr_release(void *block);

/* Workspace of one call, in the caller's frame where so little is needed: a step of a recurrent layer or a small image
 * takes about a microsecond, of which malloc and free would be a tenth. Not to be copied once opened; one that
 * could not be opened need not be closed. */
struct cr_scratch {
    void *allocated; /* NULL: room is enough */
    char room[8192] __attribute__((aligned(64)));
};
CR_HIDDEN void *cr_scratch_open(struct cr_scratch *scratch, int64_t size); /* as cr_allocate */
CR_HIDDEN void cr_scratch_close(struct cr_scratch *scratch);

/* a * b + c into *result; nonzero if that overflows 63 bits. All sizes are computed with it. */
CR_HIDDEN int cr_multiply_add(int64_t a, int64_t b, int64_t c, int64_t *result);

/* threads.c: runs work(context, part, parts) for part = 0 .. parts-1, the caller doing part 0, and returns when all
 * are done. parts is at most cr_get_num_threads(); fewer may run at a time (a nested call, a second caller or a
 * failed pthread_create run the parts one after another in the caller), so parts must not wait for each other.
 * The floating-point mode of the caller holds in all parts. */
CR_HIDDEN void cr_parallel(int parts, void (*work)(void *context, int part, int parts), void *context);

/* float_mode.c: the calling thread's rounding and treatment of subnormals, and a mode that flushes them to zero. */
CR_HIDDEN unsigned long cr_float_mode(void);
CR_HIDDEN void cr_set_float_mode(unsigned long mode);
CR_HIDDEN unsigned long cr_flushing(unsigned long mode);

/* The number of parts worth using for `operations` multiply-adds: 1 where waking a thread costs more than it saves. */
CR_HIDDEN int cr_parts(double operations);

#endif
