"""GPU kernels behind the operations, in Triton, which comes with PyTorch: there is nothing to build."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

if importlib.util.find_spec("triton") is not None:
    from speechbrain_mamba.ops.backends.triton.conv import (
        bidirectional_causal_conv1d,
        causal_conv1d,
        causal_conv1d_update,
    )
    from speechbrain_mamba.ops.backends.triton.inner import bidirectional_mamba_inner
    from speechbrain_mamba.ops.backends.triton.interpreter import INTERPRETED
    from speechbrain_mamba.ops.backends.triton.scan import (
        bidirectional_selective_scan,
        selective_scan,
        selective_state_update,
    )

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

LARGEST_STATE = 256
LARGEST_RANK = 256


def unavailable() -> str | None:
    """Why this backend cannot be used here, None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton, which comes with PyTorch for Linux, is not installed."
    if INTERPRETED:
        return None
    if not torch.cuda.is_available():
        return "it needs a CUDA GPU, and PyTorch sees none."
    if torch.cuda.get_device_capability() < (8, 0):
        return "it needs a GPU of compute capability 8.0 (Ampere) or newer."
    return None


def unsupported(op: str, tensor: Tensor, arguments: dict) -> str | None:
    """Why this backend cannot serve a call, None if it can."""
    device = "cpu" if INTERPRETED else "cuda"
    for name, t in {"its first input": tensor, **arguments}.items():
        if not isinstance(t, Tensor):
            continue
        if t.device.type != device and name != "lengths":
            return f"it needs {device} tensors, but {name} is on {t.device}."
        if t.is_floating_point() and t.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"it takes float32, bfloat16 and float16, but {name} is {t.dtype}."
    A, dt_proj_weight = arguments.get("A"), arguments.get("dt_proj_weight")
    if A is not None and A.shape[1] > LARGEST_STATE:
        return f"it takes up to {LARGEST_STATE} states per channel, but got {A.shape[1]}."
    if dt_proj_weight is not None and dt_proj_weight.shape[1] > LARGEST_RANK:
        return f"it takes steps of rank up to {LARGEST_RANK}, but got {dt_proj_weight.shape[1]}."
    return None
