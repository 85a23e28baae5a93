/* Exponentials and what is made of them. */
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
