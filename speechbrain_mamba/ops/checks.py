"""Checks of arguments that several operations share: what was given, what is accepted, in one sentence."""

from __future__ import annotations

import os
from typing import TypeVar

import torch
from torch import Tensor

from speechbrain_mamba.ops.directions import Direction, Filters, ScanInputs, SsdInputs
from speechbrain_mamba.ops.lengths import lengths_on

DEBUG = os.environ.get("SPEECHBRAIN_MAMBA_DEBUG") == "1"
"""Whether lengths on a GPU are checked too."""

_Kind = TypeVar("_Kind", Direction, Filters, ScanInputs, SsdInputs)


def check_shape(op: str, name: str, tensor: Tensor | None, layout: str, shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless ``tensor`` is None or has ``shape``; ``layout`` names the shape's axes."""
    if tensor is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, but must be {layout} = {shape}.")


def check_dims(op: str, name: str, tensor: Tensor, layout: str) -> None:
    """Raise a ValueError unless ``tensor`` is a floating-point tensor with as many axes as ``layout`` names."""
    if tensor.dim() != layout.count(",") + 1 - layout.endswith(",)"):
        raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, but must be {layout}.")
    if not tensor.is_floating_point():
        raise TypeError(f"{op}: {name} has dtype {tensor.dtype}, but must be a floating-point type.")


def check_lengths(op: str, lengths: Tensor | None, batch: int, time: int, device: torch.device) -> Tensor | None:
    """Check absolute lengths and bring them to ``device`` as int64, without waiting for a GPU.

    Their values are looked at only if they come on the CPU, or if ``SPEECHBRAIN_MAMBA_DEBUG=1`` is set, which waits for
    the GPU in every call. Otherwise a kernel takes the nearest in range for one out of range.
    """
    if lengths is None:
        return None
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"{op}: lengths have dtype {lengths.dtype}, but must be integers: valid frames.")
    check_shape(op, "lengths", lengths, "(batch,)", (batch,))
    if (DEBUG or lengths.device.type == "cpu") and not torch.compiler.is_compiling() and batch > 0:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > time:
            raise ValueError(f"{op}: lengths run from {low} to {high}, but must lie in 0 to {time}, the frames given.")
    return lengths_on(lengths, device).to(torch.long)


def check_directions(op: str, kind: type[_Kind], forward: _Kind, reverse: _Kind) -> None:
    """Raise an error unless both directions are of a kind, and their tensors have the same shapes or are both None."""
    if not (isinstance(forward, kind) and isinstance(reverse, kind)):
        given = f"{type(forward).__name__} and {type(reverse).__name__}"
        raise TypeError(f"{op}: forward and reverse must be speechbrain_mamba.ops.{kind.__name__}, but are {given}.")
    for name, first, second in zip(kind._fields, forward, reverse):
        if (first is None) != (second is None):
            raise ValueError(f"{op}: {name} is given for one direction only, but must be given for both or neither.")
        if first is not None:
            other = f"{name} of the reverse direction"
            check_shape(op, other, second, "that of the forward direction", tuple(first.shape))
