"""The operations of the native kernels."""

from speechbrain_mamba.ops.operations import Operations

OPERATIONS = Operations("cpu", ("CPU",))
