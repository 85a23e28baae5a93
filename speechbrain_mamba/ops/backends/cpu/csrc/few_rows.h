/* Linear layers of a few examples: what a step of a model consists of. Reading the weights takes the time, so each is
 * read once for several examples, the rows that come next are fetched ahead, and activation and residual are added
 * before the outputs leave the registers. */

enum { OUTPUTS_PER_TASK = 64 };
/* Bytes between the weights that are multiplied and those that are fetched: at least, and in whole groups of rows. */
enum { BYTES_AHEAD = 1 << 13 };
/* Bytes of integers that one instruction multiplies; rows of integers are padded to whole ones. */
enum { BYTES_AT_ONCE = 4 * W };

/* Whether the processor multiplies and sums groups of four bytes in one instruction (VNNI). */
INLINE int sums_bytes(void) {
#if W == 16
    return __builtin_cpu_supports("avx512vnni");
#else
    return 0;
#endif
}

/* Adds products of BYTES_AT_ONCE unsigned with as many signed bytes; which lane gets which of them is left open. */
INLINE vi add_products(vi sum, const uint8_t *x, const int8_t *weight, const int vnni) {
#if W == 16
    __m512i a = _mm512_loadu_si512(x), b = _mm512_loadu_si512(weight);
    if (vnni) {
        /* assembly, as the rest of the file is compiled for processors without this instruction */
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }
    __m512i low = _mm512_madd_epi16(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(a)),
                                    _mm512_cvtepi8_epi16(_mm512_castsi512_si256(b)));
    __m512i high = _mm512_madd_epi16(_mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(a, 1)),
                                     _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(b, 1)));
    return sum + (vi)low + (vi)high;
#elif W == 8
    for (int i = 0; i < 2; i++) {
        __m128i a = _mm_loadu_si128((const __m128i *)x + i), b = _mm_loadu_si128((const __m128i *)weight + i);
        sum += (vi)_mm256_madd_epi16(_mm256_cvtepu8_epi16(a), _mm256_cvtepi8_epi16(b));
    }
    return sum;
#else
    typedef uint8_t unsigned_bytes __attribute__((vector_size(W), may_alias));
    typedef int8_t signed_bytes __attribute__((vector_size(W), may_alias));
    UNROLL for (int i = 0; i < 4; i++) {
        unsigned_bytes a;
        signed_bytes b;
        memcpy(&a, x + i * W, sizeof a);
        memcpy(&b, weight + i * W, sizeof b);
        sum += __builtin_convertvector(a, vi) * __builtin_convertvector(b, vi);
    }
    return sum;
#endif
}

/* A product in work: the weights, and what they are multiplied with. */
typedef struct {
    const linear_weights *weights;
    int64_t batch, activation, x_pitch, ahead;
    const float *x, *residual;
    float *y;
    const uint8_t *bytes; /* of x if the weights are integers: (batch, byte_pitch), in units of... */
    const float *units;   /* ...these, plus ZERO_POINT */
    int64_t byte_pitch;
} product;

/* Products of a few rows of float weights with a few examples, into totals[example * W + row], each summed over lanes. */
INLINE void multiply_rows(const int rows, const int examples, const int64_t dtype, const product *p, const char *weight,
                          const float *x, vf *totals) {
    int64_t inputs = p->weights->inputs, whole = inputs / W * W, bytes = dtype_bytes[dtype];
    vf sums[ROWS_AT_ONCE][EXAMPLES_AT_ONCE];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int e = 0; e < examples; e++) sums[r][e] = v_zero();
    for (int64_t c = 0; c < whole; c += W) {
        vf input[EXAMPLES_AT_ONCE];
        UNROLL for (int e = 0; e < examples; e++) input[e] = v_load(x + e * p->x_pitch + c);
        UNROLL for (int r = 0; r < rows; r++) {
            const char *place = weight + (r * inputs + c) * bytes;
            __builtin_prefetch(place + p->ahead, 0, 2);
            vf column = v_load_as(place, dtype);
            UNROLL for (int e = 0; e < examples; e++) sums[r][e] += column * input[e];
        }
    }
    if (whole < inputs)
        for (int r = 0; r < rows; r++) {
            vf column = v_load_lanes(weight + (r * inputs + whole) * bytes, dtype, inputs - whole);
            for (int e = 0; e < examples; e++)
                sums[r][e] += column * load_channel(x + e * p->x_pitch, whole, inputs - whole);
        }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int e = 0; e < examples; e++) totals[e * W + r] = sums[r][e];
}

/* The same of rows of integers. */
INLINE void multiply_bytes(const int rows, const int examples, const int vnni, const product *p, const int8_t *weight,
                           const uint8_t *x, vi *totals) {
    int64_t inputs = p->weights->inputs, whole = inputs / BYTES_AT_ONCE * BYTES_AT_ONCE;
    vi sums[ROWS_AT_ONCE][EXAMPLES_AT_ONCE];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int e = 0; e < examples; e++) sums[r][e] = (vi){0};
    for (int64_t c = 0; c < whole; c += BYTES_AT_ONCE)
        UNROLL for (int r = 0; r < rows; r++) {
            const int8_t *place = weight + r * inputs + c;
            __builtin_prefetch(place + p->ahead, 0, 2);
            UNROLL for (int e = 0; e < examples; e++)
                sums[r][e] = add_products(sums[r][e], x + e * p->byte_pitch + c, place, vnni);
        }
    if (whole < inputs)
        for (int r = 0; r < rows; r++) {
            int8_t end[BYTES_AT_ONCE] = {0};
            memcpy(end, weight + r * inputs + whole, (size_t)(inputs - whole));
            for (int e = 0; e < examples; e++)
                sums[r][e] = add_products(sums[r][e], x + e * p->byte_pitch + whole, end, vnni);
        }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int e = 0; e < examples; e++) totals[e * W + r] = sums[r][e];
}

/* W outputs of a few examples. */
INLINE void multiply_block(const int examples, const int64_t dtype, const int vnni, const product *p, int64_t output,
                           int64_t example) {
    const linear_weights *w = p->weights;
    int64_t lanes = min_int(W, w->outputs - output), row = 0, row_bytes = w->inputs * dtype_bytes[dtype];
    const char *weight = w->weight + output * row_bytes;
    vf totals[EXAMPLES_AT_ONCE * W]; /* or integers */
    if (dtype == DTYPE_INT8) {
        const uint8_t *x = p->bytes + example * p->byte_pitch;
        for (; row + ROWS_AT_ONCE <= lanes; row += ROWS_AT_ONCE)
            multiply_bytes(ROWS_AT_ONCE, examples, vnni, p, (const int8_t *)weight + row * row_bytes, x,
                           (vi *)totals + row);
        for (; row < lanes; row++)
            multiply_bytes(1, examples, vnni, p, (const int8_t *)weight + row * row_bytes, x, (vi *)totals + row);
    } else {
        const float *x = p->x + example * p->x_pitch;
        for (; row + ROWS_AT_ONCE <= lanes; row += ROWS_AT_ONCE)
            multiply_rows(ROWS_AT_ONCE, examples, dtype, p, weight + row * row_bytes, x, totals + row);
        for (; row < lanes; row++) multiply_rows(1, examples, dtype, p, weight + row * row_bytes, x, totals + row);
    }
    for (; row < W; row++)
        for (int e = 0; e < examples; e++) totals[e * W + row] = v_zero();
    vf bias = load_channel(w->bias, output, lanes), scale = load_channel(w->scales, output, lanes);
    vi offset = {0};
    if (dtype == DTYPE_INT8) offset = (vi)load_channel((const float *)w->sums, output, lanes) * ZERO_POINT;
    for (int e = 0; e < examples; e++) {
        vf y;
        if (dtype == DTYPE_INT8)
            y = __builtin_convertvector(v_reduce_integers((vi *)totals + e * W) - offset, vf) * scale *
                p->units[example + e];
        else
            y = v_reduce(totals + e * W);
        y = activate(y + bias, p->activation);
        int64_t place = (example + e) * w->outputs + output;
        if (p->residual) y += load_channel(p->residual, place, lanes);
        v_store_lanes((char *)(p->y + place), DTYPE_FLOAT32, lanes, y);
    }
}

INLINE void multiply_outputs(const int64_t dtype, const int vnni, const product *p, int64_t first, int64_t last) {
    for (int64_t output = first; output < last; output += W) {
        int64_t e = 0;
        for (; e + EXAMPLES_AT_ONCE <= p->batch; e += EXAMPLES_AT_ONCE)
            multiply_block(EXAMPLES_AT_ONCE, dtype, vnni, p, output, e);
#if W == 16
        for (; e + 2 <= p->batch; e += 2) multiply_block(2, dtype, vnni, p, output, e);
#endif
        for (; e < p->batch; e++) multiply_block(1, dtype, vnni, p, output, e);
    }
}

static void multiply_task(const void *context, int64_t task, char *memory) {
    (void)memory;
    const product *p = context;
    int64_t first = task * OUTPUTS_PER_TASK, last = min_int(first + OUTPUTS_PER_TASK, p->weights->outputs);
    /* one loop for each type, known to the compiler */
    switch (p->weights->dtype) {
    case DTYPE_FLOAT32: multiply_outputs(DTYPE_FLOAT32, 0, p, first, last); break;
    case DTYPE_BFLOAT16: multiply_outputs(DTYPE_BFLOAT16, 0, p, first, last); break;
    case DTYPE_FLOAT16: multiply_outputs(DTYPE_FLOAT16, 0, p, first, last); break;
    default:
        if (sums_bytes()) multiply_outputs(DTYPE_INT8, 1, p, first, last);
        else multiply_outputs(DTYPE_INT8, 0, p, first, last);
    }
}

static int few_rows(const few_rows_args *a) {
    const linear_weights *w = &a->weights;
    product p = {.weights = w, .batch = a->batch, .activation = a->activation, .x_pitch = a->x_pitch,
                 .x = a->x, .residual = a->residual, .y = a->y};
    int64_t group = ROWS_AT_ONCE * w->inputs * dtype_bytes[w->dtype];
    p.ahead = group ? round_up(BYTES_AHEAD, group) : 0;
    uint8_t *bytes = NULL;
    if (w->dtype == DTYPE_INT8) {
        p.byte_pitch = round_up(w->inputs, BYTES_AT_ONCE);
        /* zeros, as the ends of rows are multiplied in whole vectors */
        bytes = calloc((size_t)(a->batch * (p.byte_pitch + (int64_t)sizeof(float)) + 1), 1);
        if (!bytes) return STATUS_NO_MEMORY;
        float *units = (float *)(bytes + a->batch * p.byte_pitch);
        for (int64_t e = 0; e < a->batch; e++)
            units[e] = quantize_row((const char *)(a->x + e * a->x_pitch), DTYPE_FLOAT32, &no_norm, w->inputs,
                                    w->inputs / W * W, bytes + e * p.byte_pitch);
        p.bytes = bytes;
        p.units = units;
    }
    int64_t tasks = (w->outputs + OUTPUTS_PER_TASK - 1) / OUTPUTS_PER_TASK;
    int64_t threads = worthwhile_threads(a->threads, w->outputs * w->inputs, PRODUCTS_PER_THREAD);
    int status = parallel_tasks(tasks, threads, 0, multiply_task, &p);
    free(bytes);
    return status;
}
