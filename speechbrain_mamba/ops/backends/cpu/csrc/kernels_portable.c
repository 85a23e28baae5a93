/* Whatever the compiler's target offers: 4 floats per vector, which is NEON on ARM and SSE2 on any 64-bit x86. */
#define _POSIX_C_SOURCE 200809L

#if defined(__SSE__)
#include <immintrin.h>
#endif

#define W 4
#define KERNELS kernels_portable
#define KERNELS_NAME "portable"
#include "kernels.h"
