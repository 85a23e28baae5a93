/* AVX2 with fused multiply-add: 8 floats per vector, 16 registers. */
#define _POSIX_C_SOURCE 200809L
#include "api.h"

#ifdef SBM_X86
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define W 8
#define KERNELS kernels_avx2
#define KERNELS_NAME "avx2"
#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
