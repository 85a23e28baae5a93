"""Tensors as the kernels take them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

ALIGNMENT = 16
"""Elements: Triton knows that strides which this divides keep frames aligned."""

_Tensors = TypeVar("_Tensors", bound=Any)


def frames(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sequences (batch, time, features) with contiguous features and equal strides: the given ones, or copies."""
    if len({t.stride()[:2] for t in tensors}) <= 1 and all(t.stride(-1) == 1 for t in tensors):
        return list(tensors)
    return [t.contiguous() for t in tensors]


def maps(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sequences (batch, time, features) of what all channels of a frame share: in float32, to which every thread would
    convert it, and with aligned frames."""
    given = frames([t.to(torch.float32) for t in tensors])
    if all(t.stride(1) % ALIGNMENT == 0 for t in given):
        return given
    return [t.contiguous() for t in given]


def strides(tensor: Tensor | None) -> tuple[int, int]:
    """Elements from one example to the next, and from one frame to the next."""
    return (0, 0) if tensor is None else (tensor.stride(0), tensor.stride(1))


@overload
def parameter(tensor: Tensor) -> Tensor: ...
@overload
def parameter(tensor: Tensor | None) -> Tensor | None: ...
def parameter(tensor: Tensor | None) -> Tensor | None:
    """A parameter or state: contiguous float32."""
    return None if tensor is None else tensor.to(torch.float32).contiguous()


def zeros_like(tensors: _Tensors) -> _Tensors:
    """A named tuple of zeros like those of another."""
    return type(tensors)(*(None if tensor is None else torch.zeros_like(tensor) for tensor in tensors))


def on_device(tensor: Tensor) -> AbstractContextManager:
    """A context in which kernels are launched on the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
