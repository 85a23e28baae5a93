/* AVX-512: 16 floats per vector, 32 registers. */
#define _POSIX_C_SOURCE 200809L
#include "api.h"

#ifdef SBM_X86
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c,prefer-vector-width=512")
#endif

#define W 16
#define KERNELS kernels_avx512
#define KERNELS_NAME "avx512"
#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
