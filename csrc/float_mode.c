/* The floating-point mode of a thread. Rounding and the treatment of subnormals are set per thread, and a result must
 * not depend on which thread made it. */
#include "runtime.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

unsigned long cr_float_mode(void)
{
#if defined(__SSE2__)
    return _mm_getcsr();
#elif defined(__aarch64__)
    unsigned long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
#else
    return 0; /* not known: a thread keeps the mode it was started with */
#endif
}

void cr_set_float_mode(unsigned long mode)
{
#if defined(__SSE2__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#else
    (void)mode;
#endif
}

unsigned long cr_flushing(unsigned long mode)
{
#if defined(__SSE2__)
    return mode | _MM_FLUSH_ZERO_ON | 0x0040; /* and denormals-are-zeros */
#elif defined(__aarch64__)
    return mode | 1UL << 24;
#else
    return mode;
#endif
}
