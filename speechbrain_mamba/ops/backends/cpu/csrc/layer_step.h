/* One step of a Mamba layer between its projections in and out: convolution, projection to the step's factor, B and C,
 * step, update and gate, in three passes over the channels.
 *
 * The parameters come packed, in the order in which the passes read them. Each weight is read once for all examples of
 * a group, as reading them is what takes the time of a step.
 */

#if W == 16
enum { ROWS_AT_ONCE = 4, EXAMPLES_AT_ONCE = 4 }; /* their sums stay in registers */
#else
enum { ROWS_AT_ONCE = 4, EXAMPLES_AT_ONCE = 2 };
#endif
/* Products of one thread in some 20 us, when the weights come from memory. */
enum { PRODUCTS_PER_THREAD = 1 << 16 };

typedef struct {
    const layer_step_args *args;
    int64_t padded;   /* channels, and... */
    int64_t states;   /* ...states, in whole packed vectors */
    int64_t features; /* rows of the projection: the factor, B and C */
    int64_t vectors;  /* of the states of a channel */
    const float *conv, *skip, *projection, *steps, *rates; /* parts of the packed parameters, see api.h */
    float *u, *projected;                                  /* (batch, padded), (batch, pitch) */
    int64_t B, C, pitch;                                   /* where B and C begin in a projected row, and its floats */
} layer_step_plan;

static void convolve_task(const void *context, int64_t task, char *memory) {
    const layer_step_plan *p = context;
    const layer_step_args *a = p->args;
    int64_t example = task % a->batch, kept = a->width - 1, bytes = dtype_bytes[a->conv_dtype];
    int64_t first = task / a->batch * CHANNELS_PER_TASK, last = min_int(first + CHANNELS_PER_TASK, a->channels);
    cutter k = {memory, 0};
    vf *old = take(&k, kept), *new = take(&k, kept); /* inputs of a block of channels, (W, kept) */
    const float *before = (const float *)old;
    float *after = (float *)new;
    walk w = {example, 1, 0, 1};
    for (int64_t c = first; c < last; c += W) {
        int64_t lanes = min_int(W, last - c), place = (example * a->channels + c) * kept * bytes;
        vf x, sum = v_load(p->conv + a->width * p->padded + c);
        load_tile(&x, 1, &a->xz, &w, 0, 1, c, lanes);
        for (int64_t i = 0; i < kept && i * W < lanes * kept; i++)
            old[i] = v_load_lanes(a->conv_before + place + i * W * bytes, a->conv_dtype, lanes * kept - i * W);
        float input[W] = {0};
        for (int64_t n = 0; n < kept; n++) {
            for (int64_t i = 0; i < lanes; i++) {
                input[i] = before[i * kept + n];
                if (n > 0) after[i * kept + n - 1] = input[i];
            }
            sum += v_load(p->conv + n * p->padded + c) * v_load(input);
        }
        for (int64_t i = 0; i < lanes && kept > 0; i++) after[i * kept + kept - 1] = x[i];
        for (int64_t i = 0; i < kept && i * W < lanes * kept; i++)
            v_store_lanes(a->conv_after + place + i * W * bytes, a->conv_dtype, lanes * kept - i * W, new[i]);
        sum += v_load(p->conv + kept * p->padded + c) * x;
        v_store(p->u + example * p->padded + c, sum * v_sigmoid(sum)); /* zero in the lanes past the last channel */
    }
}

/* Products of a few rows of the projection with a few examples. */
INLINE void project_rows(const int rows, const int examples, const layer_step_plan *p, int64_t row, int64_t example) {
    const float *weight = p->projection + row * p->padded, *u = p->u + example * p->padded;
    vf sums[ROWS_AT_ONCE][EXAMPLES_AT_ONCE];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int e = 0; e < examples; e++) sums[r][e] = v_zero();
    for (int64_t c = 0; c < p->padded; c += W) {
        vf input[EXAMPLES_AT_ONCE];
        UNROLL for (int e = 0; e < examples; e++) input[e] = v_load(u + e * p->padded + c);
        UNROLL for (int r = 0; r < rows; r++) {
            vf column = v_load(weight + r * p->padded + c);
            UNROLL for (int e = 0; e < examples; e++) sums[r][e] += column * input[e];
        }
    }
    for (int r = 0; r < rows; r++) {
        int64_t rank = p->args->rank, feature = row + r, n = feature - rank, state = p->args->state;
        int64_t place = n < 0 ? feature : n < state ? p->B + n : p->C + n - state;
        for (int e = 0; e < examples; e++) {
            float total = 0;
            for (int i = 0; i < W; i++) total += sums[r][e][i];
            p->projected[(example + e) * p->pitch + place] = total;
        }
    }
}

static void project_task(const void *context, int64_t task, char *memory) {
    (void)memory;
    const layer_step_plan *p = context;
    int64_t row = task * ROWS_AT_ONCE, last = min_int(row + ROWS_AT_ONCE, p->features), batch = p->args->batch, e = 0;
    if (last - row == ROWS_AT_ONCE) {
        for (; e + EXAMPLES_AT_ONCE <= batch; e += EXAMPLES_AT_ONCE)
            project_rows(ROWS_AT_ONCE, EXAMPLES_AT_ONCE, p, row, e);
        for (; e < batch; e++) project_rows(ROWS_AT_ONCE, 1, p, row, e);
    } else {
        for (; row < last; row++)
            for (e = 0; e < batch; e++) project_rows(1, 1, p, row, e);
    }
}

/* The steps of a block of channels, which begins at c, before softplus: bias, and products with the factor. */
INLINE vf multiply_factor(const layer_step_plan *p, const float *factor, int64_t c) {
    int64_t rank = p->args->rank, r = 0;
    const float *column = p->steps + c / PACK_ALIGN * PACK_ALIGN * rank + c % PACK_ALIGN;
    vf sums[4] = {v_load(p->skip + p->padded + c), v_zero(), v_zero(), v_zero()};
    for (; r + 4 <= rank; r += 4)
        UNROLL for (int i = 0; i < 4; i++) sums[i] += v_load(column + (r + i) * PACK_ALIGN) * factor[r + i];
    for (; r < rank; r++) sums[0] += v_load(column + r * PACK_ALIGN) * factor[r];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

static void update_task(const void *context, int64_t task, char *memory) {
    const layer_step_plan *p = context;
    const layer_step_args *a = p->args;
    int64_t example = task % a->batch;
    int64_t first = task / a->batch * CHANNELS_PER_TASK, last = min_int(first + CHANNELS_PER_TASK, a->channels);
    const float *projected = p->projected + example * p->pitch;
    cutter k = {memory, 0};
    vf *B = take(&k, p->vectors), *C = take(&k, p->vectors);
    memcpy(B, projected + p->B, (size_t)p->vectors * sizeof(vf));
    memcpy(C, projected + p->C, (size_t)p->vectors * sizeof(vf));
    walk w = {example, 1, 0, 1};
    for (int64_t c = first; c < last; c += W) {
        int64_t lanes = min_int(W, last - c), offset = (example * a->channels + c) * a->state;
        vf u = v_load(p->u + example * p->padded + c), z, y;
        vf delta = v_softplus(multiply_factor(p, projected, c));
        state_block states = {a->state, lanes, p->rates + c * p->states, p->states, a->state_before + offset,
                              a->state_after + offset, B, C};
        y = update_states(&states, delta, u) + v_load(p->skip + c) * u;
        load_tile(&z, 1, &a->xz, &w, 0, 1, a->channels + c, lanes);
        y *= z * v_sigmoid(z);
        store_tile(&y, 1, &a->y, &w, 0, 1, c, lanes);
    }
}

static int layer_step(const layer_step_args *a) {
    layer_step_plan p = {.args = a, .padded = round_up(a->channels, PACK_ALIGN), .features = a->rank + 2 * a->state};
    p.states = round_up(a->state, PACK_ALIGN);
    p.vectors = (a->state + W - 1) / W;
    p.conv = a->packed;
    p.skip = p.conv + (a->width + 1) * p.padded;
    p.projection = p.skip + 2 * p.padded;
    p.steps = p.projection + p.features * p.padded;
    p.rates = p.steps + a->rank * p.padded;
    p.B = round_up(a->rank, W);
    p.C = p.B + p.vectors * W;
    p.pitch = p.C + p.vectors * W;
    /* zeros, as rows of u, B and C are read in whole vectors */
    p.u = calloc((size_t)(a->batch * (p.padded + p.pitch) + 1), sizeof(float));
    if (!p.u) return STATUS_NO_MEMORY;
    p.projected = p.u + a->batch * p.padded;
    int64_t runs = (a->channels + CHANNELS_PER_TASK - 1) / CHANNELS_PER_TASK;
    int64_t groups = (p.features + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE, updates = a->batch * a->channels * a->state;
    int64_t projecting = worthwhile_threads(a->threads, a->channels * p.features, PRODUCTS_PER_THREAD);
    int64_t updating = worthwhile_threads(a->threads, updates + a->channels * a->rank, UPDATES_PER_THREAD / 4);
    int status = parallel_tasks(a->batch * runs, 1, (size_t)(2 * a->width) * sizeof(vf), convolve_task, &p);
    if (status == STATUS_OK) status = parallel_tasks(groups, projecting, 0, project_task, &p);
    if (status == STATUS_OK)
        status = parallel_tasks(a->batch * runs, updating, (size_t)(2 * p.vectors) * sizeof(vf), update_task, &p);
    free(p.u);
    return status;
}
