/* One step of the scan. There is no time to keep states in registers for, so states sit in the lanes, as they lie in
 * memory. A task is one example and a run of channels. */

enum { CHANNELS_PER_TASK = 512 };

INLINE float scalar(const sequence *s, int64_t example, int64_t feature) {
    return v_load_lanes(s->data + (example * s->batch_stride + feature) * dtype_bytes[s->dtype], s->dtype, 1)[0];
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
        int64_t lanes = min_int(W, last - c);
        vf u, delta, z, y = v_zero();
        load_tile(&u, 1, &a->u, &w, 0, 1, c, lanes);
        load_tile(&delta, 1, &a->delta, &w, 0, 1, c, lanes);
        make_steps(&delta, 1, load_channel(a->delta_bias, c, lanes), a->softplus);
        for (int64_t lane = 0; lane < lanes; lane++) {
            const float *A = a->A + (c + lane) * a->state;
            int64_t offset = (example * a->channels + c + lane) * a->state;
            float step = delta[lane], input = step * u[lane];
            vf sum = v_zero();
            for (int64_t i = 0; i < vectors; i++) {
                int64_t n = i * W, count = a->state - n;
                vf h = v_load_lanes((const char *)(a->state_before + offset + n), DTYPE_FLOAT32, count);
                vf decay = v_exp2(step * (v_load_lanes((const char *)(A + n), DTYPE_FLOAT32, count) * LOG2_E));
                h = decay * h + input * B[i];
                v_store_lanes((char *)(a->state_after + offset + n), DTYPE_FLOAT32, count, h);
                sum += h * C[i];
            }
            float total = 0;
            for (int i = 0; i < W; i++) total += sum[i];
            y[lane] = total;
        }
        y += load_channel(a->D, c, lanes) * u;
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
