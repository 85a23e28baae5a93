"""Checks of arguments that several operations share: what was given, what is accepted, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
    """Check absolute lengths and bring them to ``device`` as int64.

    Their values are looked at only on the CPU, so that a GPU is not waited for.
    """
    if lengths is None:
        return None
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"{op}: lengths have dtype {lengths.dtype}, but must be integers: valid frames.")
    check_shape(op, "lengths", lengths, "(batch,)", (batch,))
    if lengths.device.type == "cpu" and not torch.compiler.is_compiling() and batch > 0:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > time:
            raise ValueError(f"{op}: lengths run from {low} to {high}, but must lie in 0 to {time}, the frames given.")
    return lengths.to(device=device, dtype=torch.long)


def check_pair(op: str, name: str, pair: Sequence[Tensor | None] | None) -> tuple[Tensor | None, Tensor | None]:
    """Check that an argument has one tensor for each of two directions, of the same shape and both or neither None."""
    if pair is None:
        return None, None
    if isinstance(pair, Tensor) or len(pair) != 2:
        raise ValueError(f"{op}: {name} must be a pair: a tensor for the forward direction and one for the reverse.")
    first, second = pair
    if (first is None) != (second is None):
        raise ValueError(f"{op}: {name} is given for one direction only, but must be given for both or neither.")
    if first is not None:
        check_shape(op, f"{name} of the reverse direction", second, "that of the forward direction", tuple(first.shape))
    return first, second
