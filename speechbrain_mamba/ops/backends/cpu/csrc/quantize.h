/* What stands around a product of 8-bit integers: rows become integers, and the products of rows become floats.
 *
 * Each row has a scale of its own, so that a frame does not depend on what stands beside it in a batch. A row without a
 * value above SMALLEST is zero. A row that holds NaN or infinity has that as its scale, and its products are not finite.
 */

typedef uint8_t vb __attribute__((vector_size(W), may_alias));

enum { ROW_BYTES_PER_TASK = 1 << 15, LARGEST_INTEGER = 127, ZERO_POINT = 128 };
/* Of smaller values the inverse would overflow. */
#define SMALLEST 1e-30f

/* Adding 1.5 * 2^23 rounds to the nearest whole number and leaves it in the low bits. */
INLINE vb to_units(vf x) {
    return __builtin_convertvector((vu)(x + (12582912.0f + ZERO_POINT)) & 0xff, vb);
}

INLINE int64_t rows_per_task(int64_t features) { return 1 + ROW_BYTES_PER_TASK / (4 * features + 4); }

/* Values of a row from feature c on, times the weight of the norm, if there is one. `lanes` is W or what is left. */
INLINE vf row_values(const char *x, const int64_t dtype, const float *weight, int64_t c, const int64_t lanes) {
    vf values = lanes == W ? v_load_as(x + c * dtype_bytes[dtype], dtype)
                           : v_load_lanes(x + c * dtype_bytes[dtype], dtype, lanes);
    if (!weight) return values;
    return values * (lanes == W ? v_load(weight + c) : v_load_lanes((const char *)(weight + c), DTYPE_FLOAT32, lanes));
}

INLINE vi larger_magnitude(vi largest, vf values) {
    /* As integers, the magnitudes of floats are in the same order, with NaN above infinity. */
    vi magnitude = (vi)values & 0x7fffffff;
    return (vi)v_select(magnitude > largest, (vf)magnitude, (vf)largest);
}

/* One over the root of the mean square of a row. */
INLINE float inverse_rms(const char *x, const int64_t dtype, int64_t features, int64_t whole, float epsilon) {
    vf sum = v_zero();
    for (int64_t c = 0; c < whole; c += W) {
        vf values = row_values(x, dtype, NULL, c, W);
        sum += values * values;
    }
    if (whole < features) {
        vf values = row_values(x, dtype, NULL, whole, features - whole);
        sum += values * values;
    }
    float total = 0;
    for (int i = 0; i < W; i++) total += sum[i];
    return 1 / sqrtf(total / features + epsilon);
}

/* A row in units of its scale, which is returned. `whole` features fill vectors. The mean square that the norm divides
 * by changes the scale only. */
INLINE float quantize_row(const char *x, const int64_t dtype, const float *norm, int64_t features, int64_t whole,
                          uint8_t *q) {
    vi largest = {0};
    for (int64_t c = 0; c < whole; c += W) largest = larger_magnitude(largest, row_values(x, dtype, norm, c, W));
    if (whole < features) largest = larger_magnitude(largest, row_values(x, dtype, norm, whole, features - whole));
    int32_t bits = 0;
    for (int i = 0; i < W; i++) bits = largest[i] > bits ? largest[i] : bits;
    float top;
    memcpy(&top, &bits, sizeof top);
    if (top < SMALLEST) top = 0;
    vf inverse = v_set(top == 0 ? 0.0f : LARGEST_INTEGER / top);
    for (int64_t c = 0; c < whole; c += W) {
        vb units = to_units(row_values(x, dtype, norm, c, W) * inverse);
        memcpy(q + c, &units, sizeof units);
    }
    if (whole < features) {
        vb units = to_units(row_values(x, dtype, norm, whole, features - whole) * inverse);
        memcpy(q + whole, &units, (size_t)(features - whole));
    }
    float unit = top / LARGEST_INTEGER;
    return norm ? unit * inverse_rms(x, dtype, features, whole, norm[features]) : unit;
}

INLINE void quantize_some(const quantize_args *a, const int64_t dtype, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++)
        a->scales[row] = quantize_row(a->x + row * a->row_stride * dtype_bytes[dtype], dtype, a->norm, a->features,
                                      a->features / W * W, a->q + row * a->features);
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

INLINE void rescale_some(const rescale_args *a, const int64_t from, const int64_t to, int64_t first, int64_t last) {
    int64_t whole = a->features / W * W, rest = a->features - whole;
    int64_t from_bytes = dtype_bytes[from], to_bytes = dtype_bytes[to];
    for (int64_t row = first; row < last; row++) {
        const char *x = a->x + row * a->features * from_bytes;
        char *y = a->y + row * a->features * to_bytes;
        vf scale = v_set(a->scales[row]);
        if (a->bias)
            for (int64_t c = 0; c < whole; c += W)
                v_store_as(y + c * to_bytes, to, v_load_as(x + c * from_bytes, from) * scale + v_load(a->bias + c));
        else
            for (int64_t c = 0; c < whole; c += W)
                v_store_as(y + c * to_bytes, to, v_load_as(x + c * from_bytes, from) * scale);
        if (rest) {
            vf bias = a->bias ? v_load_lanes((const char *)(a->bias + whole), DTYPE_FLOAT32, rest) : v_zero();
            vf end = v_load_lanes(x + whole * from_bytes, from, rest) * scale + bias;
            v_store_lanes(y + whole * to_bytes, to, rest, end);
        }
    }
}

static void rescale_task(const void *context, int64_t task, char *memory) {
    (void)memory;
    const rescale_args *a = context;
    int64_t first = task * rows_per_task(a->features), last = min_int(first + rows_per_task(a->features), a->rows);
    if (a->from == DTYPE_FLOAT32 && a->to == DTYPE_FLOAT32)
        rescale_some(a, DTYPE_FLOAT32, DTYPE_FLOAT32, first, last);
    else if (a->from == DTYPE_BFLOAT16 && a->to == DTYPE_BFLOAT16)
        rescale_some(a, DTYPE_BFLOAT16, DTYPE_BFLOAT16, first, last);
    else
        rescale_some(a, a->from, a->to, first, last);
}

static int rescale_rows(const rescale_args *a) {
    int64_t each = rows_per_task(a->features), threads = worthwhile_threads(a->threads, a->rows, 4 * each);
    return parallel_tasks((a->rows + each - 1) / each, threads, 0, rescale_task, a);
}
