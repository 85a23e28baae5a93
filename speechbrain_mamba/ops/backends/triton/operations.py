"""The operations of the Triton kernels; on CPU tensors too, which are all that Triton's interpreter has."""

from speechbrain_mamba.ops.torch_ops import Operations

OPERATIONS = Operations("triton", ("CUDA", "CPU"))
