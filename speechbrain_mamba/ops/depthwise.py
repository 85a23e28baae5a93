"""The wide depthwise convolution of Conformer's and ConMamba's convolution module."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.conv import causal_conv1d
from speechbrain_mamba.ops.registry import cpu_kernels_serve
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
    if not _kernels_serve(x):
        y = F.conv1d(F.pad(x.transpose(1, 2), (before, after)), weight, bias, groups=x.shape[2])
        return y.transpose(1, 2)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    later: Any = causal_conv1d(F.pad(x.to(dtype), (0, 0, 0, after)), weight[:, 0], bias)  # it returns no state
    early = weight.shape[-1] - 1 - before
    return later.narrow(1, early, later.shape[1] - early)


def _kernels_serve(x: Tensor) -> bool:
    seen = torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transforming()
    return not seen and x.device.type == "cpu" and x.dtype in DTYPES and cpu_kernels_serve()


__all__ = ["depthwise_conv1d"]
