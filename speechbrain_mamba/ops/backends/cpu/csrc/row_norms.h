/* Normalization of rows over their channels: as the first part of what other kernels do with a row, and alone. */

enum { ROW_BYTES_PER_TASK = 1 << 15 };

INLINE int64_t rows_per_task(int64_t features) { return 1 + ROW_BYTES_PER_TASK / (4 * features + 4); }

/* Known to the compiler, which leaves out what it would do. */
static const norm_weights no_norm = {NORM_NONE, 0, NULL, NULL, ACTIVATION_NONE};

/* A normalization with what it does to one row: values are shifted and multiplied by `factor`, then by the weights. */
typedef struct {
    const norm_weights *weights;
    float shift, factor;
} row_norm;

/* Values of a row from feature c on, of which there are `lanes`. */
INLINE vf raw_values(const char *x, const int64_t dtype, int64_t c, const int64_t lanes) {
    return v_load_lanes(x + c * dtype_bytes[dtype], dtype, lanes);
}

/* The same, normalized, after the norm's activation. */
INLINE vf row_values(const char *x, const int64_t dtype, const row_norm *norm, int64_t c, const int64_t lanes) {
    vf values = raw_values(x, dtype, c, lanes);
    if (norm->weights->kind == NORM_NONE) return values;
    values = (values - norm->shift) * norm->factor;
    if (norm->weights->weight) values *= load_channel(norm->weights->weight, c, lanes);
    return activate(values + load_channel(norm->weights->bias, c, lanes), norm->weights->activation);
}

INLINE float sum_of_lanes(vf x) {
    float sum = 0;
    for (int i = 0; i < W; i++) sum += x[i];
    return sum;
}

/* Finds the mean of a row, of which `whole` features fill vectors, and one over the root of its variance; for an RMS norm
 * the mean counts as zero. */
INLINE row_norm norm_of_row(const norm_weights *weights, const char *x, const int64_t dtype, int64_t features,
                            int64_t whole) {
    row_norm norm = {weights, 0, 1};
    if (weights->kind == NORM_NONE) return norm;
    int64_t rest = features - whole;
    if (weights->kind == NORM_LAYER) {
        vf sum = v_zero();
        for (int64_t c = 0; c < whole; c += W) sum += raw_values(x, dtype, c, W);
        if (rest) sum += raw_values(x, dtype, whole, rest);
        norm.shift = sum_of_lanes(sum) / (float)features;
    }
    vf squares = v_zero();
    for (int64_t c = 0; c < whole; c += W) {
        vf centered = raw_values(x, dtype, c, W) - norm.shift;
        squares += centered * centered;
    }
    float square = sum_of_lanes(squares);
    if (rest) {
        vf centered = raw_values(x, dtype, whole, rest) - norm.shift;
        for (int64_t i = 0; i < rest; i++) square += centered[i] * centered[i];
    }
    norm.factor = 1 / sqrtf(square / (float)features + (float)weights->epsilon);
    return norm;
}

INLINE void normalize_some(const normalize_args *a, const int64_t from, const int64_t to, int64_t first, int64_t last) {
    int64_t whole = a->features / W * W, rest = a->features - whole;
    int64_t from_bytes = a->row_stride * dtype_bytes[from], to_bytes = dtype_bytes[to];
    for (int64_t row = first; row < last; row++) {
        const char *x = a->x + row * from_bytes;
        char *y = a->y + row * a->features * to_bytes;
        row_norm norm = norm_of_row(&a->norm, x, from, a->features, whole);
        for (int64_t c = 0; c < whole; c += W) v_store_as(y + c * to_bytes, to, row_values(x, from, &norm, c, W));
        if (rest) v_store_lanes(y + whole * to_bytes, to, rest, row_values(x, from, &norm, whole, rest));
    }
}

static void normalize_task(const void *context, int64_t task, char *memory) {
    (void)memory;
    const normalize_args *a = context;
    int64_t first = task * rows_per_task(a->features), last = min_int(first + rows_per_task(a->features), a->rows);
    if (a->from == DTYPE_FLOAT32 && a->to == DTYPE_BFLOAT16)
        normalize_some(a, DTYPE_FLOAT32, DTYPE_BFLOAT16, first, last);
    else
        normalize_some(a, a->from, a->to, first, last);
}

static int normalize_rows(const normalize_args *a) {
    int64_t each = rows_per_task(a->features), threads = worthwhile_threads(a->threads, a->rows, 4 * each);
    return parallel_tasks((a->rows + each - 1) / each, threads, 0, normalize_task, a);
}
