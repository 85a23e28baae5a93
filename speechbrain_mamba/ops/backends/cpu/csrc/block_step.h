/* One step of a residual block: normalization, Mamba layer and residual, then normalization, feed-forward network and
 * residual. One call for all of it, as a model makes dozens of them for a frame. */

/* One example normalized over its channels, of which `whole` fill vectors. */
INLINE void normalize_row(const norm_weights *n, const float *x, int64_t channels, int64_t whole, float *y) {
    row_norm norm = norm_of_row(n, (const char *)x, DTYPE_FLOAT32, channels, whole);
    for (int64_t c = 0; c < channels; c += W) {
        int64_t lanes = min_int(W, channels - c);
        v_store_lanes((char *)(y + c), DTYPE_FLOAT32, lanes, row_values((const char *)x, DTYPE_FLOAT32, &norm, c, lanes));
    }
}

/* All examples normalized into y; returns y, or x where nothing is to be done. */
static const float *normalize(const norm_weights *n, const float *x, int64_t batch, int64_t channels, float *y) {
    if (n->kind == NORM_NONE) return x;
    for (int64_t e = 0; e < batch; e++)
        normalize_row(n, x + e * channels, channels, channels / W * W, y + e * channels);
    return y;
}

static int multiply(const block_step_args *a, const linear_weights *weights, const float *x, int64_t activation,
                    const float *residual, float *y) {
    few_rows_args call = {a->batch, activation, a->threads, weights->inputs, *weights, x, residual, y};
    return few_rows(&call);
}

static int step_mixer(const block_step_args *a, const float *x, float *normed, float *xz, float *inner, float *y) {
    const block_weights *w = a->weights;
    int64_t channels = w->channels, status;
    status = multiply(a, &w->in_proj, normalize(&w->mixer_norm, x, a->batch, w->d_model, normed), ACTIVATION_NONE, NULL,
                      xz);
    if (status != STATUS_OK) return (int)status;
    layer_step_args step = {a->batch, channels, w->state, w->width, w->rank, a->threads,
                            {(char *)xz, DTYPE_FLOAT32, 2 * channels, 2 * channels},
                            {(char *)inner, DTYPE_FLOAT32, channels, channels},
                            w->packed, a->conv_before, a->conv_after, a->conv_dtype, a->state_before, a->state_after};
    status = layer_step(&step);
    if (status != STATUS_OK) return (int)status;
    return multiply(a, &w->out_proj, inner, ACTIVATION_NONE, w->adds_input ? x : NULL, y);
}

static int block_step(const block_step_args *a) {
    const block_weights *w = a->weights;
    int has_mixer = w->in_proj.weight != NULL, has_network = w->first.weight != NULL;
    int64_t wide = (has_mixer ? 3 * w->channels : 0) + (has_network ? w->first.outputs : 0);
    float *memory = malloc((size_t)(a->batch * (2 * w->d_model + wide) + 1) * sizeof(float));
    if (!memory) return STATUS_NO_MEMORY;
    float *normed = memory, *middle = normed + a->batch * w->d_model, *rest = middle + a->batch * w->d_model;
    const float *x = a->x;
    int status = STATUS_OK;
    if (has_mixer) {
        float *xz = rest, *inner = xz + a->batch * 2 * w->channels, *y = has_network ? middle : a->y;
        status = step_mixer(a, x, normed, xz, inner, y);
        rest = inner + a->batch * w->channels;
        x = y;
    }
    if (status == STATUS_OK && has_network) {
        const float *input = normalize(&w->feed_forward_norm, x, a->batch, w->d_model, normed);
        status = multiply(a, &w->first, input, w->activation, NULL, rest);
        if (status == STATUS_OK) status = multiply(a, &w->last, rest, ACTIVATION_NONE, x, a->y);
    }
    free(memory);
    return status;
}
