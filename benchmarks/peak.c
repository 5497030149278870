/* What one core can do: multiply-adds from registers, and reads from a buffer.
 *
 * Built by machine.py once for every REAL (float, double) and BYTES (vector width), with the flags of this very
 * processor. Vectors wider than the processor's are legal and slow; the caller keeps the best width. */
#include <stdint.h>

/* Clang, tuning for some processors, would otherwise make two vectors of 32 bytes of one of 64. */
#if defined(__clang__)
#define FULL_WIDTH __attribute__((min_vector_width(BYTES * 8)))
#else
#define FULL_WIDTH
#endif

typedef REAL vec __attribute__((vector_size(BYTES), may_alias));

enum {
    LANES = BYTES / sizeof(REAL),
    CHAINS = 12 /* independent sums: more than latency x units (4 x 2), and they fit 16 registers */
};

int64_t fma_flops(void)
{
    return 2 * CHAINS * LANES;
}

int64_t read_bytes(void)
{
    return CHAINS * BYTES;
}

static REAL total(const vec *chains)
{
    REAL sum = 0;
    for (int i = 0; i < CHAINS; i++)
        for (int lane = 0; lane < LANES; lane++) sum += chains[i][lane];
    return sum;
}

/* fma_flops() a round, all operands in registers. factor and term are arguments, the sums start apart and their total
 * is returned, so that nothing can be folded; factor < 1 keeps them finite. */
FULL_WIDTH REAL fma_rounds(int64_t rounds, REAL factor, REAL term)
{
    const vec factors = (vec){0} + factor, terms = (vec){0} + term;
    vec chains[CHAINS];
    for (int i = 0; i < CHAINS; i++) chains[i] = terms * (REAL)i;
    for (int64_t round = 0; round < rounds; round++)
        for (int i = 0; i < CHAINS; i++) chains[i] = chains[i] * factors + terms;
    return total(chains);
}

/* Reads `blocks` blocks of read_bytes() each from data, aligned to BYTES, `rounds` times. */
FULL_WIDTH REAL read_rounds(const REAL *data, int64_t blocks, int64_t rounds)
{
    vec chains[CHAINS] = {0};
    for (int64_t round = 0; round < rounds; round++)
        for (int64_t block = 0; block < blocks; block++) {
            const vec *at = (const vec *)data + block * CHAINS;
            for (int i = 0; i < CHAINS; i++) chains[i] += at[i];
        }
    return total(chains);
}
