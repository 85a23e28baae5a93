"""GPU kernels behind the operations, in Triton, which comes with PyTorch.

They are compiled when they first run, for which Triton needs a C compiler and Python's headers.
"""

from __future__ import annotations

import importlib.util

import torch

from speechbrain_mamba.ops.kernel_backend import KernelBackend, Kernels
from speechbrain_mamba.ops.registry import Call
from speechbrain_mamba.utils.toolchain import missing_tools

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_STATE = 256
LARGEST_RANK = 256
INTERPRETED = False
"""Whether the kernels run in Triton's interpreter, on CPU tensors, as in tests without a GPU."""

_problem: str | None = None
"""Why the kernels cannot be used on any GPU."""

if importlib.util.find_spec("triton") is None:
    _problem = "the package triton, which comes with PyTorch for Linux, is not installed."
else:
    try:
        from speechbrain_mamba.ops.backends.triton.backward_launch import scan_backward
        from speechbrain_mamba.ops.backends.triton.conv_launch import conv_backward, conv_forward
        from speechbrain_mamba.ops.backends.triton.first_use import listen
        from speechbrain_mamba.ops.backends.triton.layer_launch import layer_backward, layer_forward, layer_kept
        from speechbrain_mamba.ops.backends.triton.scan_launch import scan_forward, scan_kept
        from speechbrain_mamba.ops.backends.triton.ssd_launch import (
            ssd_backward,
            ssd_forward,
            ssd_step,
            ssd_unsupported,
        )
        from speechbrain_mamba.utils._compat import triton_interprets

        INTERPRETED = triton_interprets()
        listen()
    except Exception as error:  # of another version of Triton; the other backends must still work
        _problem = f"the installed triton does not fit, 3.4 of PyTorch 2.8 or newer is needed: {error}."
    else:
        _kernels = Kernels(
            scan_forward, scan_backward, scan_kept, conv_forward, conv_backward, layer_forward, layer_backward,
            layer_kept, ssd_forward=ssd_forward, ssd_backward=ssd_backward, ssd_step=ssd_step, selective=True,
        )  # fmt: skip
        _backend = KernelBackend("triton", ("CUDA", "CPU"), _kernels)  # the interpreter takes CPU tensors only
        selective_scan = _backend.selective_scan
        selective_state_update = _backend.selective_state_update
        ssd = _backend.ssd
        bidirectional_ssd = _backend.bidirectional_ssd
        ssd_update = _backend.ssd_update
        bidirectional_selective_scan = _backend.bidirectional_selective_scan
        causal_conv1d = _backend.causal_conv1d
        causal_conv1d_update = _backend.causal_conv1d_update
        bidirectional_causal_conv1d = _backend.bidirectional_causal_conv1d
        bidirectional_mamba_inner = _backend.bidirectional_mamba_inner


def unavailable() -> str | None:
    """Why this backend cannot be used here, None if it can."""
    if _problem or INTERPRETED:
        return _problem
    if not torch.cuda.is_available():
        return "it needs a CUDA GPU, and PyTorch sees none."
    if torch.cuda.get_device_capability() < (8, 0):
        return "it needs a GPU of compute capability 8.0 (Ampere) or newer."
    return missing_tools()


def unsupported(call: Call) -> str | None:
    """Why this backend cannot serve a call, None if it can."""
    if reason := call.wrong_tensor("cpu" if INTERPRETED else "cuda", DTYPES):
        return reason
    if call.states > LARGEST_STATE:
        return f"it takes up to {LARGEST_STATE} states per channel, but got {call.states}."
    if call.rank > LARGEST_RANK:
        return f"it takes steps of rank up to {LARGEST_RANK}, but got {call.rank}."
    return ssd_unsupported(call.head, call.states) if call.head else None
