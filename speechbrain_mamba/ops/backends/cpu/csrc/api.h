/* What Python passes to the kernels, and what each instruction set offers.
 *
 * All structs consist of 8-byte fields only, so that Python writes them with one struct.pack and no padding rules.
 * Strides count elements. The last axis of a sequence is contiguous.
 */
#ifndef SBM_API_H
#define SBM_API_H

#include <stddef.h>
#include <stdint.h>

/* Raised with every change of a struct or function below: Python refuses a library of another one, as an editable
 * installation may have kept. */
#define SBM_ABI 10

enum dtype { DTYPE_FLOAT32 = 0, DTYPE_BFLOAT16 = 1, DTYPE_FLOAT16 = 2, DTYPE_INT8 = 3 }; /* the last of weights only */

/* A (batch, time, features) tensor; data is NULL where an optional one is absent. */
typedef struct {
    char *data;
    int64_t dtype, batch_stride, time_stride;
} sequence;

/* The tensors that belong to one direction of a scan. Parameters and states are contiguous float32. */
typedef struct {
    sequence u, delta, B, C;
    const float *delta_weight;  /* (channels, delta_rank) or NULL; where it is given, the steps before bias and softplus */
    int64_t delta_rank;         /* are its products with `delta`, which is then (batch, time, delta_rank) */
    const float *A;             /* (channels, state), or with heads (channels,) */
    const float *D;             /* (channels,) or NULL */
    const float *delta_bias;    /* (channels,) or NULL */
    const float *initial_state; /* (batch, channels, state) or NULL */
    float *last_state;          /* (batch, channels, state) or NULL */
    float *borders;             /* (batch, chunks, channels / BORDER_ALIGN, state, BORDER_ALIGN) or NULL */
    int64_t reverse;
} scan_direction;

/* One scan, or two that share their gate z and are averaged. `approximate`: by the short forms of vmath.h, and the first
 * of two outputs is rounded to the type of y before they are averaged. */
typedef struct {
    int64_t batch, time, channels, state, softplus, approximate, threads, directions;
    int64_t head_channels;    /* 0; or of Mamba-2, whose channels share steps by heads: `delta` is (batch, time, heads), */
                              /* and A is (channels,), one rate for all states of a channel */
    const float *step_limits; /* smallest and largest step, or NULL */
    const int64_t *lengths;   /* (batch,) or NULL */
    sequence z, y;
    scan_direction direction[2];
} scan_args;

/* Gradients of one direction. The arrays of partial sums have one slab per run of tasks (see scan_plan). */
typedef struct {
    sequence du, ddelta, dB, dC; /* ddelta is that of the steps, (batch, time, channels), in any case */
    const float *dlast_state; /* (batch, channels, state) or NULL */
    float *dinitial_state;    /* (batch, channels, state) or NULL */
    float *dA;                /* (channels, state) */
    float *dD;                /* (channels,) or NULL */
    float *ddelta_bias;       /* (channels,) or NULL */
} scan_direction_gradients;

typedef struct {
    scan_args forward; /* y is not used */
    sequence dy, dz;
    scan_direction_gradients gradients[2];
} scan_backward_args;

/* One filter bank over x, or two that run in opposite directions. */
typedef struct {
    sequence y;                 /* output, or gradient of the output in the backward pass */
    const float *weight;        /* (channels, width) */
    const float *bias;          /* (channels,) or NULL */
    const float *initial_state; /* (batch, channels, width - 1) or NULL */
    float *final_state;         /* (batch, channels, width - 1) or NULL */
    int64_t reverse;
} conv_direction;

typedef struct {
    int64_t batch, time, channels, width, silu, approximate, threads, directions;
    const int64_t *lengths; /* (batch,) or NULL */
    sequence x;
    conv_direction direction[2];
} conv_args;

typedef struct {
    const float *dfinal_state; /* (batch, channels, width - 1) or NULL */
    float *dinitial_state;     /* (batch, channels, width - 1) or NULL */
    float *dweight;            /* (channels, width) */
    float *dbias;              /* (channels,) or NULL */
} conv_direction_gradients;

typedef struct {
    conv_args forward; /* y holds the outputs' gradients */
    sequence dx;
    conv_direction_gradients gradients[2];
} conv_backward_args;

/* One step of a scan: sequences are (batch, features), their time_stride is not used. */
typedef struct {
    int64_t batch, channels, state, softplus, threads;
    sequence u, delta, B, C, z, y;
    const float *A, *D, *delta_bias;
    const float *state_before; /* (batch, channels, state) */
    float *state_after;        /* (batch, channels, state) */
} scan_step_args;

/* The last in the short form of vmath.h. */
enum activation { ACTIVATION_NONE = 0, ACTIVATION_RELU = 1, ACTIVATION_GELU = 2, ACTIVATION_GELU_SHORT = 3 };

/* Normalization over the channels; NORM_NONE leaves them as they are. */
enum norm { NORM_NONE = 0, NORM_RMS = 1, NORM_LAYER = 2 };
typedef struct {
    int64_t kind;
    double epsilon;
    const float *weight, *bias; /* (channels,) or NULL */
    int64_t activation;         /* what the normalized values go through */
} norm_weights;

/* Rows of floats, normalized, to rows of another type or the same. */
typedef struct {
    int64_t rows, features, threads;
    const char *x; /* (rows, features) */
    int64_t from, row_stride;
    norm_weights norm;
    char *y; /* (rows, features), contiguous */
    int64_t to;
} normalize_args;

/* Rows of floats to integers of 8 bits. */
typedef struct {
    int64_t rows, features, threads;
    const char *x; /* (rows, features) */
    int64_t dtype, row_stride;
    norm_weights norm; /* what each row goes through first */
    uint8_t *q;    /* (rows, features): the row in units of its scale, plus 128 */
    float *scales; /* (rows,) */
} quantize_args;

/* Products of rows, which lack their scale, their bias and an activation. */
typedef struct {
    int64_t rows, features, threads;
    const char *x; /* (rows, features) */
    int64_t from;
    const float *scales; /* (rows,) or NULL */
    const float *bias;   /* (features,) or NULL */
    char *y;             /* (rows, features): x * scale + bias; may be x if the types are the same */
    int64_t to;
    int64_t activation; /* what y goes through last */
} finish_args;

/* One step of a Mamba layer between its projections in and out. States are contiguous, that of the scan float32. */
typedef struct {
    int64_t batch, channels, state, width, rank, threads;
    sequence xz, y; /* (batch, 2 * channels): input of the convolution, then gate; (batch, channels) */
    /* The parameters as contiguous float32, channels and states padded with zeros to multiples of PACK_ALIGN: the
     * filters by frame and their bias, (width + 1, channels); skip weight and bias of the step, (2, channels); the
     * projection to factor, B and C, (rank + 2 * state, channels); the factor's, (channels / PACK_ALIGN, rank,
     * PACK_ALIGN); A times log2(e), (channels, state). */
    const float *packed;
    const char *conv_before; /* (batch, channels, width - 1) */
    char *conv_after;
    int64_t conv_dtype;
    const float *state_before; /* (batch, channels, state) */
    float *state_after;
} layer_step_args;

/* The weights of a linear layer, contiguous, of any dtype. Integers of 8 bits count units of their output's scale. */
typedef struct {
    int64_t outputs, inputs, dtype;
    const char *weight;  /* (outputs, inputs) or NULL where there is no layer */
    const float *scales; /* of integers: (outputs,) */
    const int32_t *sums; /* of integers: the sum of each row, (outputs,) */
    const float *bias;   /* (outputs,) or NULL */
} linear_weights;

/* A linear layer of a few examples; inputs and outputs are float32, and contiguous but for x. */
typedef struct {
    int64_t batch, activation, threads, x_pitch;
    linear_weights weights;
    const float *x;        /* (batch, inputs), x_pitch from one example to the next */
    const float *residual; /* (batch, outputs) or NULL: added after the activation */
    float *y;              /* (batch, outputs) */
} few_rows_args;

/* The parameters of a residual block, the same in all of its steps: a Mamba layer and a feed-forward network. Either may
 * be absent, which its first linear layer shows. */
typedef struct {
    int64_t d_model, channels, state, width, rank;
    norm_weights mixer_norm;
    linear_weights in_proj, out_proj;
    const float *packed; /* as in layer_step_args */
    int64_t adds_input;  /* whether the input of the Mamba layer is added to its output */
    norm_weights feed_forward_norm;
    linear_weights first, last;
    int64_t activation;
} block_weights;

/* One step of a block; everything is contiguous, and float32 but for the states of the convolution. */
typedef struct {
    const block_weights *weights;
    int64_t batch, threads;
    const float *x; /* (batch, d_model) */
    float *y;       /* (batch, d_model) */
    const char *conv_before;
    char *conv_after;
    int64_t conv_dtype;
    const float *state_before;
    float *state_after;
} block_step_args;

/* Frames between two saved states, and the unit of work inside the kernels. Short enough for the states of a chunk to
 * stay in the L1 cache while the backward pass recomputes them, long enough for the saved ones to weigh little:
 * state / CHUNK values per input value. */
#define CHUNK 32
#define BORDER_ALIGN 16
#define PACK_ALIGN 16

enum status { STATUS_OK = 0, STATUS_NO_MEMORY = 1 };

typedef struct {
    const char *name;
    int (*scan_forward)(const scan_args *);
    int (*scan_backward)(const scan_backward_args *);
    int (*scan_step)(const scan_step_args *);
    int (*layer_step)(const layer_step_args *);
    int (*few_rows)(const few_rows_args *);
    int (*block_step)(const block_step_args *);
    int (*conv_forward)(const conv_args *);
    int (*conv_backward)(const conv_backward_args *);
    int (*quantize_rows)(const quantize_args *);
    int (*finish_rows)(const finish_args *);
    int (*normalize_rows)(const normalize_args *);
} kernel_table;

extern const kernel_table kernels_portable;
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SBM_X86 1
extern const kernel_table kernels_avx2, kernels_avx512;
#endif

#endif
