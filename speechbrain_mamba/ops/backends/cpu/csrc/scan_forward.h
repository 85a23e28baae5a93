/* The selective scan, forward.
 *
 * W channels sit in the lanes of a vector, and their states stay in registers while time runs; B and C are then
 * scalars for all lanes. A task is one example and a group of channel blocks. It goes through time in chunks, and
 * through its blocks inside a chunk, so that B and C of the chunk are converted once for all blocks and rows of the
 * inputs are read in longer runs.
 */

/* States that one pass over a chunk keeps in registers. */
#if W == 16
#define STATES_FORWARD 16
#else
#define STATES_FORWARD 8
#endif
/* Most channels of a group. */
#define GROUP_FORWARD 512
/* In the backward pass, which needs more registers; its two outputs per state fill the W rows of v_reduce. */
#define STATES_BACKWARD (W / 2)

/* How a scan is cut into tasks. */
typedef struct {
    const scan_args *args;
    int64_t blocks; /* per group */
    int64_t groups; /* per example */
    int64_t states; /* rounded up to what a pass takes, by states of which A, B, C are zero */
    int64_t pitch;  /* vectors in a row of B or C */
    int64_t rank;   /* of the steps' factor, 0 where the steps themselves are given */
    int64_t factor_pitch;
    const sequence *summed; /* over the directions: y, or in the backward pass the gradient of the gate */
    int summed_apart;       /* whether the first direction's part waits in float32 elsewhere */
} scan_plan;

/* What a thread works with: per block, and for the chunk and block at hand. */
typedef struct {
    vf *A, *h, *D, *bias, *weight;
    vf *total; /* (time, blocks) where the first of two directions waits, if it does so apart from `summed` */
    vf *B, *C, *factor, *delta, *u, *du, *z, *y, *first;
} scan_scratch;

/* Padded states of one block per vector; the real ones come from (channels, state). */
INLINE void load_states(vf *states, int64_t padded, const float *p, int64_t n, int64_t lanes) {
    for (int64_t i = 0; i < padded; i++) states[i] = v_zero();
    if (p) load_columns(states, p, n, lanes);
}

INLINE vf load_channel(const float *p, int64_t channel, int64_t lanes) {
    return p ? v_load_lanes((const char *)(p + channel), DTYPE_FLOAT32, lanes) : v_zero();
}

/* How the states of a channel decay: each at its rate, by either form of the exponential, or all by what is given. */
enum decay_form { DECAY_EXACT, DECAY_SHORT, DECAY_GIVEN };

/* Run `count` states, at most STATES_FORWARD, over the rows of a chunk: h becomes the last state, y gains their outputs. */
INLINE void scan_states(const int count, const int form, int64_t rows, const vf *A, vf *h, const float *B, const float *C,
                        int64_t stride, const vf *delta, const vf *du, vf *y, const prefetcher *next) {
    vf state[STATES_FORWARD];
    UNROLL for (int n = 0; n < count; n++) state[n] = h[n];
    for (int64_t t = 0; t < rows; t++, B += stride, C += stride) {
        vf step = delta[t], input = du[t], sum[2] = {y[t], v_zero()};
        prefetch_row(next, t);
        UNROLL for (int n = 0; n < count; n++) {
            vf decay = form == DECAY_GIVEN ? step : v_exp2_as(step * A[n], form == DECAY_SHORT);
            state[n] = decay * state[n] + input * B[n];
            sum[n & 1] += state[n] * C[n];
        }
        y[t] = sum[0] + sum[1];
    }
    UNROLL for (int n = 0; n < count; n++) h[n] = state[n];
}

INLINE void scan_chunk_as(const int form, const scan_plan *p, int64_t rows, const scan_scratch *s, const vf *A,
                          vf *h, prefetcher *next) {
    const float *B = (const float *)s->B, *C = (const float *)s->C;
    int64_t n = 0, stride = p->pitch * W;
    for (; n + STATES_FORWARD <= p->states; n += STATES_FORWARD, next->count = 0)
        scan_states(STATES_FORWARD, form, rows, A + n, h + n, B + n, C + n, stride, s->delta, s->du, s->y, next);
    for (; n < p->states; n += STATES_BACKWARD, next->count = 0)
        scan_states(STATES_BACKWARD, form, rows, A + n, h + n, B + n, C + n, stride, s->delta, s->du, s->y, next);
}

static void scan_chunk(const scan_plan *p, int64_t rows, const scan_scratch *s, const vf *A, vf *h,
                       prefetcher *next) {
    if (p->args->head_channels) {
        for (int64_t t = 0; t < rows; t++) s->delta[t] = v_exp2_as(s->delta[t] * A[0], p->args->approximate != 0);
        scan_chunk_as(DECAY_GIVEN, p, rows, s, A, h, next);
    } else if (p->args->approximate) {
        scan_chunk_as(DECAY_SHORT, p, rows, s, A, h, next);
    } else {
        scan_chunk_as(DECAY_EXACT, p, rows, s, A, h, next);
    }
}

/* What all blocks of a chunk share: B, C and the factor of the steps. */
static void load_shared(const scan_plan *p, const scan_direction *d, const walk *w, int64_t step, int64_t rows,
                        const scan_scratch *s) {
    load_features(s->B, p->pitch, &d->B, w, step, rows, p->args->state);
    load_features(s->C, p->pitch, &d->C, w, step, rows, p->args->state);
    load_features(s->factor, p->factor_pitch, &d->delta, w, step, rows, p->rank);
}

/* Steps that the channels of a head share. */
static void load_head_steps(const scan_plan *p, const scan_direction *d, const walk *w, int64_t step, int64_t rows,
                            int64_t c, int64_t lanes, vf *delta) {
    int64_t size = p->args->head_channels, first = c / size, last = (c + lanes - 1) / size;
    for (int64_t t = 0; t < rows; t++) {
        const char *row = address(&d->delta, w, step + t, first);
        float lane[W] = {0};
        for (int64_t head = first, i = 0; head <= last; head++, row += dtype_bytes[d->delta.dtype]) {
            float value = v_load_lanes(row, d->delta.dtype, 1)[0];
            if (first == last) {
                delta[t] = v_set(value);
                break;
            }
            for (; i < lanes && (c + i) / size == head; i++) lane[i] = value;
        }
        if (first != last) delta[t] = v_load(lane);
    }
}

/* A chunk's steps before bias and softplus, loaded or multiplied out, four frames for each load of a weight. */
static void load_steps(const scan_plan *p, const scan_direction *d, const walk *w, int64_t step, int64_t rows,
                       int64_t block, int64_t c, int64_t lanes, const scan_scratch *s) {
    if (p->args->head_channels) {
        load_head_steps(p, d, w, step, rows, c, lanes, s->delta);
        return;
    }
    if (!p->rank) {
        load_tile(s->delta, 1, &d->delta, w, step, rows, c, lanes);
        return;
    }
    const vf *weight = s->weight + block * p->rank;
    int64_t pitch = p->factor_pitch * W;
    for (int64_t t = 0; t < CHUNK && t < rows; t += 4) {
        const float *factor = (const float *)s->factor + t * pitch;
        vf sum[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        for (int64_t r = 0; r < p->rank; r++) {
            vf column = weight[r];
            UNROLL for (int i = 0; i < 4; i++) sum[i] += column * factor[i * pitch + r];
        }
        UNROLL for (int i = 0; i < 4; i++) s->delta[t + i] = sum[i];
    }
}

/* The step sizes of a chunk after bias and softplus. */
INLINE void make_steps(vf *delta, int64_t rows, vf bias, int64_t softplus) {
    if (softplus)
        for (int64_t t = 0; t < rows; t++) delta[t] = v_softplus(delta[t] + bias);
    else
        for (int64_t t = 0; t < rows; t++) delta[t] += bias;
}

INLINE void make_steps_as(int64_t approximate, vf *delta, int64_t rows, vf bias, int64_t softplus) {
    if (softplus && approximate)
        for (int64_t t = 0; t < rows; t++) delta[t] = v_softplus_short(delta[t] + bias);
    else
        make_steps(delta, rows, bias, softplus);
}

/* Where the states before a chunk are kept: a block's lie together, each as a row of BORDER_ALIGN channels. */
INLINE float *border(const scan_args *a, const scan_direction *d, int64_t example, int64_t step, int64_t channel) {
    int64_t channels = round_up(a->channels, BORDER_ALIGN), chunks = (a->time + CHUNK - 1) / CHUNK;
    return d->borders + (example * chunks + step / CHUNK) * a->state * channels +
           channel / BORDER_ALIGN * BORDER_ALIGN * a->state + channel % BORDER_ALIGN;
}

/* The parameters of every block of a group. A takes log2(e) along, for exp2. */
static void load_parameters(const scan_plan *p, const scan_direction *d, int64_t first, const scan_scratch *s) {
    const scan_args *a = p->args;
    for (int64_t block = 0, c = first; block < p->blocks && c < a->channels; block++, c += W) {
        int64_t lanes = min_int(W, a->channels - c);
        if (a->head_channels)
            s->A[block * p->states] = load_channel(d->A, c, lanes);
        else
            load_states(s->A + block * p->states, p->states, d->A + c * a->state, a->state, lanes);
        for (int64_t n = 0; n < (a->head_channels ? 1 : p->states); n++) s->A[block * p->states + n] *= LOG2_E;
        s->D[block] = load_channel(d->D, c, lanes);
        s->bias[block] = load_channel(d->delta_bias, c, lanes);
        if (p->rank) load_columns(s->weight + block * p->rank, d->delta_weight + c * p->rank, p->rank, lanes);
    }
}

/* One example's states of a group, or their gradients, from and to (batch, channels, state); zeros from NULL. */
static void load_group_states(const scan_plan *p, vf *states, const float *from, int64_t example, int64_t first) {
    const scan_args *a = p->args;
    for (int64_t block = 0, c = first; block < p->blocks && c < a->channels; block++, c += W)
        load_states(states + block * p->states, p->states,
                    from ? from + (example * a->channels + c) * a->state : NULL, a->state,
                    min_int(W, a->channels - c));
}

static void store_group_states(const scan_plan *p, const vf *states, float *to, int64_t example, int64_t first) {
    const scan_args *a = p->args;
    for (int64_t block = 0, c = first; to && block < p->blocks && c < a->channels; block++, c += W)
        store_columns(states + block * p->states, to + (example * a->channels + c) * a->state, a->state,
                      min_int(W, a->channels - c));
}

/* Sum a tile over two directions; says whether the sum is complete. The first direction leaves its part where the sum
 * will be, if that does not round it, or if the caller wants speed. */
INLINE int sum_directions(const scan_plan *p, int64_t index, const walk *w, int64_t step, int64_t rows, int64_t block,
                          int64_t c, int64_t lanes, const scan_scratch *s, vf *tile) {
    if (p->args->directions == 1) return 1;
    sequence part = *p->summed;
    if (p->summed_apart) part = (sequence){(char *)s->total, DTYPE_FLOAT32, 0, p->blocks * W}, c = block * W;
    if (index == 0) {
        store_tile(tile, 1, &part, w, step, rows, c, lanes);
        return 0;
    }
    load_tile(s->first, 1, &part, w, step, rows, c, lanes);
    for (int64_t t = 0; t < rows; t++) tile[t] += s->first[t];
    return 1;
}

/* Turn a chunk's scan outputs into the operation's: skip connection, other direction, gate. */
static void finish_chunk(const scan_plan *p, int64_t index, const walk *w, int64_t step, int64_t rows, int64_t block,
                         int64_t c, int64_t lanes, const scan_scratch *s) {
    const scan_args *a = p->args;
    vf D = s->D[block];
    for (int64_t t = 0; t < rows; t++) s->y[t] += D * s->u[t];
    if (!sum_directions(p, index, w, step, rows, block, c, lanes, s, s->y)) return;
    if (a->directions == 2)
        for (int64_t t = 0; t < rows; t++) s->y[t] *= 0.5f;
    if (a->z.data) {
        load_tile(s->z, 1, &a->z, w, step, rows, c, lanes);
        gate_tile(s->y, s->z, rows, a->approximate);
    }
    store_tile(s->y, 1, &a->y, w, step, rows, c, lanes);
}

/* What the block after this one will load: its neighbor, or the group's first one in the next chunk. */
INLINE prefetcher next_block(const scan_plan *p, const scan_direction *d, const walk *w, int64_t step, int64_t block,
                             int64_t c) {
    prefetcher next = {.count = 0};
    int last = block + 1 == p->blocks || c + W >= p->args->channels;
    if (last) c -= (block + 1) * W, step += CHUNK;
    prefetch_tile(&next, &d->u, w, step, c + W);
    if (!p->rank && !p->args->head_channels) prefetch_tile(&next, &d->delta, w, step, c + W);
    prefetch_tile(&next, &p->args->z, w, step, c + W);
    prefetch_tile(&next, &p->args->y, w, step, c + W); /* a store waits for its line too */
    return next;
}

static void scan_forward_direction(const scan_plan *p, int64_t index, const walk *w, int64_t first,
                                   const scan_scratch *s) {
    const scan_args *a = p->args;
    const scan_direction *d = &a->direction[index];
    load_parameters(p, d, first, s);
    load_group_states(p, s->h, d->initial_state, w->example, first);
    for (int64_t step = 0; step < w->length; step += CHUNK) {
        int64_t rows = min_int(CHUNK, w->length - step);
        load_shared(p, d, w, step, rows, s);
        for (int64_t block = 0, c = first; block < p->blocks && c < a->channels; block++, c += W) {
            int64_t lanes = min_int(W, a->channels - c);
            vf *h = s->h + block * p->states;
            if (d->borders) {
                float *saved = border(a, d, w->example, step, c);
                for (int64_t n = 0; n < a->state; n++) v_store(saved + n * BORDER_ALIGN, h[n]);
            }
            load_steps(p, d, w, step, rows, block, c, lanes, s);
            load_tile(s->u, 1, &d->u, w, step, rows, c, lanes);
            make_steps_as(a->approximate, s->delta, rows, s->bias[block], a->softplus);
            if (a->step_limits)
                for (int64_t t = 0; t < rows; t++)
                    s->delta[t] = v_min(v_max(s->delta[t], v_set(a->step_limits[0])), v_set(a->step_limits[1]));
            for (int64_t t = 0; t < rows; t++) {
                s->du[t] = s->delta[t] * s->u[t];
                s->y[t] = v_zero();
            }
            prefetcher next = next_block(p, d, w, step, block, c);
            scan_chunk(p, rows, s, s->A + block * p->states, h, &next);
            finish_chunk(p, index, w, step, rows, block, c, lanes, s);
        }
    }
    store_group_states(p, s->h, d->last_state, w->example, first);
}

static scan_plan plan_scan(const scan_args *a, const sequence *summed, int64_t group_channels) {
    scan_plan p = {.args = a, .summed = summed};
    p.blocks = min_int(group_channels, round_up(a->channels + (a->channels == 0), W)) / W;
    p.groups = (a->channels + p.blocks * W - 1) / (p.blocks * W);
    p.states = round_up(a->state, STATES_BACKWARD);
    p.pitch = (a->state + W - 1) / W;
    p.rank = a->direction[0].delta_weight ? a->direction[0].delta_rank : 0;
    p.factor_pitch = (p.rank + W - 1) / W;
    int rounds = summed->dtype != DTYPE_FLOAT32, hidden = a->approximate && summed == &a->y;
    p.summed_apart = a->directions == 2 && rounds && !hidden;
    return p;
}

static size_t scan_forward_scratch(const scan_plan *p, scan_scratch *s, char *memory) {
    cutter k = {memory, 0};
    s->A = take(&k, p->blocks * p->states);
    s->h = take(&k, p->blocks * p->states);
    s->D = take(&k, p->blocks);
    s->bias = take(&k, p->blocks);
    s->weight = take(&k, p->blocks * p->rank);
    s->B = take(&k, CHUNK * p->pitch);
    s->C = take(&k, CHUNK * p->pitch);
    s->factor = take(&k, CHUNK * p->factor_pitch);
    s->delta = take(&k, CHUNK);
    s->u = take(&k, CHUNK);
    s->du = take(&k, CHUNK);
    s->z = take(&k, CHUNK);
    s->y = take(&k, CHUNK);
    s->first = take(&k, CHUNK);
    s->total = take(&k, p->summed_apart ? p->args->time * p->blocks : 0);
    return k.used;
}

static void scan_forward_task(const void *context, int64_t task, char *memory) {
    const scan_plan *p = context;
    const scan_args *a = p->args;
    scan_scratch s;
    scan_forward_scratch(p, &s, memory);
    int64_t first = task % p->groups * p->blocks * W;
    for (int64_t index = 0; index < a->directions; index++) {
        walk w = make_walk(a->lengths, task / p->groups, a->time, a->direction[index].reverse);
        scan_forward_direction(p, index, &w, first, &s);
        if (index == 0) zero_padding(&a->y, &w, a->time, first, min_int(p->blocks * W, a->channels - first));
    }
}

/* State updates of one thread in some 20 us. */
#define UPDATES_PER_THREAD (8192 * W)

INLINE int64_t scan_threads(const scan_args *a) {
    int64_t updates = a->directions * a->batch * a->time * a->channels * a->state;
    return worthwhile_threads(a->threads, updates, UPDATES_PER_THREAD);
}

static int scan_forward(const scan_args *a) {
    /* Wide groups share B and C and read long runs of memory; enough of them keep all threads busy to the end. */
    int64_t group = GROUP_FORWARD, threads = scan_threads(a), tasks = threads > 1 ? 2 * threads : 1;
    while (group > W && a->batch * ((a->channels + group - 1) / group) < tasks) group /= 2;
    scan_plan p = plan_scan(a, &a->y, group);
    scan_scratch s;
    return parallel_tasks(a->batch * p.groups, threads, scan_forward_scratch(&p, &s, NULL), scan_forward_task, &p);
}
