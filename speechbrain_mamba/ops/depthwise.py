"""The wide depthwise convolution of Conformer's and ConMamba's convolution module."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.conv import causal_conv1d
from speechbrain_mamba.ops.registry import chosen_backend, is_available
from speechbrain_mamba.ops.rowwise import DTYPES
from speechbrain_mamba.utils._compat import is_transforming


def depthwise_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, before: int = 0, after: int = 0
) -> Tensor:
    """Convolve each channel with its own filter, between zeros.

    On a CPU this is :func:`~speechbrain_mamba.ops.causal_conv1d` of later frames, whose kernels take frames as they lie
    in memory and inputs of any length; elsewhere, and where a compiler or exporter looks on, torch's convolution.

    Arguments
    ---------
    x : Tensor
        Input (batch, time, channels).
    weight : Tensor
        Filters (channels, 1, width), as :class:`torch.nn.Conv1d` keeps them.
    bias : Tensor, optional
        Bias (channels,).
    before, after : int
        Zeros around the input, in frames, fewer than ``width`` each.

    Returns
    -------
    Tensor
        Output (batch, before + time + after - width + 1, channels); under autocast in its type, else in that of ``x``.

    Example
    -------
    >>> x, conv = torch.randn(2, 10, 8), torch.nn.Conv1d(8, 8, 5, padding=2, groups=8)
    >>> y = depthwise_conv1d(x, conv.weight, conv.bias, before=2, after=2)
    >>> torch.allclose(y, conv(x.transpose(1, 2)).transpose(1, 2), atol=1e-6)
    True
    """
    device, seen_before = x.device.type, weight.shape[-1] - 1 - before
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if not _kernels_serve(x, dtype):
        y = F.conv1d(F.pad(x.transpose(1, 2), (before, after)), weight, bias, groups=x.shape[2])
        return y.transpose(1, 2)
    later: Any = causal_conv1d(F.pad(x.to(dtype), (0, 0, 0, after)), weight[:, 0], bias)  # it returns no state
    return later.narrow(1, seen_before, later.shape[1] - seen_before)


def _kernels_serve(x: Tensor, dtype: torch.dtype) -> bool:
    seen = torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transforming()
    if seen or x.device.type != "cpu" or dtype not in DTYPES:
        return False
    return chosen_backend() in ("auto", "cpu") and is_available("cpu")


__all__ = ["depthwise_conv1d"]
