/* Vectors of W floats for one instruction set, by the vector extensions that GCC and clang share.
 *
 * The file that includes this one defines W (16, 8 or 4) and has switched the compiler to the instruction set.
 * Intrinsics appear only where the compiler finds no good instruction on its own.
 */
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(4 * W), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * W), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * W), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * W), may_alias));

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define UNROLL _Pragma("GCC unroll 16")
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif

INLINE vf v_set(float x) { return x - (vf){0}; }
INLINE vf v_zero(void) { return (vf){0}; }

INLINE vf v_load(const void *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void v_store(void *p, vf v) { memcpy(p, &v, sizeof v); }

INLINE vf v_select(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }

/* Bounds; a NaN in x stays. x86 has this as one instruction, which answers its second operand to a NaN. */
#if W == 16
INLINE vf v_max(vf x, vf low) { return (vf)_mm512_max_ps((__m512)low, (__m512)x); }
INLINE vf v_min(vf x, vf high) { return (vf)_mm512_min_ps((__m512)high, (__m512)x); }
#elif W == 8
INLINE vf v_max(vf x, vf low) { return (vf)_mm256_max_ps((__m256)low, (__m256)x); }
INLINE vf v_min(vf x, vf high) { return (vf)_mm256_min_ps((__m256)high, (__m256)x); }
#elif defined(__SSE__)
INLINE vf v_max(vf x, vf low) { return (vf)_mm_max_ps((__m128)low, (__m128)x); }
INLINE vf v_min(vf x, vf high) { return (vf)_mm_min_ps((__m128)high, (__m128)x); }
#else
INLINE vf v_max(vf x, vf low) { return v_select(x < low, low, x); }
INLINE vf v_min(vf x, vf high) { return v_select(x > high, high, x); }
#endif
INLINE vf v_abs(vf x) { return (vf)((vi)x & 0x7fffffff); }

/* One level of the reduction below: lanes whose number has bit d clear hold a[l] + a[l ^ d], the others b's. */
#if W == 16
#define PAIR_1(a, b)                                                                                               \
    (SHUFFLE(a, b, 0, 17, 2, 19, 4, 21, 6, 23, 8, 25, 10, 27, 12, 29, 14, 31) +                                      \
     SHUFFLE(a, b, 1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30))
#define PAIR_2(a, b)                                                                                               \
    (SHUFFLE(a, b, 0, 1, 18, 19, 4, 5, 22, 23, 8, 9, 26, 27, 12, 13, 30, 31) +                                       \
     SHUFFLE(a, b, 2, 3, 16, 17, 6, 7, 20, 21, 10, 11, 24, 25, 14, 15, 28, 29))
#define PAIR_4(a, b)                                                                                               \
    (SHUFFLE(a, b, 0, 1, 2, 3, 20, 21, 22, 23, 8, 9, 10, 11, 28, 29, 30, 31) +                                       \
     SHUFFLE(a, b, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27))
#define PAIR_8(a, b)                                                                                               \
    (SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31) +                                         \
     SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23))
#elif W == 8
#define PAIR_1(a, b) (SHUFFLE(a, b, 0, 9, 2, 11, 4, 13, 6, 15) + SHUFFLE(a, b, 1, 8, 3, 10, 5, 12, 7, 14))
#define PAIR_2(a, b) (SHUFFLE(a, b, 0, 1, 10, 11, 4, 5, 14, 15) + SHUFFLE(a, b, 2, 3, 8, 9, 6, 7, 12, 13))
#define PAIR_4(a, b) (SHUFFLE(a, b, 0, 1, 2, 3, 12, 13, 14, 15) + SHUFFLE(a, b, 4, 5, 6, 7, 8, 9, 10, 11))
#elif W == 4
#define PAIR_1(a, b) (SHUFFLE(a, b, 0, 5, 2, 7) + SHUFFLE(a, b, 1, 4, 3, 6))
#define PAIR_2(a, b) (SHUFFLE(a, b, 0, 1, 6, 7) + SHUFFLE(a, b, 2, 3, 4, 5))
#endif

#if W == 16
#define REDUCE_EIGHTS(v)                                                                                          \
    UNROLL for (int i = 0; i < W; i += 8) v[i] = PAIR_4(v[i], v[i + 4]);                                             \
    v[0] = PAIR_8(v[0], v[8]);
#elif W == 8
#define REDUCE_EIGHTS(v) v[0] = PAIR_4(v[0], v[4]);
#else
#define REDUCE_EIGHTS(v)
#endif

/* Sum each of W vectors over its lanes: lane i of the result is the sum of v[i]. Overwrites v. */
#define REDUCTION(name, vector)                                                                                    \
    INLINE vector name(vector v[W]) {                                                                                \
        UNROLL for (int i = 0; i < W; i += 2) v[i] = PAIR_1(v[i], v[i + 1]);                                         \
        UNROLL for (int i = 0; i < W; i += 4) v[i] = PAIR_2(v[i], v[i + 2]);                                         \
        REDUCE_EIGHTS(v)                                                                                            \
        return v[0];                                                                                                 \
    }
REDUCTION(v_reduce, vf)
REDUCTION(v_reduce_integers, vi)
