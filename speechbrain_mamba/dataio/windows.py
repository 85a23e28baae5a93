"""Overlapping windows of a signal that comes in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """A part of a signal: the position of its first sample, and the samples (channels, samples)."""

    start: int
    signal: Tensor


def cut_windows(blocks: Iterable[Tensor], length: int, overlap: int, align: int = 1) -> Iterator[Window]:
    """Cut a signal into windows that overlap. None is short: the last one is shifted back, and overlaps more.

    Arguments
    ---------
    blocks : iterable of Tensor
        Consecutive parts of the signal (channels, samples), of any sizes.
    length : int
        Samples per window, a multiple of ``align``. A signal that is not longer is one window.
    overlap : int
        Samples that a window shares with the next one, a multiple of ``align``, and at most half of a window.
    align : int
        All windows start at a multiple of it; the last one is up to ``align - 1`` samples longer than the others.

    Yields
    ------
    Window
        The windows in order. At most three of them, and a block, are in memory.

    Raises
    ------
    ValueError
        When length or overlap do not fit.

    Example
    -------
    >>> blocks = torch.arange(25.0)[None].split(4, 1)
    >>> [(start, signal.shape[1]) for start, signal in cut_windows(blocks, length=10, overlap=4)]
    [(0, 10), (6, 10), (12, 10), (15, 10)]
    """
    if length < 1 or overlap < 0 or 2 * overlap > length or length % align or overlap % align:
        raise ValueError(
            f"Windows of {length} samples that overlap by {overlap} cannot be cut: both must be multiples of {align}, "
            "and the overlap at most half of the window."
        )
    hop = length - overlap
    kept: list[Tensor] = []  # from `first` to `end`
    first = end = upcoming = 0
    for part in (part for block in blocks for part in block.split(length, 1)):  # joining large ones would take long
        kept.append(part)
        end += part.shape[1]
        while end >= upcoming + length:
            kept = [torch.cat(kept, 1)[:, max(0, upcoming - hop) - first :]]  # the window before stays: see the end
            first = max(0, upcoming - hop)
            yield Window(upcoming, kept[0][:, upcoming - first : upcoming - first + length])
            upcoming += hop
    rest = torch.cat(kept, 1) if kept else torch.zeros(1, 0)
    if upcoming == 0:
        yield Window(0, rest)
    elif end > upcoming + overlap:
        start = (end - length) // align * align
        yield Window(start, rest[:, start - first :])
