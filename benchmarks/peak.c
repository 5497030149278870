/* What one core can do: multiply-adds from registers, and reads from a buffer.
 *
 * Built by machine.py once for every REAL (float, double) and BYTES (vector width), with the flags of this very
 * processor. Vectors wider than the processor's are legal and slow; the caller keeps the best width. */
#include <stdint.h>

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

/* fma_flops() a round. factor and term are arguments, and the sums start apart and are returned, so that nothing can
 * be folded; factor < 1 keeps them normal. */
REAL fma_rounds(int64_t rounds, REAL factor, REAL term)
{
    vec chains[CHAINS], factors, terms;
    for (int lane = 0; lane < LANES; lane++) {
        factors[lane] = factor;
        terms[lane] = term;
        for (int i = 0; i < CHAINS; i++) chains[i][lane] = (REAL)(i + lane);
    }
    for (int64_t round = 0; round < rounds; round++)
        for (int i = 0; i < CHAINS; i++) chains[i] = chains[i] * factors + terms;
    return total(chains);
}

/* Reads `blocks` blocks of read_bytes() each from data, aligned to BYTES, `rounds` times. */
REAL read_rounds(const REAL *data, int64_t blocks, int64_t rounds)
{
    vec chains[CHAINS] = {0};
    for (int64_t round = 0; round < rounds; round++)
        for (int64_t block = 0; block < blocks; block++) {
            const vec *at = (const vec *)data + block * CHAINS;
            for (int i = 0; i < CHAINS; i++) chains[i] += at[i];
        }
    return total(chains);
}
