"""Valid frames of padded batches.

``lengths`` are absolute numbers of valid frames, one per example. Everything that mixes frames over time takes them,
and selects (never multiplies) by them, so that no value in the padding, not even NaN, reaches an output or a gradient.

They belong on the device of the frames. A model brings them there once, at its door; the CPU does not wait for it.
"""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor


def lengths_on(lengths: Tensor, device: torch.device) -> Tensor:
    """Bring lengths to a device, without waiting for a GPU.

    Arguments
    ---------
    lengths : Tensor
        Lengths (batch,), absolute or relative.
    device : torch.device
        Where the frames are.

    Returns
    -------
    Tensor
        ``lengths`` itself if it is there already.

    Example
    -------
    >>> lengths_on(torch.tensor([2, 3]), torch.device("cpu"))
    tensor([2, 3])
    """
    # From the GPU to the CPU it has to wait: the values would be read before they are there.
    return lengths.to(device, non_blocking=lengths.device.type == "cpu")


def valid_frames(lengths: Tensor, time: int) -> Tensor:
    """Mark the valid frames of each example.

    Arguments
    ---------
    lengths : Tensor
        Valid frames per example, integers (batch,).
    time : int
        Frames in the padded batch.

    Returns
    -------
    Tensor
        Boolean (batch, time), True where a frame is valid.

    Example
    -------
    >>> valid_frames(torch.tensor([2, 3]), 3)
    tensor([[ True,  True, False],
            [ True,  True,  True]])
    """
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def mask_frames(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Replace the frames past each example's length by zeros.

    Arguments
    ---------
    x : Tensor
        Frames (batch, time, ...).
    lengths : Tensor, optional
        Valid frames per example, integers (batch,); with None, ``x`` is returned unchanged.

    Returns
    -------
    Tensor
        A tensor like ``x``; the replaced frames get no gradient.

    Example
    -------
    >>> mask_frames(torch.tensor([[1.0, float("nan")]]), torch.tensor([1]))
    tensor([[1., 0.]])
    """
    if lengths is None:
        return x
    invalid = ~valid_frames(lengths_on(lengths, x.device), x.shape[1])
    return x.masked_fill(invalid.reshape(invalid.shape + (1,) * (x.dim() - 2)), 0)


@overload
def absolute_lengths(relative: Tensor, time: int, device: torch.device | None = None) -> Tensor: ...


@overload
def absolute_lengths(relative: None, time: int, device: torch.device | None = None) -> None: ...


@overload
def absolute_lengths(relative: Tensor | None, time: int, device: torch.device | None = None) -> Tensor | None: ...


def absolute_lengths(relative: Tensor | None, time: int, device: torch.device | None = None) -> Tensor | None:
    """Turn SpeechBrain's relative lengths into numbers of frames, rounding as SpeechBrain does.

    Arguments
    ---------
    relative : Tensor, optional
        Lengths relative to the longest example, floats (batch,) in [0, 1].
    time : int
        Frames in the padded batch.
    device : torch.device, optional
        Where the frames are; that of ``relative`` by default.

    Returns
    -------
    Tensor or None
        Valid frames per example, int64 (batch,), on that device; None if ``relative`` is None.

    Example
    -------
    >>> absolute_lengths(torch.tensor([0.5, 1.0]), 7)
    tensor([4, 7])
    """
    if relative is None:
        return None
    if device is not None:
        relative = lengths_on(relative, device)
    return torch.round(relative * time).long().clamp(0, time)
