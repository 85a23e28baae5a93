/* What Python calls: the choice of the instruction set, and the kernels through it. */
#include <string.h>

#include "api.h"

int sbm_abi(void) { return SBM_ABI; }
int sbm_chunk(void) { return CHUNK; }
int sbm_border_align(void) { return BORDER_ALIGN; }

static const kernel_table *chosen = &kernels_portable;

static int runs_here(const kernel_table *kernels) {
#ifdef SBM_X86
    __builtin_cpu_init();
    if (kernels == &kernels_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("fma");
    if (kernels == &kernels_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return kernels == &kernels_portable;
}

/* Every instruction set that was compiled in, best first. */
static const kernel_table *const compiled[] = {
#ifdef SBM_X86
    &kernels_avx512, &kernels_avx2,
#endif
    &kernels_portable,
};
enum { COMPILED = sizeof compiled / sizeof compiled[0] };

/* Name of the i-th instruction set that this machine can run, best first; NULL past the last. */
const char *sbm_instruction_set(int i) {
    for (int k = 0; k < COMPILED; k++)
        if (runs_here(compiled[k]) && i-- == 0) return compiled[k]->name;
    return NULL;
}

/* Use an instruction set by name; returns whether this machine can run it. */
int sbm_choose(const char *name) {
    for (int k = 0; k < COMPILED; k++)
        if (runs_here(compiled[k]) && strcmp(compiled[k]->name, name) == 0) {
            chosen = compiled[k];
            return 1;
        }
    return 0;
}

int sbm_scan_forward(const scan_args *args) { return chosen->scan_forward(args); }
int sbm_scan_backward(const scan_backward_args *args) { return chosen->scan_backward(args); }
int sbm_scan_step(const scan_step_args *args) { return chosen->scan_step(args); }
int sbm_layer_step(const layer_step_args *args) { return chosen->layer_step(args); }
int sbm_few_rows(const few_rows_args *args) { return chosen->few_rows(args); }
int sbm_block_step(const block_step_args *args) { return chosen->block_step(args); }
int sbm_conv_forward(const conv_args *args) { return chosen->conv_forward(args); }
int sbm_conv_backward(const conv_backward_args *args) { return chosen->conv_backward(args); }
int sbm_quantize_rows(const quantize_args *args) { return chosen->quantize_rows(args); }
int sbm_finish_rows(const finish_args *args) { return chosen->finish_rows(args); }
int sbm_normalize_rows(const normalize_args *args) { return chosen->normalize_rows(args); }
