/* Which instruction set runs. The only file that asks the processor. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "runtime.h"

/* Worst first, and each processor here runs a prefix of the list: runnable() below asks of every set what it asked of
 * the one before. Tables and names are parallel, since the names are handed out as they lie. */
#if defined(__x86_64__)
static const struct cr_isa *const tables[] = {&cr_isa_generic, &cr_isa_avx2, &cr_isa_avx512};
static const char *const table_names[] = {"generic", "avx2", "avx512"};
#else
static const struct cr_isa *const tables[] = {&cr_isa_generic};
static const char *const table_names[] = {"generic"};
#endif

/* NULL until first use. Two threads may both choose: they choose the same, and the first to store it wins. */
static _Atomic(const struct cr_isa *) chosen;

/* The length of the prefix this processor (and its operating system, which has to save the registers) can run. */
static int runnable(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init(); /* a constructor of the embedding program may come before the compiler's own */
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl"))
        return 2;
    return 3;
#else
    return 1;
#endif
}

/* NULL if there is no such instruction set, or it cannot run here. */
static const struct cr_isa *find(const char *name)
{
    for (int i = 0, count = runnable(); i < count; i++)
        if (strcmp(table_names[i], name) == 0)
            return tables[i];
    return NULL;
}

static const struct cr_isa *choose(void)
{
    const char *wanted = getenv("CONVRNN_ISA");
    int asked = wanted != NULL && *wanted != '\0';
    const struct cr_isa *isa = asked ? find(wanted) : NULL;
    if (isa == NULL)
        isa = tables[runnable() - 1];

    const struct cr_isa *first = NULL;
    if (!atomic_compare_exchange_strong(&chosen, &first, isa))
        return first;
    if (asked && strcmp(wanted, isa->name) != 0)
        fprintf(stderr, "convrnn: CONVRNN_ISA=%s is unknown or cannot run on this processor; using %s\n", wanted,
                isa->name);
    return isa;
}

static const struct cr_isa *current(void)
{
    const struct cr_isa *isa = atomic_load_explicit(&chosen, memory_order_acquire);
    return isa != NULL ? isa : choose();
}

const char *cr_isa(void)
{
    return current()->name;
}

int cr_available_isas(const char *const **names)
{
    *names = table_names;
    return runnable();
}

enum cr_status cr_set_isa(const char *name)
{
    const struct cr_isa *isa = find(name);
    if (isa == NULL)
        return cr_fail(CR_INVALID_ARGUMENT,
                       "instruction set '%s' is unknown or cannot run on this processor, whose best is '%s'", name,
                       table_names[runnable() - 1]);
    atomic_store_explicit(&chosen, isa, memory_order_release);
    return CR_OK;
}

const struct cr_kernels *cr_kernels(enum cr_dtype dtype)
{
    return current()->kernels[dtype];
}
