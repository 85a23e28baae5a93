/* All kernels, for one instruction set. A file that includes this one defines W and KERNELS, the name of its table. */
#include <stdlib.h>

#include "api.h"
#include "threads.h"
/* order matters: each builds on the ones before */
#include "vec.h"
#include "vmath.h"
#include "tiles.h"
#include "scan_forward.h"
#include "scan_backward.h"
#include "scan_step.h"
#include "layer_step.h"
#include "row_norms.h"
#include "quantize.h"
#include "finish_rows.h"
#include "few_rows.h"
#include "block_step.h"
#include "conv.h"

const kernel_table KERNELS = {
    KERNELS_NAME, scan_forward, scan_backward, scan_step,     layer_step,    few_rows,
    block_step,   conv_forward, conv_backward, quantize_rows, finish_rows,   normalize_rows,
};
