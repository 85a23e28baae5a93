/* The selective scan, backward.
 *
 * Only the states at the borders of chunks were kept. Chunks are visited last to first; inside one, the states are
 * computed again and kept with their decays in the cache, and the gradients walk back over them. A task is a run of
 * examples and a group of channel blocks. What several tasks contribute to (B and C over groups of channels, A, D and
 * the bias over examples) goes to partial sums that are added in a fixed order at the end: how the work is cut depends
 * on shapes alone, so that the result does not depend on the number of threads.
 */

#define LN_2 0.693147180559945309f

enum { EXAMPLE_RUNS = 16, FRAMES_PER_TASK = 64 };

typedef struct {
    scan_plan plan;
    const scan_backward_args *args;
    int64_t runs;    /* of examples */
    int64_t passes;  /* over the states, STATES_BACKWARD at a time; also vectors per frame in `frames` */
    float *frames;   /* (direction, group, batch, time, passes, W): a pass's dB, then its dC */
    float *channels; /* (direction, run, channels, state + 2): dA, dD, dbias */
} scan_backward_plan;

/* What a thread works with beyond the forward pass's. */
typedef struct {
    scan_scratch forward;
    vf *dA, *dD, *dbias, *carry, *dBC;
    vf *slope, *dy, *dz, *dstep, *ddu, *decays, *states;
} backward_scratch;

INLINE float *parameter_sums(const scan_backward_plan *p, int64_t index, int64_t run) {
    const scan_args *a = p->plan.args;
    return p->channels + (index * p->runs + run) * a->channels * (a->state + 2);
}

INLINE float *frame_sums(const scan_backward_plan *p, int64_t index, int64_t group, int64_t example, int64_t frame) {
    const scan_args *a = p->plan.args;
    int64_t slab = (index * p->plan.groups + group) * a->batch + example;
    return p->frames + (slab * a->time + frame) * p->passes * W;
}

/* The chunk's states and decays again; states[0] is the border, y gains the outputs. */
INLINE void recompute_states(const int approximate, int64_t rows, const vf *A, const float *B, const float *C,
                             int64_t stride, const backward_scratch *s, const prefetcher *next) {
    enum { N = STATES_BACKWARD };
    const vf *delta = s->forward.delta, *du = s->forward.du;
    vf *y = s->forward.y, *decays = s->decays, *states = s->states, h[N];
    UNROLL for (int n = 0; n < N; n++) h[n] = states[n];
    for (int64_t t = 0; t < rows; t++, B += stride, C += stride) {
        vf step = delta[t], input = du[t], sum[2] = {y[t], v_zero()};
        states += N;
        prefetch_row(next, t);
        UNROLL for (int n = 0; n < N; n++) {
            vf decay = v_exp2_as(step * A[n], approximate);
            h[n] = decay * h[n] + input * B[n];
            sum[n & 1] += h[n] * C[n];
            decays[n] = decay;
            states[n] = h[n];
        }
        decays += N;
        y[t] = sum[0] + sum[1];
    }
}

/* Walk the gradients of N states back over the chunk. */
INLINE void walk_back(int64_t rows, const vf *A, const float *B, const float *C, int64_t stride, vf *carry, vf *dA,
                      vf *dBC, int64_t pitch, const backward_scratch *s) {
    enum { N = STATES_BACKWARD };
    vf dh[N], gA[N];
    UNROLL for (int n = 0; n < N; n++) dh[n] = carry[n], gA[n] = dA[n];
    for (int64_t t = rows - 1; t >= 0; t--) {
        const vf *decay = s->decays + t * N, *before = s->states + t * N, *after = before + N;
        const float *b = B + t * stride, *c = C + t * stride;
        vf dy = s->dy[t], step = s->forward.delta[t], input = s->forward.du[t];
        vf dstep = s->dstep[t], ddu = s->ddu[t], sums[W];
        UNROLL for (int n = 0; n < N; n++) {
            dh[n] += dy * c[n];
            sums[n] = dh[n] * input;
            sums[N + n] = after[n] * dy;
            ddu += dh[n] * b[n];
            dh[n] *= decay[n];
            vf change = dh[n] * before[n];
            dstep += change * A[n];
            gA[n] += change * step;
        }
        s->dstep[t] = dstep;
        s->ddu[t] = ddu;
        dBC[t * pitch] += v_reduce(sums);
    }
    UNROLL for (int n = 0; n < N; n++) carry[n] = dh[n], dA[n] = gA[n];
}

/* Tiles of the chunk and block: inputs, and the output's gradient before the gate. */
static void load_chunk(const scan_backward_plan *p, int64_t index, const walk *w, int64_t step, int64_t rows,
                       int64_t block, int64_t c, int64_t lanes, const backward_scratch *s) {
    const scan_args *a = p->plan.args;
    const scan_direction *d = &a->direction[index];
    const scan_scratch *f = &s->forward;
    load_steps(&p->plan, d, w, step, rows, block, c, lanes, f);
    load_tile(f->u, 1, &d->u, w, step, rows, c, lanes);
    load_tile(s->dy, 1, &p->args->dy, w, step, rows, c, lanes);
    if (a->softplus)
        for (int64_t t = 0; t < rows; t++) s->slope[t] = v_sigmoid(f->delta[t] + f->bias[block]);
    make_steps_as(a->approximate, f->delta, rows, f->bias[block], a->softplus);
    float scale = a->directions == 2 ? 0.5f : 1.0f;
    if (a->z.data) {
        load_tile(f->z, 1, &a->z, w, step, rows, c, lanes);
        for (int64_t t = 0; t < rows; t++) {
            vf sigmoid = v_sigmoid(f->z[t]), dy = scale * s->dy[t];
            s->dz[t] = dy * sigmoid * (1.0f + f->z[t] * (1.0f - sigmoid));
            s->dy[t] = dy * f->z[t] * sigmoid;
        }
    } else {
        for (int64_t t = 0; t < rows; t++) s->dy[t] *= scale;
    }
    vf D = f->D[block];
    for (int64_t t = 0; t < rows; t++) {
        f->du[t] = f->delta[t] * f->u[t];
        f->y[t] = D * f->u[t];
        s->dstep[t] = s->ddu[t] = v_zero();
    }
}

/* The gate's gradient, summed over the directions. */
static void store_gate(const scan_backward_plan *p, int64_t index, const walk *w, int64_t step, int64_t rows,
                       int64_t block, int64_t c, int64_t lanes, const backward_scratch *s) {
    for (int64_t t = 0; t < rows; t++) s->dz[t] *= s->forward.y[t];
    if (sum_directions(&p->plan, index, w, step, rows, block, c, lanes, &s->forward, s->dz))
        store_tile(s->dz, 1, &p->args->dz, w, step, rows, c, lanes);
}

/* From the gradients that the walk has left to those of the inputs. */
static void store_chunk(const scan_backward_plan *p, int64_t index, const walk *w, int64_t step, int64_t rows,
                        int64_t block, int64_t c, int64_t lanes, const backward_scratch *s) {
    const scan_scratch *f = &s->forward;
    const scan_direction_gradients *g = &p->args->gradients[index];
    vf D = f->D[block], dD = s->dD[block], dbias = s->dbias[block];
    for (int64_t t = 0; t < rows; t++) {
        vf ddu = s->ddu[t], ddelta = LN_2 * s->dstep[t] + ddu * f->u[t];
        if (p->plan.args->softplus) ddelta *= s->slope[t];
        dD += s->dy[t] * f->u[t];
        dbias += ddelta;
        s->dstep[t] = ddelta;
        s->ddu[t] = ddu * f->delta[t] + D * s->dy[t];
    }
    s->dD[block] = dD;
    s->dbias[block] = dbias;
    store_tile(s->dstep, 1, &g->ddelta, w, step, rows, c, lanes);
    store_tile(s->ddu, 1, &g->du, w, step, rows, c, lanes);
    if (p->plan.args->z.data) store_gate(p, index, w, step, rows, block, c, lanes, s);
}

/* What the block after this one will load: its neighbor, or the group's first one in the chunk before. */
INLINE prefetcher next_block_back(const scan_backward_plan *p, int64_t index, const walk *w, int64_t step,
                                  int64_t block, int64_t c) {
    const scan_args *a = p->plan.args;
    const scan_direction *d = &a->direction[index];
    prefetcher next = {.count = 0};
    int last = block + 1 == p->plan.blocks || c + W >= a->channels;
    if (last) c -= (block + 1) * W, step -= CHUNK;
    if (step < 0) return next;
    prefetch_tile(&next, &d->u, w, step, c + W);
    if (!p->plan.rank) prefetch_tile(&next, &d->delta, w, step, c + W);
    prefetch_tile(&next, &a->z, w, step, c + W);
    prefetch_tile(&next, &p->args->dy, w, step, c + W);
    prefetch_tile(&next, &p->args->gradients[index].ddelta, w, step, c + W);
    prefetch_tile(&next, &p->args->gradients[index].du, w, step, c + W);
    if (a->z.data) prefetch_tile(&next, &p->args->dz, w, step, c + W);
    next.row[next.count] = (const char *)border(a, d, w->example, step, c + W);
    next.stride[next.count++] = BORDER_ALIGN * sizeof(float);
    return next;
}

/* One block's way back through one chunk. */
static void scan_back_chunk(const scan_backward_plan *p, int64_t index, const walk *w, int64_t step, int64_t rows,
                            int64_t block, int64_t c, const backward_scratch *s) {
    const scan_args *a = p->plan.args;
    int64_t lanes = min_int(W, a->channels - c), stride = p->plan.pitch * W;
    int64_t own = block * p->plan.states;
    const float *B = (const float *)s->forward.B, *C = (const float *)s->forward.C;
    const float *saved = border(a, &a->direction[index], w->example, step, c);
    prefetcher next = next_block_back(p, index, w, step, block, c);
    load_chunk(p, index, w, step, rows, block, c, lanes, s);
    for (int64_t pass = 0; pass < p->passes; pass++) {
        int64_t n = pass * STATES_BACKWARD;
        for (int64_t i = 0; i < STATES_BACKWARD; i++)
            s->states[i] = n + i < a->state ? v_load(saved + (n + i) * BORDER_ALIGN) : v_zero();
        if (a->approximate)
            recompute_states(1, rows, s->forward.A + own + n, B + n, C + n, stride, s, &next);
        else
            recompute_states(0, rows, s->forward.A + own + n, B + n, C + n, stride, s, &next);
        next.count = 0;
        walk_back(rows, s->forward.A + own + n, B + n, C + n, stride, s->carry + own + n, s->dA + own + n,
                  s->dBC + pass, p->passes, s);
    }
    store_chunk(p, index, w, step, rows, block, c, lanes, s);
}

static void scan_back_example(const scan_backward_plan *p, int64_t index, const walk *w, int64_t group,
                              const backward_scratch *s) {
    const scan_args *a = p->plan.args;
    const scan_direction *d = &a->direction[index];
    const scan_direction_gradients *g = &p->args->gradients[index];
    int64_t first = group * p->plan.blocks * W;
    load_group_states(&p->plan, s->carry, g->dlast_state, w->example, first);
    for (int64_t step = (w->length - 1) / CHUNK * CHUNK; step >= 0 && step < w->length; step -= CHUNK) {
        int64_t rows = min_int(CHUNK, w->length - step);
        load_shared(&p->plan, d, w, step, rows, &s->forward);
        memset(s->dBC, 0, (size_t)(rows * p->passes) * sizeof(vf));
        for (int64_t block = 0, c = first; block < p->plan.blocks && c < a->channels; block++, c += W)
            scan_back_chunk(p, index, w, step, rows, block, c, s);
        for (int64_t r = 0; r < rows; r++)
            memcpy(frame_sums(p, index, group, w->example, w->first + w->sign * (step + r)), s->dBC + r * p->passes,
                   (size_t)p->passes * sizeof(vf));
    }
    store_group_states(&p->plan, s->carry, g->dinitial_state, w->example, first);
}

static size_t scan_backward_scratch(const scan_backward_plan *p, backward_scratch *s, char *memory) {
    int64_t states = p->plan.blocks * p->plan.states;
    cutter k = {memory, scan_forward_scratch(&p->plan, &s->forward, memory)};
    s->dA = take(&k, states);
    s->dD = take(&k, p->plan.blocks);
    s->dbias = take(&k, p->plan.blocks);
    s->carry = take(&k, states);
    s->dBC = take(&k, CHUNK * p->passes);
    s->slope = take(&k, CHUNK);
    s->dy = take(&k, CHUNK);
    s->dz = take(&k, CHUNK);
    s->dstep = take(&k, CHUNK);
    s->ddu = take(&k, CHUNK);
    s->decays = take(&k, CHUNK * STATES_BACKWARD);
    s->states = take(&k, (CHUNK + 1) * STATES_BACKWARD);
    return k.used;
}

static void store_parameter_sums(const scan_backward_plan *p, int64_t index, int64_t run, int64_t first,
                                 const backward_scratch *s) {
    const scan_args *a = p->plan.args;
    float *dA = parameter_sums(p, index, run), *dD = dA + a->channels * a->state, *dbias = dD + a->channels;
    for (int64_t block = 0, c = first; block < p->plan.blocks && c < a->channels; block++, c += W) {
        int64_t lanes = min_int(W, a->channels - c);
        store_columns(s->dA + block * p->plan.states, dA + c * a->state, a->state, lanes);
        store_columns(s->dD + block, dD + c, 1, lanes);
        store_columns(s->dbias + block, dbias + c, 1, lanes);
    }
}

static void scan_backward_task(const void *context, int64_t task, char *memory) {
    const scan_backward_plan *p = context;
    const scan_args *a = p->plan.args;
    int64_t run = task / p->plan.groups, group = task % p->plan.groups, first = group * p->plan.blocks * W;
    int64_t features = min_int(p->plan.blocks * W, a->channels - first), states = p->plan.blocks * p->plan.states;
    backward_scratch scratch[2];
    for (int64_t index = 0; index < a->directions; index++) {
        backward_scratch *s = &scratch[index];
        memory += scan_backward_scratch(p, s, memory);
        s->forward.total = scratch[0].forward.total;
        load_parameters(&p->plan, &a->direction[index], first, &s->forward);
        memset(s->dA, 0, (size_t)states * sizeof(vf));
        memset(s->dD, 0, (size_t)p->plan.blocks * sizeof(vf));
        memset(s->dbias, 0, (size_t)p->plan.blocks * sizeof(vf));
    }
    for (int64_t example = run * a->batch / p->runs; example < (run + 1) * a->batch / p->runs; example++)
        for (int64_t index = 0; index < a->directions; index++) {
            walk w = make_walk(a->lengths, example, a->time, a->direction[index].reverse);
            scan_back_example(p, index, &w, group, &scratch[index]);
            zero_padding(&p->args->gradients[index].du, &w, a->time, first, features);
            zero_padding(&p->args->gradients[index].ddelta, &w, a->time, first, features);
            if (index == 0 && a->z.data) zero_padding(&p->args->dz, &w, a->time, first, features);
        }
    for (int64_t index = 0; index < a->directions; index++)
        store_parameter_sums(p, index, run, first, &scratch[index]);
}

/* Add the groups' parts of dB and dC, for some frames of one example and direction. */
static void reduce_frames_task(const void *context, int64_t task, char *memory) {
    const scan_backward_plan *p = context;
    const scan_args *a = p->plan.args;
    int64_t pieces = (a->time + FRAMES_PER_TASK - 1) / FRAMES_PER_TASK, width = p->passes * W;
    int64_t start = task % pieces * FRAMES_PER_TASK, example = task / pieces % a->batch, index = task / pieces / a->batch;
    const scan_direction_gradients *g = &p->args->gradients[index];
    walk w = make_walk(a->lengths, example, a->time, 0);
    int64_t rows = min_int(FRAMES_PER_TASK, a->time - start), valid = min_int(rows, w.length - start);
    if (valid < 0) valid = 0;
    cutter k = {memory, 0};
    float *sum = (float *)take(&k, p->passes), *dB = (float *)take(&k, p->plan.pitch), *dC = (float *)take(&k, p->plan.pitch);
    for (int64_t r = 0; r < rows; r++) {
        memset(sum, 0, (size_t)width * sizeof(float));
        for (int64_t group = 0; r < valid && group < p->plan.groups; group++) {
            const float *part = frame_sums(p, index, group, example, start + r);
            for (int64_t i = 0; i < width; i += W) v_store(sum + i, v_load(sum + i) + v_load(part + i));
        }
        for (int64_t n = 0; n < a->state; n++) {
            int64_t at = n / STATES_BACKWARD * W + n % STATES_BACKWARD;
            dB[n] = sum[at];
            dC[n] = sum[at + STATES_BACKWARD];
        }
        for (int64_t n = 0; n < a->state; n += W) {
            v_store_lanes(address(&g->dB, &w, start + r, n), g->dB.dtype, a->state - n, v_load(dB + n));
            v_store_lanes(address(&g->dC, &w, start + r, n), g->dC.dtype, a->state - n, v_load(dC + n));
        }
    }
}

/* Add the runs' parts of the parameters' gradients. */
static void reduce_parameters(const scan_backward_plan *p, int64_t index) {
    const scan_args *a = p->plan.args;
    const scan_direction_gradients *g = &p->args->gradients[index];
    float *outputs[3] = {g->dA, g->dD, g->ddelta_bias};
    int64_t sizes[3] = {a->channels * a->state, a->channels, a->channels}, offset = 0;
    for (int i = 0; i < 3; offset += sizes[i++]) {
        if (!outputs[i]) continue;
        memset(outputs[i], 0, (size_t)sizes[i] * sizeof(float));
        for (int64_t run = 0; run < p->runs; run++) {
            const float *part = parameter_sums(p, index, run) + offset;
            for (int64_t j = 0; j < sizes[i]; j++) outputs[i][j] += part[j];
        }
    }
}

static int scan_backward(const scan_backward_args *args) {
    const scan_args *a = &args->forward;
    /* By shapes alone. Wide groups read long runs of memory and leave less to add up at the end. */
    int64_t group = 256, runs = min_int(a->batch, EXAMPLE_RUNS);
    while (group > 32 && runs * ((a->channels + group - 1) / group) < 8) group /= 2;
    scan_backward_plan p = {.plan = plan_scan(a, &args->dz, group), .args = args, .runs = runs};
    p.passes = p.plan.states / STATES_BACKWARD;
    int64_t frames = a->directions * p.plan.groups * a->batch * a->time * p.passes * W;
    int64_t channels = a->directions * p.runs * a->channels * (a->state + 2);
    char *memory = malloc((size_t)(frames + channels) * sizeof(float) + 1);
    if (!memory) return STATUS_NO_MEMORY;
    p.frames = (float *)memory;
    p.channels = p.frames + frames;
    backward_scratch s;
    int64_t threads = scan_threads(a);
    int status = parallel_tasks(p.runs * p.plan.groups, threads,
                                (size_t)a->directions * scan_backward_scratch(&p, &s, NULL), scan_backward_task, &p);
    int64_t pieces = (a->time + FRAMES_PER_TASK - 1) / FRAMES_PER_TASK;
    if (status == STATUS_OK && a->channels > 0)
        status = parallel_tasks(a->directions * a->batch * pieces, threads,
                                (size_t)(p.passes + 2 * p.plan.pitch) * sizeof(vf), reduce_frames_task, &p);
    for (int64_t index = 0; index < a->directions; index++) reduce_parameters(&p, index);
    free(memory);
    return status;
}
