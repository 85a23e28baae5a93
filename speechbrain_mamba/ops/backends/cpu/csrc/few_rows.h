/* A linear layer of a few examples: what a step of a model consists of. Reading the weights takes the time, so each is
 * read once for several examples, and activation and residual are added before the outputs leave the registers. */

enum { OUTPUTS_PER_TASK = 32 };

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

INLINE vf activate(vf x, int64_t activation) {
    return activation == ACTIVATION_GELU ? v_gelu(x) : activation == ACTIVATION_RELU ? v_max(x, v_zero()) : x;
}

/* Products of a few rows of a weight with a few examples, (examples, W) in total. */
INLINE void multiply_rows(const int rows, const int examples, const float *weight, const float *x, int64_t pitch,
                          int64_t inputs, float *total) {
    vf sums[ROWS_AT_ONCE][EXAMPLES_AT_ONCE];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int e = 0; e < examples; e++) sums[r][e] = v_zero();
    int64_t whole = inputs / W * W;
    for (int64_t c = 0; c < whole; c += W) {
        vf input[EXAMPLES_AT_ONCE];
        UNROLL for (int e = 0; e < examples; e++) input[e] = v_load(x + e * pitch + c);
        UNROLL for (int r = 0; r < rows; r++) {
            vf column = v_load(weight + r * inputs + c);
            UNROLL for (int e = 0; e < examples; e++) sums[r][e] += column * input[e];
        }
    }
    if (whole < inputs)
        for (int r = 0; r < rows; r++) {
            vf column = v_load_lanes((const char *)(weight + r * inputs + whole), DTYPE_FLOAT32, inputs - whole);
            for (int e = 0; e < examples; e++)
                sums[r][e] +=
                    column * v_load_lanes((const char *)(x + e * pitch + whole), DTYPE_FLOAT32, inputs - whole);
        }
    for (int r = 0; r < rows; r++)
        for (int e = 0; e < examples; e++) {
            float sum = 0;
            for (int i = 0; i < W; i++) sum += sums[r][e][i];
            total[e * W + r] = sum;
        }
}

/* W outputs of a few examples. */
INLINE void few_rows_block(const int examples, const few_rows_args *a, int64_t output, int64_t example) {
    int64_t lanes = min_int(W, a->outputs - output), row = 0;
    const float *x = a->x + example * a->x_pitch, *weight = a->weight + output * a->inputs;
    float total[EXAMPLES_AT_ONCE * W] = {0};
    for (; row + ROWS_AT_ONCE <= lanes; row += ROWS_AT_ONCE)
        multiply_rows(ROWS_AT_ONCE, examples, weight + row * a->inputs, x, a->x_pitch, a->inputs, total + row);
    for (; row < lanes; row++)
        multiply_rows(1, examples, weight + row * a->inputs, x, a->x_pitch, a->inputs, total + row);
    vf bias = load_channel(a->bias, output, lanes);
    for (int e = 0; e < examples; e++) {
        vf y = activate(v_load(total + e * W) + bias, a->activation);
        int64_t place = (example + e) * a->outputs + output;
        if (a->residual) y += load_channel(a->residual, place, lanes);
        v_store_lanes((char *)(a->y + place), DTYPE_FLOAT32, lanes, y);
    }
}

static void few_rows_task(const void *context, int64_t task, char *memory) {
    (void)memory;
    const few_rows_args *a = context;
    int64_t last = min_int((task + 1) * OUTPUTS_PER_TASK, a->outputs);
    for (int64_t output = task * OUTPUTS_PER_TASK; output < last; output += W) {
        int64_t e = 0;
        for (; e + EXAMPLES_AT_ONCE <= a->batch; e += EXAMPLES_AT_ONCE)
            few_rows_block(EXAMPLES_AT_ONCE, a, output, e);
        for (; e < a->batch; e++) few_rows_block(1, a, output, e);
    }
}

static int few_rows(const few_rows_args *a) {
    int64_t tasks = (a->outputs + OUTPUTS_PER_TASK - 1) / OUTPUTS_PER_TASK;
    int64_t threads = worthwhile_threads(a->threads, a->outputs * a->inputs, PRODUCTS_PER_THREAD);
    return parallel_tasks(tasks, threads, 0, few_rows_task, a);
}
