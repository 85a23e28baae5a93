"""Waveforms as callers have them, brought to float32 with full scale 1 or refused in one sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FULL_SCALES = {torch.int16: 2.0**15, torch.int32: 2.0**31}
"""Types of integer samples, and what they are divided by."""


def as_float(samples: Any, name: str) -> Tensor:
    """Bring samples to floats with full scale 1.

    Arguments
    ---------
    samples : Tensor or numpy.ndarray
        Floats of any precision, which are kept as they are but for half precision and float64, which become float32;
        or int16 or int32, which are divided by their full scale.
    name : str
        What they are, for the message.

    Returns
    -------
    Tensor
        Samples in float32, on the same device and with the same axes.

    Raises
    ------
    TypeError
        For other types.

    Example
    -------
    >>> as_float(torch.tensor([16384, -32768], dtype=torch.int16), "the mixture")
    tensor([ 0.5000, -1.0000])
    """
    if not isinstance(samples, Tensor):
        try:
            samples = torch.as_tensor(samples)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} is of type {type(samples).__name__}: give a tensor or an array.") from error
    if samples.dtype in FULL_SCALES:
        return samples.to(torch.float32) / FULL_SCALES[samples.dtype]
    if not samples.is_floating_point():
        raise TypeError(
            f"{name} has samples of type {str(samples.dtype).removeprefix('torch.')}: give floats with full scale 1, "
            "or int16 or int32, which are divided by their full scale."
        )
    return samples.to(torch.float32)


def check_finite(samples: Tensor, name: str) -> None:
    """Raise a ValueError when a sample is NaN or infinite.

    Example
    -------
    >>> check_finite(torch.tensor([0.0, float("nan")]), "the mixture")
    Traceback (most recent call last):
        ...
    ValueError: the mixture holds NaN or infinite samples: 1 of 2. Repair or remove it.
    """
    finite = torch.isfinite(samples)
    if not bool(finite.all()):
        bad = samples.numel() - int(finite.sum())
        raise ValueError(f"{name} holds NaN or infinite samples: {bad} of {samples.numel()}. Repair or remove it.")


def check_relative_lengths(lengths: Any, batch: int, name: str) -> Tensor:
    """Bring relative lengths to a tensor, and check them.

    Arguments
    ---------
    lengths : Tensor, numpy.ndarray or sequence of float
        Lengths relative to the longest example of a batch.
    batch : int
        Number of examples.
    name : str
        Name of the argument, for the message.

    Returns
    -------
    Tensor
        Lengths (batch,), floats.

    Raises
    ------
    ValueError
        When there are not as many, or one is not a number from 0 to 1.

    Example
    -------
    >>> check_relative_lengths([1, 0.5], 2, "mix_lens")
    tensor([1.0000, 0.5000])
    """
    lengths = torch.as_tensor(lengths)
    lengths = lengths if lengths.is_floating_point() else lengths.float()
    if lengths.shape != (batch,):
        raise ValueError(
            f"{name} has shape {tuple(lengths.shape)}, but must be ({batch},): one relative length for each example."
        )
    wrong = [value for value in lengths.tolist() if not 0 <= value <= 1 + 1e-6]  # NaN too
    if wrong:
        raise ValueError(
            f"{name} has the value {wrong[0]:g}: relative lengths are from 0 to 1, the length of the longest example."
        )
    return lengths
