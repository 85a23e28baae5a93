"""The operations of the native kernels."""

from speechbrain_mamba.ops.torch_ops import Operations

OPERATIONS = Operations("cpu", ("CPU",))
