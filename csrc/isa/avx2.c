/* AVX2 and FMA: 16 registers of 32 bytes. */
#if !defined(__AVX2__) || !defined(__FMA__)
#error "isa/avx2.c must be compiled with -mavx2 -mfma"
#endif
#define CR_ISA avx2
#define CR_VECTOR_BYTES 32
#define CR_TILE_ROWS 6
#define CR_TILE_VECTORS 2
#define CR_FEW_ROWS 2
#define CR_PLANE_TAPS 3
#include "../kernels/kernels.inc"
