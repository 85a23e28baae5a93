"""Tensors as the kernels take them."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

ALIGNMENT = 16
"""Elements: strides that it divides are known to Triton to keep frames aligned."""


def frames(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Sequences (batch, time, features) with contiguous features and the same strides: themselves, where they have."""
    given = [t for t in tensors if t is not None]
    if len({t.stride()[:2] for t in given}) <= 1 and all(t.stride(-1) == 1 for t in given):
        return tensors
    return tuple(None if t is None else t.contiguous() for t in tensors)


def maps(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Sequences (batch, time, features) of what a frame has for all channels: float32, which every thread would turn it
    into, and frames that begin where wide words do."""
    given = frames(*(None if t is None else t.to(torch.float32) for t in tensors))
    if all(t is None or t.stride(1) % ALIGNMENT == 0 for t in given):
        return given
    return tuple(None if t is None else t.contiguous() for t in given)


def strides(tensor: Tensor | None) -> tuple[int, int]:
    """Elements from one example to the next, and from one frame to the next."""
    return (0, 0) if tensor is None else tensor.stride()[:2]


def parameter(tensor: Tensor | None) -> Tensor | None:
    """A parameter or state: contiguous float32."""
    return None if tensor is None else tensor.to(torch.float32).contiguous()


def on_device(tensor: Tensor):
    """A context in which kernels are launched on the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
