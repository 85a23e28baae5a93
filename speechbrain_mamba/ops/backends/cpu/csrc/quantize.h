/* What stands before a product of 8-bit integers: rows become integers.
 *
 * Each row has a scale of its own, so that a frame does not depend on what stands beside it in a batch. A row without a
 * value above SMALLEST is zero. A row that holds NaN or infinity has that as its scale, and its products are not finite.
 */

typedef uint8_t vb __attribute__((vector_size(W), may_alias));

enum { LARGEST_INTEGER = 127, ZERO_POINT = 128 };
/* Of smaller values the inverse would overflow. */
#define SMALLEST 1e-30f

/* Adding 1.5 * 2^23 rounds to the nearest whole number and leaves it in the low bits. */
INLINE vb to_units(vf x) {
    return __builtin_convertvector((vu)(x + (12582912.0f + ZERO_POINT)) & 0xff, vb);
}

INLINE vi larger_magnitude(vi largest, vf values) {
    /* As integers, the magnitudes of floats are in the same order, with NaN above infinity. */
    vi magnitude = (vi)values & 0x7fffffff;
    return (vi)v_select(magnitude > largest, (vf)magnitude, (vf)largest);
}

/* A row in units of its scale, which is returned. `whole` features fill vectors. */
INLINE float quantize_row(const char *x, const int64_t dtype, const norm_weights *weights, int64_t features,
                          int64_t whole, uint8_t *q) {
    row_norm norm = norm_of_row(weights, x, dtype, features, whole);
    vi largest = {0};
    for (int64_t c = 0; c < whole; c += W) largest = larger_magnitude(largest, row_values(x, dtype, &norm, c, W));
    if (whole < features) {
        vi rest = larger_magnitude((vi){0}, row_values(x, dtype, &norm, whole, features - whole));
        for (int64_t i = features - whole; i < W; i++) rest[i] = 0; /* a norm shifts what is beyond the row, too */
        largest = larger_magnitude(largest, (vf)rest);
    }
    int32_t bits = 0;
    for (int i = 0; i < W; i++) bits = largest[i] > bits ? largest[i] : bits;
    float top;
    memcpy(&top, &bits, sizeof top);
    if (top < SMALLEST) top = 0;
    vf inverse = v_set(top == 0 ? 0.0f : LARGEST_INTEGER / top);
    for (int64_t c = 0; c < whole; c += W) {
        vb units = to_units(row_values(x, dtype, &norm, c, W) * inverse);
        memcpy(q + c, &units, sizeof units);
    }
    if (whole < features) {
        vb units = to_units(row_values(x, dtype, &norm, whole, features - whole) * inverse);
        memcpy(q + whole, &units, (size_t)(features - whole));
    }
    return top / LARGEST_INTEGER;
}

INLINE void quantize_some(const quantize_args *a, const int64_t dtype, int64_t first, int64_t last) {
    const int64_t features = a->features, whole = features / W * W, bytes = a->row_stride * dtype_bytes[dtype];
    if (a->norm.kind == NORM_NONE)
        for (int64_t row = first; row < last; row++)
            a->scales[row] = quantize_row(a->x + row * bytes, dtype, &no_norm, features, whole, a->q + row * features);
    else
        for (int64_t row = first; row < last; row++)
            a->scales[row] = quantize_row(a->x + row * bytes, dtype, &a->norm, features, whole, a->q + row * features);
}

static void quantize_task(const void *context, int64_t task, char *memory) {
    (void)memory;
    const quantize_args *a = context;
    int64_t first = task * rows_per_task(a->features), last = min_int(first + rows_per_task(a->features), a->rows);
    /* one loop for each type, known to the compiler */
    if (a->dtype == DTYPE_FLOAT32) quantize_some(a, DTYPE_FLOAT32, first, last);
    else if (a->dtype == DTYPE_BFLOAT16) quantize_some(a, DTYPE_BFLOAT16, first, last);
    else quantize_some(a, DTYPE_FLOAT16, first, last);
}

static int quantize_rows(const quantize_args *a) {
    int64_t each = rows_per_task(a->features), threads = worthwhile_threads(a->threads, a->rows, 4 * each);
    return parallel_tasks((a->rows + each - 1) / each, threads, 0, quantize_task, a);
}
