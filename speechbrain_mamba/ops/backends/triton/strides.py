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


def layout(tensor: Tensor | None) -> tuple[int, int]:
    """Frames from one example to the next, and elements from one frame to the next; (0, 0) for None.

    A negative number of frames says that the tensor does not lie like that.
    """
    if tensor is None:
        return 0, 0
    batch, time, _ = tensor.shape
    example, frame, feature = tensor.stride()
    if feature != 1 and tensor.shape[2] > 1:
        return -1, 0
    if time == 1:
        return 1, example
    if batch == 1:
        return time, frame
    return (example // frame if frame > 0 and example % frame == 0 else -1), frame


def frames(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sequences (batch, time, features) that lie alike, frame by frame: the given ones, or copies."""
    layouts = {layout(t) for t in tensors}
    if len(layouts) == 1 and layouts.pop()[0] >= 0:
        return list(tensors)
    return [t.contiguous() for t in tensors]


def maps(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sequences (batch, time, features) of what all channels of a frame share: in float32, to which every thread would
    convert it, and with aligned frames."""
    given = frames([t.to(torch.float32) for t in tensors])
    if all(layout(t)[1] % ALIGNMENT == 0 for t in given):
        return given
    return [t.contiguous() for t in given]


def pair(tensor: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """New memory (2, *shape), of which the second half is aligned too."""
    size, strides = 1, []
    for n in reversed(shape):
        strides.append(size)
        size *= n
    strides.append(-(-size // 64) * 64)
    return tensor.new_empty_strided((2, *shape), strides[::-1], dtype=dtype or tensor.dtype)


@overload
def parameter(tensor: Tensor) -> Tensor: ...
@overload
def parameter(tensor: Tensor | None) -> Tensor | None: ...
def parameter(tensor: Tensor | None) -> Tensor | None:
    """A parameter or state: contiguous float32."""
    if tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous()):
        return tensor  # most are, and asking takes less time than two operations that do nothing
    return tensor.to(torch.float32).contiguous()


def zeros_like(tensors: _Tensors) -> _Tensors:
    """A named tuple of zeros like those of another."""
    return type(tensors)(*(None if tensor is None else torch.zeros_like(tensor) for tensor in tensors))


def on_device(tensor: Tensor) -> AbstractContextManager:
    """A context in which kernels are launched on the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
