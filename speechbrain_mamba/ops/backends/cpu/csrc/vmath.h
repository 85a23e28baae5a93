/* Exponentials and what is made of them, each to the accuracy of float32 and in a short form.
 *
 * The short forms are for callers whose tensors have been rounded to 8 or 16 bits already. Their errors, which
 * tests/ops/backends/cpu/test_approximate.py checks: a decay 2^x is that of a rate x which is off by at most 6e-4 of
 * itself (so that a slow decay, applied thousands of times over, stays right), and off by at most 4e-4 of itself for
 * any x above -126; v_softplus_short and v_sigmoid_short are off by at most 6e-4 of themselves, v_gelu_short by 3e-4 of
 * |x|.
 */
#include <math.h>

#define LOG2_E 1.44269504088896341f

/* Degree-5 minimax fit of 2^f for f in [-1/2, 1/2]: relative error 9e-8, and exact at 0, as a decay of nearly one is
 * applied thousands of times over. */
INLINE vf exp2_fraction(vf f) {
    vf p = 0.00132647276f * f + 0.00967151264f;
    p = p * f + 0.0555073374f;
    p = p * f + 0.240222421f;
    p = p * f + 0.693146978f;
    return p * f + 1.0f;
}

/* 2^x; below 2^-127 zero, from 2^128 on infinity. */
INLINE vf v_exp2(vf x) {
#if W == 16
    __m512 whole = _mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return (vf)_mm512_scalef_ps((__m512)exp2_fraction(x - (vf)whole), whole);
#else
    /* Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits. The clamps keep the exponent field in
     * its range, and the ends of that are zero and infinity. */
    x = v_min(v_max(x, v_set(-127.0f)), v_set(128.0f));
    vf shifted = x + 12582912.0f;
    vf p = exp2_fraction(x - (shifted - 12582912.0f));
    return (vf)((vi)p + ((vi)shifted << 23));
#endif
}

/* e^x to within 2 units in the last place: the argument is reduced in two steps. */
INLINE vf v_exp(vf x) {
    x = v_min(v_max(x, v_set(-87.0f)), v_set(88.0f));
    vf shifted = x * LOG2_E + 12582912.0f;
    vf whole = shifted - 12582912.0f;
    vf r = x - whole * 0.693359375f;
    r = r + whole * 2.12194440e-4f;
    vf p = 0.00138144677f * r + 0.00836878041f;
    p = p * r + 0.0416683942f;
    p = p * r + 0.166665201f;
    p = p * r + 0.499999934f;
    p = p * (r * r) + r + 1.0f;
    return (vf)((vi)p + ((vi)shifted << 23));
}

INLINE vf v_sigmoid(vf x) { return 1.0f / (1.0f + v_exp(-x)); }

/* log(1 + e^x), accurate relative to the result everywhere: 1 + e is never formed. With s = e / (2 + e),
 * log(1 + e) = 2 atanh(s), and s is at most 1/3. */
INLINE vf v_softplus(vf x) {
    vf e = v_exp(-v_abs(x));
    vf s = e / (2.0f + e);
    vf q = s * s;
    vf p = 0.140064193f * q + 0.140008143f;
    p = p * q + 0.200107691f;
    p = p * q + 0.33333208f;
    return v_max(x, v_zero()) + 2.0f * (s + s * q * p);
}

/* 2^x, short. Exact at 0, from below it too. */
INLINE vf v_exp2_short(vf x) {
#if W == 16
    /* The fraction above the whole number below, and a cubic of it that is 1 at 0 and 2 at 1. */
    vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = 0.0837984383f * f + 0.217931017f;
    p = p * f + 0.698270559f;
    p = p * f + 1.0f;
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    /* As v_exp2, with a cubic. */
    x = v_min(v_max(x, v_set(-127.0f)), v_set(128.0f));
    vf shifted = x + 12582912.0f;
    vf f = x - (shifted - 12582912.0f);
    vf p = 0.0546079911f * f + 0.242158905f;
    p = p * f + 0.693374515f;
    p = p * f + 1.0f;
    return (vf)((vi)p + ((vi)shifted << 23));
#endif
}

/* 1 / x for x from 1 to infinity, to 12 bits where the processor has such an instruction. */
INLINE vf v_reciprocal_short(vf x) {
#if W == 16
    return (vf)_mm512_rcp14_ps((__m512)x);
#elif W == 8
    return (vf)_mm256_rcp_ps((__m256)x);
#elif defined(__SSE__)
    return (vf)_mm_rcp_ps((__m128)x);
#else
    return 1.0f / x;
#endif
}

INLINE vf v_sigmoid_short(vf x) { return v_reciprocal_short(1.0f + v_exp2_short(x * -LOG2_E)); }

/* log(1 + e^x), with log(1 + e) as e times a polynomial of e, at most 1. */
INLINE vf v_softplus_short(vf x) {
    vf e = v_exp2_short(v_abs(x) * -LOG2_E);
    vf p = 0.0552624706f * e - 0.186101764f;
    p = p * e + 0.324815124f;
    p = p * e - 0.500708938f;
    p = p * e + 1.0f;
    return v_max(x, v_zero()) + e * p;
}

/* The form that a call asks for; `approximate` is a constant where this is inlined. */
INLINE vf v_exp2_as(vf x, const int approximate) { return approximate ? v_exp2_short(x) : v_exp2(x); }

/* y times SiLU(z), row by row; and SiLU(y). */
INLINE void gate_tile(vf *y, const vf *z, int64_t rows, int64_t approximate) {
    if (approximate)
        for (int64_t t = 0; t < rows; t++) y[t] *= z[t] * v_sigmoid_short(z[t]);
    else
        for (int64_t t = 0; t < rows; t++) y[t] *= z[t] * v_sigmoid(z[t]);
}

INLINE void silu_tile(vf *y, int64_t rows, int64_t approximate) {
    if (approximate)
        for (int64_t t = 0; t < rows; t++) y[t] *= v_sigmoid_short(y[t]);
    else
        for (int64_t t = 0; t < rows; t++) y[t] *= v_sigmoid(y[t]);
}

/* x Phi(x), with the error function of Abramowitz and Stegun, 7.1.26: to within 2e-7 of the larger of |x| and 1. */
INLINE vf v_gelu(vf x) {
    vf a = v_abs(x) * 0.707106781f, t = 1.0f / (1.0f + 0.3275911f * a);
    vf p = 1.061405429f * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vf tail = 0.5f * p * t * v_exp(-a * a);
    return x * v_select((vi)x < 0, tail, 1.0f - tail);
}

/* The same, short: Phi(x) - 1/2 as an odd polynomial, which is 1/2 where it ends; to within 3e-4 of |x|. */
INLINE vf v_gelu_short(vf x) {
    vf c = v_min(v_max(x, v_set(-3.5f)), v_set(3.5f)), s = c * c;
    vf p = -7.06305116e-7f * s + 3.48876893e-5f;
    p = p * s - 7.26873695e-4f;
    p = p * s + 0.00852439366f;
    p = p * s - 0.0644082651f;
    p = p * s + 0.398063838f;
    return x * (p * c + 0.5f);
}

INLINE vf activate(vf x, const int64_t activation) {
    switch (activation) {
    case ACTIVATION_RELU: return v_max(x, v_zero());
    case ACTIVATION_GELU: return v_gelu(x);
    case ACTIVATION_GELU_SHORT: return v_gelu_short(x);
    default: return x;
    }
}
