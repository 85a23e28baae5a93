/* Between tensors in memory and tiles of float32 vectors in the cache.
 *
 * A tile is W channels wide and has one vector per frame, in the order of the scan. All that is irregular about the
 * inputs ends here: dtypes, strides, direction, and channel counts that W does not divide. Lanes past the last channel
 * are zero.
 */

static const int64_t dtype_bytes[] = {4, 2, 2, 1};

#if W == 4
INLINE vf v_from_half(vi h) {
    vi magnitude = h & 0x7fff, sign = (h & 0x8000) << 16;
    vi normal = (magnitude << 13) + (112 << 23);
    vi special = (magnitude << 13) | 0x7f800000;
    vf denormal = __builtin_convertvector(magnitude, vf) * 0x1p-24f;
    vf value = v_select(magnitude < 0x0400, denormal, (vf)normal);
    value = v_select(magnitude >= 0x7c00, (vf)special, value);
    return (vf)((vi)value | sign);
}

INLINE vi v_to_half(vf x) {
    vi bits = (vi)x & 0x7fffffff, sign = (vi)((vu)x >> 16) & 0x8000;
    vi normal = (bits - (112 << 23) + 0x0fff + ((bits >> 13) & 1)) >> 13;
    /* Adding 1/2 leaves the value in units of 2^-24, rounded, in the low bits. */
    vi denormal = (vi)((vf)bits + 0.5f) - 0x3f000000;
    vi half = (vi)v_select(bits < (113 << 23), (vf)denormal, (vf)normal);
    half = (vi)v_select(bits >= (143 << 23), (vf)((vi){0} + 0x7c00), (vf)half);
    half = (vi)v_select(bits > 0x7f800000, (vf)((vi){0} + 0x7e00), (vf)half);
    return half | sign;
}
#endif

INLINE vf v_load_as(const void *p, int64_t dtype) {
    if (dtype == DTYPE_FLOAT32) return v_load(p);
    vh raw;
    memcpy(&raw, p, sizeof raw);
    if (dtype == DTYPE_BFLOAT16) return (vf)(__builtin_convertvector(raw, vu) << 16);
#if W == 16
    return (vf)_mm512_cvtph_ps((__m256i)raw);
#elif W == 8
    return (vf)_mm256_cvtph_ps((__m128i)raw);
#else
    return v_from_half((vi)__builtin_convertvector(raw, vu));
#endif
}

INLINE void v_store_as(void *p, int64_t dtype, vf v) {
    if (dtype == DTYPE_FLOAT32) {
        v_store(p, v);
        return;
    }
    vh raw;
    if (dtype == DTYPE_BFLOAT16) {
        vu bits = (vu)v;
        vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        raw = __builtin_convertvector((vu)v_select(v != v, (vf)((vu){0} + 0x7fc0), (vf)rounded), vh);
    } else {
#if W == 16
        raw = (vh)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif W == 8
        raw = (vh)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
        raw = __builtin_convertvector((vu)v_to_half(v), vh);
#endif
    }
    memcpy(p, &raw, sizeof raw);
}

INLINE vf v_load_lanes(const char *p, int64_t dtype, int64_t lanes) {
    if (lanes >= W) return v_load_as(p, dtype);
    char buffer[4 * W] = {0};
    memcpy(buffer, p, (size_t)(lanes * dtype_bytes[dtype]));
    return v_load_as(buffer, dtype);
}

INLINE void v_store_lanes(char *p, int64_t dtype, int64_t lanes, vf v) {
    if (lanes >= W) {
        v_store_as(p, dtype, v);
        return;
    }
    char buffer[4 * W];
    v_store_as(buffer, dtype, v);
    memcpy(p, buffer, (size_t)(lanes * dtype_bytes[dtype]));
}

INLINE int64_t min_int(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* A thread's scratch memory as it is being cut into parts; with memory NULL, only how much they take. */
typedef struct {
    char *memory;
    size_t used;
} cutter;

INLINE vf *take(cutter *c, int64_t n) {
    vf *taken = c->memory ? (vf *)(c->memory + c->used) : NULL;
    c->used += (size_t)n * sizeof(vf);
    return taken;
}

/* One example as the scan walks over it: step s is frame first + s * sign. */
typedef struct {
    int64_t example, length, first, sign;
} walk;

INLINE walk make_walk(const int64_t *lengths, int64_t example, int64_t time, int64_t reverse) {
    int64_t length = lengths ? lengths[example] : time;
    /* The lengths of a compiled call have not been looked at before. */
    length = length < 0 ? 0 : min_int(length, time);
    return (walk){example, length, reverse ? length - 1 : 0, reverse ? -1 : 1};
}

INLINE char *address(const sequence *s, const walk *w, int64_t step, int64_t feature) {
    int64_t frame = w->first + w->sign * step;
    return s->data + (w->example * s->batch_stride + frame * s->time_stride + feature) * dtype_bytes[s->dtype];
}

/* Rows that will be needed next, fetched while the current ones are worked on: they lie a whole frame apart, which is
 * further than the processor looks ahead on its own. */
enum { AHEAD = 8 };
typedef struct {
    const char *row[AHEAD];
    int64_t stride[AHEAD];
    int count;
} prefetcher;

INLINE void prefetch_tile(prefetcher *f, const sequence *s, const walk *w, int64_t step, int64_t feature) {
    if (!s->data || step >= w->length || step < 0) return;
    f->row[f->count] = address(s, w, step, feature);
    f->stride[f->count++] = w->sign * s->time_stride * dtype_bytes[s->dtype];
}

INLINE void prefetch_row(const prefetcher *f, int64_t row) {
    for (int i = 0; i < f->count; i++) __builtin_prefetch(f->row[i] + row * f->stride[i]);
}

INLINE void load_rows(vf *restrict tile, int64_t pitch, const char *p, int64_t stride, int64_t rows, const int64_t dtype,
                      const int64_t lanes) {
    for (int64_t r = 0; r < rows; r++, p += stride) tile[r * pitch] = v_load_lanes(p, dtype, lanes);
}

INLINE void store_rows(const vf *restrict tile, int64_t pitch, char *p, int64_t stride, int64_t rows,
                       const int64_t dtype, const int64_t lanes) {
    for (int64_t r = 0; r < rows; r++, p += stride) v_store_lanes(p, dtype, lanes, tile[r * pitch]);
}

/* rows steps of `lanes` features into tile[0], tile[pitch], ... Whole vectors have a loop for each type. */
static void load_tile(vf *restrict tile, int64_t pitch, const sequence *s, const walk *w, int64_t step, int64_t rows,
                      int64_t feature, int64_t lanes) {
    const char *p = address(s, w, step, feature);
    int64_t stride = w->sign * s->time_stride * dtype_bytes[s->dtype];
    if (lanes < W) load_rows(tile, pitch, p, stride, rows, s->dtype, lanes);
    else if (s->dtype == DTYPE_FLOAT32) load_rows(tile, pitch, p, stride, rows, DTYPE_FLOAT32, W);
    else if (s->dtype == DTYPE_BFLOAT16) load_rows(tile, pitch, p, stride, rows, DTYPE_BFLOAT16, W);
    else load_rows(tile, pitch, p, stride, rows, DTYPE_FLOAT16, W);
}

static void store_tile(const vf *restrict tile, int64_t pitch, const sequence *s, const walk *w, int64_t step,
                       int64_t rows, int64_t feature, int64_t lanes) {
    char *p = address(s, w, step, feature);
    int64_t stride = w->sign * s->time_stride * dtype_bytes[s->dtype];
    if (lanes < W) store_rows(tile, pitch, p, stride, rows, s->dtype, lanes);
    else if (s->dtype == DTYPE_FLOAT32) store_rows(tile, pitch, p, stride, rows, DTYPE_FLOAT32, W);
    else if (s->dtype == DTYPE_BFLOAT16) store_rows(tile, pitch, p, stride, rows, DTYPE_BFLOAT16, W);
    else store_rows(tile, pitch, p, stride, rows, DTYPE_FLOAT16, W);
}

/* All features of rows steps, `pitch` vectors per step, as for B and C. */
static void load_features(vf *restrict tile, int64_t pitch, const sequence *s, const walk *w, int64_t step,
                          int64_t rows, int64_t features) {
    for (int64_t i = 0; i < pitch; i++) load_tile(tile + i, pitch, s, w, step, rows, i * W, features - i * W);
}

/* Zeros in the frames past the example's length. */
static void zero_padding(const sequence *s, const walk *w, int64_t time, int64_t feature, int64_t features) {
    int64_t bytes = dtype_bytes[s->dtype];
    for (int64_t t = w->length; t < time; t++)
        memset(s->data + (w->example * s->batch_stride + t * s->time_stride + feature) * bytes, 0,
               (size_t)(features * bytes));
}

/* Between (channels, n) floats in memory, where p points to the first of `lanes` channels, and n vectors. */
static void load_columns(vf *columns, const float *p, int64_t n, int64_t lanes) {
    for (int64_t i = 0; i < n; i++) {
        float lane[W] = {0};
        for (int64_t c = 0; c < lanes; c++) lane[c] = p[c * n + i];
        columns[i] = v_load(lane);
    }
}

static void store_columns(const vf *columns, float *p, int64_t n, int64_t lanes) {
    for (int64_t i = 0; i < n; i++) {
        float lane[W];
        v_store(lane, columns[i]);
        for (int64_t c = 0; c < lanes; c++) p[c * n + i] = lane[c];
    }
}
