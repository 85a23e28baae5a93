/* One step of the scan. There is no time to keep states in registers for, so states sit in the lanes, as they lie in
 * memory. A task is one example and a run of channels. */

enum { CHANNELS_PER_TASK = 512 };

/* States of a block of channels before and after a step, (lanes, state), and what turns the former into the latter. */
typedef struct {
    int64_t state, lanes;
    const float *A;
    int64_t packed; /* 0, or floats in a row of A, which is then padded to whole vectors and has taken log2(e) along */
    const float *before;
    float *after;
    const vf *B, *C; /* padded with zeros to whole vectors */
} state_block;

/* Advance each channel by its step; returns the outputs C h, a channel per lane. */
INLINE vf update_states(const state_block *b, vf delta, vf u) {
    vf input = delta * u, sums[W];
    for (int64_t lane = 0; lane < b->lanes; lane++) {
        vf sum = v_zero(), A;
        for (int64_t n = 0, i = 0; n < b->state; n += W, i++) {
            int64_t offset = lane * b->state + n, count = b->state - n;
            vf h = v_load_lanes((const char *)(b->before + offset), DTYPE_FLOAT32, count);
            if (b->packed)
                A = v_load(b->A + lane * b->packed + n);
            else
                A = v_load_lanes((const char *)(b->A + offset), DTYPE_FLOAT32, count) * LOG2_E;
            h = v_exp2(delta[lane] * A) * h + input[lane] * b->B[i];
            v_store_lanes((char *)(b->after + offset), DTYPE_FLOAT32, count, h);
            sum += h * b->C[i];
        }
        sums[lane] = sum;
    }
    for (int64_t lane = b->lanes; lane < W; lane++) sums[lane] = v_zero();
    return v_reduce(sums);
}

static void scan_step_task(const void *context, int64_t task, char *memory) {
    const scan_step_args *a = context;
    int64_t runs = (a->channels + CHANNELS_PER_TASK - 1) / CHANNELS_PER_TASK, example = task / runs;
    int64_t first = task % runs * CHANNELS_PER_TASK, last = min_int(first + CHANNELS_PER_TASK, a->channels);
    int64_t vectors = (a->state + W - 1) / W;
    cutter k = {memory, 0};
    vf *B = take(&k, vectors), *C = take(&k, vectors);
    walk w = {example, 1, 0, 1};
    load_features(B, vectors, &a->B, &w, 0, 1, a->state);
    load_features(C, vectors, &a->C, &w, 0, 1, a->state);
    for (int64_t c = first; c < last; c += W) {
        int64_t lanes = min_int(W, last - c), offset = (example * a->channels + c) * a->state;
        vf u, delta, z, y;
        load_tile(&u, 1, &a->u, &w, 0, 1, c, lanes);
        load_tile(&delta, 1, &a->delta, &w, 0, 1, c, lanes);
        make_steps(&delta, 1, load_channel(a->delta_bias, c, lanes), a->softplus);
        state_block states = {a->state, lanes, a->A + c * a->state, 0, a->state_before + offset,
                              a->state_after + offset, B, C};
        y = update_states(&states, delta, u) + load_channel(a->D, c, lanes) * u;
        if (a->z.data) {
            load_tile(&z, 1, &a->z, &w, 0, 1, c, lanes);
            y *= z * v_sigmoid(z);
        }
        store_tile(&y, 1, &a->y, &w, 0, 1, c, lanes);
    }
}

static int scan_step(const scan_step_args *a) {
    int64_t runs = (a->channels + CHANNELS_PER_TASK - 1) / CHANNELS_PER_TASK, vectors = (a->state + W - 1) / W;
    int64_t threads = worthwhile_threads(a->threads, a->batch * a->channels * a->state, UPDATES_PER_THREAD / 4);
    return parallel_tasks(a->batch * runs, threads, (size_t)(2 * vectors) * sizeof(vf), scan_step_task, a);
}
