"""Native CPU kernels behind the operations: plain C, several instruction sets, torch's own threads."""

from __future__ import annotations

from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.arguments import DTYPES
from speechbrain_mamba.ops.backends.cpu.conv import bidirectional_causal_conv1d, causal_conv1d, causal_conv1d_update
from speechbrain_mamba.ops.backends.cpu.inner import bidirectional_mamba_inner
from speechbrain_mamba.ops.backends.cpu.native import PATH, library
from speechbrain_mamba.ops.backends.cpu.scan import bidirectional_selective_scan, selective_scan, selective_state_update

__all__ = [
    "bidirectional_causal_conv1d",
    "bidirectional_mamba_inner",
    "bidirectional_selective_scan",
    "causal_conv1d",
    "causal_conv1d_update",
    "selective_scan",
    "selective_state_update",
    "unavailable",
    "unsupported",
]


def unavailable() -> str | None:
    """Why this backend cannot be used here, None if it can."""
    if not PATH.exists():
        return "the native library was not built; install the package again where there is a C compiler (gcc or clang)."
    try:
        library()
    except (OSError, ValueError) as error:
        return f"the native library cannot be used: {error}"
    return None


def unsupported(op: str, tensor: Tensor, arguments: dict) -> str | None:
    """Why this backend cannot serve a call, None if it can."""
    tensors = [tensor, *(a for a in arguments.values() if isinstance(a, Tensor))]
    if any(t.device.type != "cpu" for t in tensors):
        return f"it needs CPU tensors, but {op} got one on {next(t.device for t in tensors if t.device.type != 'cpu')}."
    for t in tensors:
        if t.is_floating_point() and t.dtype not in DTYPES:
            return f"it takes float32, bfloat16 and float16, but got {t.dtype}."
    return None
