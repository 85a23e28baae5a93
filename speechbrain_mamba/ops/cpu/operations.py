"""The operations of the native kernels."""

from speechbrain_mamba.ops.operations import Operations

_operations = Operations("cpu", ("CPU",))
call, register = _operations.call, _operations.register
register_gradient, forbid_gradient = _operations.register_gradient, _operations.forbid_gradient

__all__ = ["call", "forbid_gradient", "register", "register_gradient"]
