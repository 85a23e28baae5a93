/* The depthwise causal convolution, forward and backward.
 *
 * Nothing is carried over time, so a task is a piece of an example's time with all its channels: whole rows, as they
 * lie in memory. A piece needs width - 1 inputs before it and, going backward, as many gradients after it; both are
 * loaded or computed again by their neighbors. Parameter gradients go to partial sums per run of pieces, added in a
 * fixed order.
 */

enum { PIECE = 64, PIECE_RUNS = 32, SIDE_BY_SIDE = 8 };

typedef struct {
    const conv_args *args;
    const conv_backward_args *backward;
    int64_t pieces; /* per example */
    int64_t items;  /* pieces of all examples and, backward, runs of them */
    int64_t runs;
    float *sums; /* (direction, run, channels, width + 1): dweight, dbias */
} conv_plan;

/* Input rows `from` to `to` - 1 in the scan's order; before the first stands the initial state, or zeros. */
static void load_inputs(vf *x, const conv_args *a, const conv_direction *d, const walk *w, int64_t from, int64_t to,
                        int64_t c, int64_t lanes) {
    int64_t kept = a->width - 1, start = from;
    for (; start < to && start < 0; start++) {
        float lane[W] = {0};
        for (int64_t i = 0; d->initial_state && i < lanes; i++)
            lane[i] = d->initial_state[(w->example * a->channels + c + i) * kept + kept + start];
        x[start - from] = v_load(lane);
    }
    if (start < to) load_tile(x + (start - from), 1, &a->x, w, start, to - start, c, lanes);
}

/* y[i] = bias + sum over k of weight[k] x[i + k], `side` rows side by side, as many as there are: a sum waits for its own
 * last product. Returns the next row. */
INLINE int64_t filter_rows(vf *y, const vf *x, const vf *weight, vf bias, int64_t width, int64_t i, int64_t rows,
                           const int side) {
    for (; i + side <= rows; i += side) {
        vf sum[SIDE_BY_SIDE];
        for (int j = 0; j < side; j++) sum[j] = bias;
        for (int64_t k = 0; k < width; k++)
            for (int j = 0; j < side; j++) sum[j] += weight[k] * x[i + k + j];
        for (int j = 0; j < side; j++) y[i + j] = sum[j];
    }
    return i;
}

/* All rows; the width is a constant where it is the common one. */
INLINE void filter(vf *y, const vf *x, const vf *weight, vf bias, int64_t width, int64_t rows) {
    int64_t i = filter_rows(y, x, weight, bias, width, 0, rows, SIDE_BY_SIDE);
    filter_rows(y, x, weight, bias, width, i, rows, 1);
}

static void filter_any(vf *y, const vf *x, const vf *weight, vf bias, int64_t width, int64_t rows) {
    if (width == 4)
        filter(y, x, weight, bias, 4, rows);
    else
        filter(y, x, weight, bias, width, rows);
}

/* sums[k] += sum over i of g[i] x[i + k], `side` taps side by side, as many as there are; returns the next one. */
INLINE int64_t add_taps(vf *sums, const vf *g, const vf *x, int64_t k, int64_t width, int64_t rows, const int side) {
    for (; k + side <= width; k += side) {
        vf sum[SIDE_BY_SIDE];
        for (int j = 0; j < side; j++) sum[j] = sums[k + j];
        for (int64_t i = 0; i < rows; i++)
            for (int j = 0; j < side; j++) sum[j] += g[i] * x[i + k + j];
        for (int j = 0; j < side; j++) sums[k + j] = sum[j];
    }
    return k;
}

static void add_all_taps(vf *sums, const vf *g, const vf *x, int64_t width, int64_t rows) {
    int64_t k = add_taps(sums, g, x, 0, width, rows, SIDE_BY_SIDE);
    k = add_taps(sums, g, x, k, width, rows, 4);
    add_taps(sums, g, x, k, width, rows, 1);
}

/* The last width - 1 inputs of an example, and in the backward pass what their gradients add to the inputs'. */
static void store_final_state(const conv_args *a, const conv_direction *d, const walk *w) {
    int64_t kept = a->width - 1;
    for (int64_t i = 0; i < kept; i++) {
        int64_t step = w->length - kept + i;
        for (int64_t c = 0; c < a->channels; c++) {
            float *state = d->final_state + (w->example * a->channels + c) * kept;
            if (step >= 0)
                state[i] = v_load_lanes(address(&a->x, w, step, c), a->x.dtype, 1)[0];
            else
                state[i] = d->initial_state
                               ? d->initial_state[(w->example * a->channels + c) * kept + kept + step]
                               : 0.0f;
        }
    }
}

/* A piece of an example's frames as steps of a direction; no rows where it lies in the padding. */
typedef struct {
    int64_t from, rows;
} steps;

INLINE steps piece_steps(const walk *w, int64_t piece) {
    int64_t frame = piece * PIECE, rows = min_int(PIECE, w->length - frame);
    if (rows <= 0) return (steps){0, 0};
    return (steps){w->sign > 0 ? frame : w->length - frame - rows, rows};
}

static void conv_forward_task(const void *context, int64_t task, char *memory) {
    const conv_plan *p = context;
    const conv_args *a = p->args;
    int64_t piece = task % p->pieces, kept = a->width - 1;
    cutter k = {memory, 0};
    vf *x = take(&k, PIECE + kept), *y = take(&k, PIECE), *weight = take(&k, a->width);
    for (int64_t index = 0; index < a->directions; index++) {
        const conv_direction *d = &a->direction[index];
        walk w = make_walk(a->lengths, task / p->pieces, a->time, d->reverse);
        steps s = piece_steps(&w, piece);
        if (piece == 0 && d->final_state) store_final_state(a, d, &w);
        if (piece == 0) zero_padding(&d->y, &w, a->time, 0, a->channels);
        for (int64_t c = 0; s.rows > 0 && c < a->channels; c += W) {
            int64_t lanes = min_int(W, a->channels - c);
            load_columns(weight, d->weight + c * a->width, a->width, lanes);
            load_inputs(x, a, d, &w, s.from - kept, s.from + s.rows, c, lanes);
            filter_any(y, x, weight, load_channel(d->bias, c, lanes), a->width, s.rows);
            if (a->silu) silu_tile(y, s.rows, a->approximate);
            store_tile(y, 1, &d->y, &w, s.from, s.rows, c, lanes);
        }
    }
}

INLINE int64_t conv_threads(const conv_args *a) {
    return worthwhile_threads(a->threads, a->directions * a->batch * a->time * a->channels, 1024 * W);
}

static int conv_forward(const conv_args *a) {
    conv_plan p = {.args = a, .pieces = (a->time + PIECE - 1) / PIECE};
    if (p.pieces == 0) p.pieces = 1; /* for the final state */
    return parallel_tasks(a->batch * p.pieces, conv_threads(a), (size_t)(2 * (PIECE + a->width)) * sizeof(vf),
                          conv_forward_task, &p);
}

/* Tiles of a piece: inputs from width - 1 steps before it, gradients to width - 1 steps after it. */
typedef struct {
    vf *x, *y, *g, *dx, *total, *weight, *mirrored;
} conv_scratch;

static size_t conv_backward_scratch(const conv_args *a, conv_scratch *s, char *memory) {
    int64_t kept = a->width - 1;
    cutter k = {memory, 0};
    s->x = take(&k, PIECE + 2 * kept);
    s->y = take(&k, PIECE + kept);
    s->g = take(&k, PIECE + kept);
    s->dx = take(&k, PIECE);
    s->total = take(&k, PIECE);
    s->weight = take(&k, a->width);
    s->mirrored = take(&k, a->width);
    return k.used;
}

/* Inputs of a piece and the gradients before the activation, which are zero from the example's end on. */
static void load_piece(const conv_args *a, const conv_direction *d, const walk *w, steps piece, int64_t c,
                       int64_t lanes, const conv_scratch *s) {
    int64_t kept = a->width - 1, rows = piece.rows + kept, valid = min_int(rows, w->length - piece.from);
    load_columns(s->weight, d->weight + c * a->width, a->width, lanes);
    for (int64_t k = 0; k < a->width; k++) s->mirrored[k] = s->weight[kept - k];
    load_inputs(s->x, a, d, w, piece.from - kept, piece.from + valid, c, lanes);
    if (valid > 0) load_tile(s->g, 1, &d->y, w, piece.from, valid, c, lanes);
    for (int64_t i = valid; i < rows; i++) s->g[i] = v_zero();
    if (!a->silu) return;
    filter_any(s->y, s->x, s->weight, load_channel(d->bias, c, lanes), a->width, valid);
    for (int64_t i = 0; i < valid; i++) {
        vf sigmoid = v_sigmoid(s->y[i]);
        s->g[i] *= sigmoid * (1.0f + s->y[i] * (1.0f - sigmoid));
    }
}

/* The final state's gradient of the input at a step, which may lie before the first. */
static vf final_gradient(const conv_args *a, const float *dfinal, const walk *w, int64_t step, int64_t c,
                         int64_t lanes) {
    int64_t kept = a->width - 1, i = step - (w->length - kept);
    float lane[W] = {0};
    for (int64_t j = 0; dfinal && i >= 0 && i < kept && j < lanes; j++)
        lane[j] = dfinal[(w->example * a->channels + c + j) * kept + i];
    return v_load(lane);
}

/* The initial state's gradient, in the piece with the first step. */
static void store_initial_gradient(const conv_args *a, const conv_direction_gradients *g, const walk *w, int64_t c,
                                   int64_t lanes, const conv_scratch *s) {
    int64_t kept = a->width - 1;
    for (int64_t i = 0; i < kept; i++) {
        vf sum = final_gradient(a, g->dfinal_state, w, i - kept, c, lanes);
        for (int64_t k = 0; k <= i; k++) sum += s->weight[k] * s->g[i - k];
        for (int64_t j = 0; j < lanes; j++) g->dinitial_state[(w->example * a->channels + c + j) * kept + i] = sum[j];
    }
}

/* One direction of a piece and block: adds to the inputs' gradient (in frames) and to the parameters'. */
static void conv_back_piece(const conv_plan *p, int64_t index, int64_t example, int64_t piece, int64_t c, vf *sums,
                            const conv_scratch *s) {
    const conv_args *a = p->args;
    const conv_direction_gradients *g = &p->backward->gradients[index];
    int64_t kept = a->width - 1, lanes = min_int(W, a->channels - c);
    walk w = make_walk(a->lengths, example, a->time, a->direction[index].reverse);
    steps at = piece_steps(&w, piece);
    int first = at.rows > 0 ? at.from == 0 : w.length == 0 && piece == 0;
    if (at.rows == 0 && !first) return;
    load_piece(a, &a->direction[index], &w, at, c, lanes, s);
    if (first && g->dinitial_state) store_initial_gradient(a, g, &w, c, lanes, s);
    filter_any(s->dx, s->g, s->mirrored, v_zero(), a->width, at.rows);
    for (int64_t i = w.length - kept - at.from < 0 ? 0 : w.length - kept - at.from; i < at.rows && g->dfinal_state; i++)
        s->dx[i] += final_gradient(a, g->dfinal_state, &w, at.from + i, c, lanes);
    for (int64_t i = 0; i < at.rows; i++) s->total[w.sign > 0 ? i : at.rows - 1 - i] += s->dx[i];
    add_all_taps(sums, s->g, s->x, a->width, at.rows);
    for (int64_t i = 0; i < at.rows; i++) sums[a->width] += s->g[i];
}

INLINE vf *conv_sums(const conv_plan *p, int64_t index, int64_t run, int64_t block) {
    int64_t blocks = (p->args->channels + W - 1) / W;
    return (vf *)p->sums + ((index * p->runs + run) * blocks + block) * (p->args->width + 1);
}

static void conv_backward_task(const void *context, int64_t run, char *memory) {
    const conv_plan *p = context;
    const conv_args *a = p->args;
    conv_scratch s;
    conv_backward_scratch(a, &s, memory);
    for (int64_t item = run * p->items / p->runs; item < (run + 1) * p->items / p->runs; item++) {
        int64_t example = item / p->pieces, piece = item % p->pieces;
        walk w = make_walk(a->lengths, example, a->time, 0);
        int64_t rows = piece_steps(&w, piece).rows;
        if (piece == 0) zero_padding(&p->backward->dx, &w, a->time, 0, a->channels);
        for (int64_t c = 0; c < a->channels; c += W) {
            for (int64_t i = 0; i < rows; i++) s.total[i] = v_zero();
            for (int64_t index = 0; index < a->directions; index++)
                conv_back_piece(p, index, example, piece, c, conv_sums(p, index, run, c / W), &s);
            if (rows > 0)
                store_tile(s.total, 1, &p->backward->dx, &w, piece * PIECE, rows, c, min_int(W, a->channels - c));
        }
    }
}

static void reduce_filters(const conv_plan *p, int64_t index, char *memory) {
    const conv_args *a = p->args;
    const conv_direction_gradients *g = &p->backward->gradients[index];
    vf *total = (vf *)memory;
    for (int64_t c = 0; c < a->channels; c += W) {
        int64_t lanes = min_int(W, a->channels - c);
        for (int64_t k = 0; k <= a->width; k++) {
            total[k] = v_zero();
            for (int64_t run = 0; run < p->runs; run++) total[k] += conv_sums(p, index, run, c / W)[k];
        }
        store_columns(total, g->dweight + c * a->width, a->width, lanes);
        if (g->dbias) store_columns(total + a->width, g->dbias + c, 1, lanes);
    }
}

static int conv_backward(const conv_backward_args *args) {
    const conv_args *a = &args->forward;
    conv_plan p = {.args = a, .backward = args, .pieces = (a->time + PIECE - 1) / PIECE};
    if (p.pieces == 0) p.pieces = 1;
    p.items = a->batch * p.pieces;
    p.runs = min_int(p.items, PIECE_RUNS);
    int64_t vectors = a->directions * p.runs * ((a->channels + W - 1) / W) * (a->width + 1);
    void *memory = NULL;
    if (posix_memalign(&memory, 64, (size_t)(vectors + a->width + 1) * sizeof(vf)) != 0) return STATUS_NO_MEMORY;
    memset(memory, 0, (size_t)vectors * sizeof(vf));
    p.sums = memory;
    conv_scratch s;
    int status = parallel_tasks(p.runs, conv_threads(a), conv_backward_scratch(a, &s, NULL), conv_backward_task, &p);
    for (int64_t index = 0; index < a->directions; index++)
        reduce_filters(&p, index, (char *)((vf *)memory + vectors));
    free(memory);
    return status;
}
