/* What is left to do to products of rows: their scales, a bias, an activation, and the rounding to another type. */

INLINE void finish_some(const finish_args *a, const int64_t from, const int64_t to, const int64_t activation,
                        int64_t first, int64_t last) {
    int64_t whole = a->features / W * W, rest = a->features - whole;
    int64_t from_bytes = dtype_bytes[from], to_bytes = dtype_bytes[to];
    for (int64_t row = first; row < last; row++) {
        const char *x = a->x + row * a->features * from_bytes;
        char *y = a->y + row * a->features * to_bytes;
        vf scale = v_set(a->scales ? a->scales[row] : 1.0f);
        for (int64_t c = 0; c < whole; c += W) {
            vf value = v_load_as(x + c * from_bytes, from) * scale;
            if (a->bias) value += v_load(a->bias + c);
            v_store_as(y + c * to_bytes, to, activate(value, activation));
        }
        if (rest) {
            vf end = v_load_lanes(x + whole * from_bytes, from, rest) * scale + load_channel(a->bias, whole, rest);
            v_store_lanes(y + whole * to_bytes, to, rest, activate(end, activation));
        }
    }
}

static void finish_task(const void *context, int64_t task, char *memory) {
    (void)memory;
    const finish_args *a = context;
    int64_t first = task * rows_per_task(a->features), last = min_int(first + rows_per_task(a->features), a->rows);
    const int bfloat16 = a->from == DTYPE_BFLOAT16 && a->to == DTYPE_BFLOAT16;
    /* loops of their own for what is met most, known to the compiler */
    if (bfloat16 && a->activation == ACTIVATION_GELU_SHORT)
        finish_some(a, DTYPE_BFLOAT16, DTYPE_BFLOAT16, ACTIVATION_GELU_SHORT, first, last);
    else if (bfloat16)
        finish_some(a, DTYPE_BFLOAT16, DTYPE_BFLOAT16, a->activation, first, last);
    else if (a->from == DTYPE_FLOAT32 && a->to == DTYPE_FLOAT32)
        finish_some(a, DTYPE_FLOAT32, DTYPE_FLOAT32, a->activation, first, last);
    else
        finish_some(a, a->from, a->to, a->activation, first, last);
}

static int finish_rows(const finish_args *a) {
    int64_t each = rows_per_task(a->features), threads = worthwhile_threads(a->threads, a->rows, 4 * each);
    return parallel_tasks((a->rows + each - 1) / each, threads, 0, finish_task, a);
}
