/* The baseline: 16-byte vectors, which is SSE2 on x86-64 and NEON on aarch64. */
#define CR_ISA generic
#define CR_VECTOR_BYTES 16
#define CR_TILE_ROWS 6
#define CR_TILE_VECTORS 2
#define CR_FEW_ROWS 2
#define CR_PLANE_TAPS 1
#include "../kernels/kernels.inc"
