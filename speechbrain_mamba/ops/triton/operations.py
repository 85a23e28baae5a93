"""The operations of the Triton kernels; on CPU tensors too, which are all that Triton's interpreter has."""

from speechbrain_mamba.ops.operations import Operations

_operations = Operations("triton", ("CUDA", "CPU"))
call, register = _operations.call, _operations.register
register_gradient, forbid_gradient = _operations.register_gradient, _operations.forbid_gradient

__all__ = ["call", "forbid_gradient", "register", "register_gradient"]
