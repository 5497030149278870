/* AVX-512: 32 registers of 64 bytes. */
#if !defined(__AVX512F__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__) || !defined(__AVX512BW__)
#error "isa/avx512.c must be compiled with -mavx512f -mavx512dq -mavx512vl -mavx512bw -mfma"
#endif
#define CR_ISA avx512
#define CR_VECTOR_BYTES 64
#define CR_TILE_ROWS 14
#define CR_TILE_VECTORS 2
#define CR_FEW_ROWS 3
#define CR_PLANE_TAPS 7
#include "../kernels/kernels.inc"
