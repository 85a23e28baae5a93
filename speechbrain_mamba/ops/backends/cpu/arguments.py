"""Tensors as the kernels take them."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Codes of ``enum dtype`` in csrc/api.h."""

ABSENT = (0, 0, 0, 0)
"""A sequence that is not there."""


def readable(tensor: Tensor | None) -> Tensor | None:
    """A sequence whose last axis is contiguous: the tensor itself, views included, but for exotic ones."""
    if tensor is None or tensor.stride(-1) == 1 or tensor.shape[-1] <= 1:
        return tensor
    return tensor.contiguous()


def parameter(tensor: Tensor | None) -> Tensor | None:
    """A parameter or state: contiguous float32."""
    return None if tensor is None else tensor.to(torch.float32).contiguous()


def sequence(tensor: Tensor | None) -> tuple[int, int, int, int]:
    """Fields of the C struct ``sequence``, for (batch, time, features) or (batch, features)."""
    if tensor is None:
        return ABSENT
    stride = tensor.stride()
    return tensor.data_ptr(), DTYPES[tensor.dtype], stride[0], stride[1]


def pointer(tensor: Tensor | None) -> int:
    """Address of a contiguous tensor, 0 where there is none."""
    return 0 if tensor is None else tensor.data_ptr()


def gradient_memory(inputs: dict[str, Tensor], names: list[str], into: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Memory for the gradients of some inputs: that of ``into``, else contiguous new."""
    into = into or {}
    new = (name for name in names if name not in into)
    return into | {name: torch.empty_like(inputs[name], memory_format=torch.contiguous_format) for name in new}
