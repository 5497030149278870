/* The vocabulary of vectors: what GCC and Clang vector types do not say themselves, in the words of one instruction
 * set. Included once per real type (REAL, INTEGER, REAL_BITS, LANES, NAME); the only kernel file in which instruction
 * sets are named. A vector type has + - * / and comparisons already. */
#if defined(__AVX2__)
#include <immintrin.h>
#endif

typedef REAL NAME(vec) __attribute__((vector_size(CR_VECTOR_BYTES)));
typedef INTEGER NAME(veci) __attribute__((vector_size(CR_VECTOR_BYTES))); /* of comparisons and bit patterns */
typedef REAL NAME(vec_unaligned) __attribute__((vector_size(CR_VECTOR_BYTES), aligned(REAL_BITS / 8), may_alias));
#define VEC NAME(vec)
#define VECI NAME(veci)

CR_INLINE VEC NAME(load)(const REAL *p) { return *(const NAME(vec_unaligned) *)p; }
CR_INLINE void NAME(store)(REAL *p, VEC v) { *(NAME(vec_unaligned) *)p = v; }
CR_INLINE VEC NAME(broadcast)(REAL s) { return s - (VEC){0}; }

/* Masks of lanes, and loads and stores that touch no byte of others, where a load gives zero; select_masked: of a where
 * the mask is set, of b elsewhere. lanes_below and those that are partial: lanes [0, n), 0 <= n <= LANES. */
#if defined(__AVX512F__)

#if REAL_BITS == 32
typedef __mmask16 NAME(mask);
#else
typedef __mmask8 NAME(mask);
#endif
#define MASK NAME(mask)

CR_INLINE MASK NAME(lanes_below)(int n) { return (MASK)((1u << n) - 1); }

CR_INLINE VEC NAME(load_masked)(const REAL *p, MASK mask)
{
#if REAL_BITS == 32
    return (VEC)_mm512_maskz_loadu_ps(mask, p);
#else
    return (VEC)_mm512_maskz_loadu_pd(mask, p);
#endif
}

CR_INLINE void NAME(store_masked)(REAL *p, VEC v, MASK mask)
{
#if REAL_BITS == 32
    _mm512_mask_storeu_ps(p, mask, (__m512)v);
#else
    _mm512_mask_storeu_pd(p, mask, (__m512d)v);
#endif
}

CR_INLINE VEC NAME(select_masked)(MASK mask, VEC a, VEC b)
{
#if REAL_BITS == 32
    return (VEC)_mm512_mask_blend_ps(mask, (__m512)b, (__m512)a);
#else
    return (VEC)_mm512_mask_blend_pd(mask, (__m512d)b, (__m512d)a);
#endif
}

#elif defined(__AVX2__)

typedef __m256i NAME(mask);
#define MASK NAME(mask)

CR_INLINE MASK NAME(lanes_below)(int n)
{
#if REAL_BITS == 32
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
#else
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
#endif
}

CR_INLINE VEC NAME(load_masked)(const REAL *p, MASK mask)
{
#if REAL_BITS == 32
    return (VEC)_mm256_maskload_ps(p, mask);
#else
    return (VEC)_mm256_maskload_pd(p, mask);
#endif
}

CR_INLINE void NAME(store_masked)(REAL *p, VEC v, MASK mask)
{
#if REAL_BITS == 32
    _mm256_maskstore_ps(p, mask, (__m256)v);
#else
    _mm256_maskstore_pd(p, mask, (__m256d)v);
#endif
}

CR_INLINE VEC NAME(select_masked)(MASK mask, VEC a, VEC b)
{
#if REAL_BITS == 32
    return (VEC)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)mask);
#else
    return (VEC)_mm256_blendv_pd((__m256d)b, (__m256d)a, (__m256d)mask);
#endif
}

#else

typedef struct NAME(mask) { int first, end; } NAME(mask);
#define MASK NAME(mask)

CR_INLINE MASK NAME(lanes_below)(int n) { return (MASK){0, n}; }

CR_INLINE VEC NAME(load_masked)(const REAL *p, MASK mask)
{
    VEC v = {0};
    for (int i = 0; i < LANES; i++)
        if (i >= mask.first && i < mask.end) v[i] = p[i];
    return v;
}

CR_INLINE void NAME(store_masked)(REAL *p, VEC v, MASK mask)
{
    for (int i = 0; i < LANES; i++)
        if (i >= mask.first && i < mask.end) p[i] = v[i];
}

CR_INLINE VEC NAME(select_masked)(MASK mask, VEC a, VEC b)
{
    for (int i = 0; i < LANES; i++)
        if (i >= mask.first && i < mask.end) b[i] = a[i];
    return b;
}

#endif

CR_INLINE VEC NAME(load_partial)(const REAL *p, int n) { return NAME(load_masked)(p, NAME(lanes_below)(n)); }
CR_INLINE void NAME(store_partial)(REAL *p, VEC v, int n) { NAME(store_masked)(p, v, NAME(lanes_below)(n)); }

/* Lanes [first, end) of those there are. */
CR_INLINE MASK NAME(lanes_between)(int64_t first, int64_t end)
{
    const int below = first < 0 ? 0 : first < LANES ? (int)first : LANES;
    const int past = end < below ? below : end < LANES ? (int)end : LANES;
#if defined(__AVX512F__)
    return NAME(lanes_below)(past) & (MASK)~NAME(lanes_below)(below);
#elif defined(__AVX2__)
    return _mm256_andnot_si256(NAME(lanes_below)(below), NAME(lanes_below)(past));
#else
    return (MASK){below, past};
#endif
}

/* The elements from j on, as many as there are: left of them until the end. */
CR_INLINE VEC NAME(get)(const REAL *row, int64_t j, int64_t left)
{
    return left >= LANES ? NAME(load)(row + j) : NAME(load_partial)(row + j, (int)left);
}

CR_INLINE void NAME(put)(REAL *row, int64_t j, int64_t left, VEC v)
{
    if (left >= LANES)
        NAME(store)(row + j, v);
    else
        NAME(store_partial)(row + j, v, (int)left);
}

/* a * b + c, rounded once where the processor can and twice where it cannot. Never left to the compiler: the build
 * says -ffp-contract=off, so that the same term is rounded alike in every tile. */
CR_INLINE VEC NAME(fma)(VEC a, VEC b, VEC c)
{
#if defined(__AVX512F__) && REAL_BITS == 32
    return (VEC)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX512F__)
    return (VEC)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__) && REAL_BITS == 32
    return (VEC)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__AVX2__)
    return (VEC)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
    VEC r;
    for (int i = 0; i < LANES; i++)
        r[i] = REAL_BITS == 32 ? __builtin_fmaf(a[i], b[i], c[i]) : __builtin_fma(a[i], b[i], c[i]);
    return r;
#else
    return a * b + c;
#endif
}

/* Keeps v in a register. Without it GCC folds the load of B back into every multiply that uses it, and the tile
 * becomes bound by loads instead of arithmetic. */
CR_INLINE VEC NAME(keep)(VEC v)
{
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__x86_64__)
    __asm__("" : "+x"(v));
#elif defined(__aarch64__)
    __asm__("" : "+w"(v));
#endif
    return v;
}

/* Leaves n vectors in memory. Without it GCC takes registers for some of them from what is needed more often. */
CR_INLINE void NAME(leave)(VEC *v, const int n) { __asm__("" : "+m"(*(VEC(*)[n])v)); }

/* Shuffles of two vectors that move nothing across the blocks of 16 bytes that a vector is made of, and shuffles of
 * whole blocks: a processor has more room for these than for any others. The index of result lane i is a formula. */
#define LANES_2(index) index(0), index(1)
#define LANES_4(index) LANES_2(index), index(2), index(3)
#define LANES_8(index) LANES_4(index), index(4), index(5), index(6), index(7)
#define LANES_16(index) \
    LANES_8(index), index(8), index(9), index(10), index(11), index(12), index(13), index(14), index(15)
#if CR_VECTOR_BYTES * 8 == 2 * REAL_BITS
#define ALL_LANES LANES_2
#elif CR_VECTOR_BYTES * 8 == 4 * REAL_BITS
#define ALL_LANES LANES_4
#elif CR_VECTOR_BYTES * 8 == 8 * REAL_BITS
#define ALL_LANES LANES_8
#else
#define ALL_LANES LANES_16
#endif

/* In each block the lower, the upper halves of a's and b's, lanes in turn: a0 b0 a1 b1. */
#define LOW(i) (i) / BLOCK * BLOCK + (i) % BLOCK / 2 + (i) % 2 * LANES
#define HIGH(i) (i) / BLOCK * BLOCK + (i) % BLOCK / 2 + (i) % 2 * LANES + BLOCK / 2
CR_INLINE VEC NAME(interleave_low)(VEC a, VEC b) { return __builtin_shufflevector(a, b, ALL_LANES(LOW)); }
CR_INLINE VEC NAME(interleave_high)(VEC a, VEC b) { return __builtin_shufflevector(a, b, ALL_LANES(HIGH)); }

/* Every other block of a, then of b: from the first on, from the second. */
#define EVEN(i) (i) / BLOCK * 2 * BLOCK + (i) % BLOCK
#define ODD(i) (i) / BLOCK * 2 * BLOCK + (i) % BLOCK + BLOCK
CR_INLINE VEC NAME(even_blocks)(VEC a, VEC b) { return __builtin_shufflevector(a, b, ALL_LANES(EVEN)); }
CR_INLINE VEC NAME(odd_blocks)(VEC a, VEC b) { return __builtin_shufflevector(a, b, ALL_LANES(ODD)); }
#undef ALL_LANES

/* Lane l is lane index[l] modulo LANES of v. */
CR_INLINE VEC NAME(shuffle)(VEC v, VECI index)
{
#if defined(__AVX512F__) && REAL_BITS == 32
    return (VEC)_mm512_permutexvar_ps((__m512i)index, (__m512)v);
#elif defined(__AVX512F__)
    return (VEC)_mm512_permutexvar_pd((__m512i)index, (__m512d)v);
#elif defined(__AVX2__) && REAL_BITS == 32
    return (VEC)_mm256_permutevar8x32_ps((__m256)v, (__m256i)index);
#elif defined(__AVX2__) /* by halves of a lane: there is none for lanes of 64 bits */
    return (VEC)_mm256_permutevar8x32_ps((__m256)v, (__m256i)(2 * index | (2 * index + 1) << 32));
#else
    VEC r = v;
    for (int i = 0; i < LANES; i++) r[i] = v[index[i] & (LANES - 1)];
    return r;
#endif
}

/* Lane by lane: mask (a comparison: all ones or all zeros) ? a : b. */
CR_INLINE VEC NAME(select)(VECI mask, VEC a, VEC b) { return (VEC)((mask & (VECI)a) | (~mask & (VECI)b)); }

/* Lane by lane: a < b ? yes : no. */
CR_INLINE VEC NAME(if_less)(VEC a, VEC b, VEC yes, VEC no)
{
#if defined(__AVX512F__) && REAL_BITS == 32
    return (VEC)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ), (__m512)no, (__m512)yes);
#elif defined(__AVX512F__)
    return (VEC)_mm512_mask_blend_pd(_mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ), (__m512d)no, (__m512d)yes);
#else
    return NAME(select)(a < b, yes, no);
#endif
}

/* Lane by lane: a < b ? a : b, and a > b ? a : b; so b where one of them is NaN. */
CR_INLINE VEC NAME(smaller)(VEC a, VEC b)
{
#if defined(__AVX512F__) && REAL_BITS == 32
    return (VEC)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX512F__)
    return (VEC)_mm512_min_pd((__m512d)a, (__m512d)b);
#else
    return NAME(select)(a < b, a, b);
#endif
}

CR_INLINE VEC NAME(larger)(VEC a, VEC b)
{
#if defined(__AVX512F__) && REAL_BITS == 32
    return (VEC)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX512F__)
    return (VEC)_mm512_max_pd((__m512d)a, (__m512d)b);
#else
    return NAME(select)(a > b, a, b);
#endif
}
