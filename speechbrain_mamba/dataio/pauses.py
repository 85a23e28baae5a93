"""Long recordings, cut at pauses into windows that a recognizer can take at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SILENCE_DB = -80.0
"""Level below which all is silence, in dB relative to full scale: the loudest 20 ms of a recording without speech."""

_FRAME = 0.02  # seconds whose level is measured
_PAUSE = 0.3  # seconds that a pause lasts at least
_BELOW_SPEECH = 20.0  # dB that a pause is below speech
_REST = 0.5  # seconds that are left at least after a cut at a pause


@dataclass(frozen=True)
class Window:
    """A part of a recording.

    Arguments
    ---------
    start : int
        Where it begins in the recording, in samples.
    signal : Tensor
        Its samples (samples,).
    overlap : int
        The samples at its beginning that the window before it has too: 0 after a cut at a pause.
    """

    start: int
    signal: Tensor
    overlap: int

    @property
    def end(self) -> int:
        """Where it ends in the recording, in samples."""
        return self.start + len(self.signal)


class PauseCutter:
    """Cut a recording that comes in blocks into windows, at pauses.

    A window is as long as allowed, but ends at the quietest place of its last two thirds if that is a pause: 300 ms, 20
    dB below the speech. Without a pause it is cut at the longest length, and the next window begins earlier: both have
    the samples in between. A recording that is not longer than a window is not cut.

    Arguments
    ---------
    sample_rate : int
        Samples per second.
    max_seconds : float, optional
        Longest window; None never cuts.
    overlap_seconds : float
        What two windows share when there is no pause between them.

    Raises
    ------
    ValueError
        When the windows would not be longer than three times what they share.

    Example
    -------
    >>> signal = torch.randn(8 * 1000).masked_fill(torch.arange(8000) // 500 == 9, 0.0)  # a pause at 4.5 s
    >>> cutter = PauseCutter(1000, max_seconds=6.0, overlap_seconds=1.0)
    >>> windows = [window for block in signal.split(700) for window in cutter.push(block)] + list(cutter.finish())
    >>> [(window.start, window.end, window.overlap) for window in windows]
    [(0, 4640, 0), (4640, 8000, 0)]
    """

    def __init__(self, sample_rate: int, max_seconds: float | None = 20.0, overlap_seconds: float = 2.0) -> None:
        if max_seconds is not None and not math.inf > max_seconds >= 3 * overlap_seconds > 0:
            raise ValueError(
                f"max_seconds is {max_seconds}, but must be a number of at least {3 * overlap_seconds}, three times "
                "what two windows share."
            )
        self.sample_rate = sample_rate
        self.longest = None if max_seconds is None else round(max_seconds * sample_rate)
        self.overlap = round(overlap_seconds * sample_rate)
        self.blocks: list[Tensor] = []
        self.start = self.waiting = self.shared = 0

    def push(self, block: Tensor) -> Iterator[Window]:
        """Take the next samples (samples,), and give the windows that are complete."""
        self.blocks.append(block)
        self.waiting += len(block)
        while self.longest is not None and self.waiting > self.longest:
            signal = torch.cat(self.blocks)
            cut = find_pause(signal[: self.longest], self.sample_rate)
            back = 0 if cut is not None else self.overlap
            end = self.longest if cut is None else cut
            yield Window(self.start, signal[:end], self.shared)
            self.start, self.shared = self.start + end - back, back
            self.blocks = [signal[end - back :].clone()]
            self.waiting = len(self.blocks[0])

    def finish(self) -> Iterator[Window]:
        """Give the last window."""
        if self.waiting > self.shared:
            yield Window(self.start, torch.cat(self.blocks), self.shared)
        self.blocks, self.waiting = [], 0


def levels(signal: Tensor, sample_rate: int) -> Tensor:
    """Mean powers of 20 ms each (frames,), the last one of what is left."""
    size = max(1, round(_FRAME * sample_rate))
    squares = F.pad(signal.float().square(), (0, -len(signal) % size)).reshape(-1, size)
    counts = torch.full((len(squares),), float(size))
    if len(signal) % size:
        counts[-1] = len(signal) % size
    return squares.sum(1) / counts.to(squares.device)


def is_silent(signal: Tensor, sample_rate: int) -> bool:
    """Whether no 20 ms of a signal (samples,) are as loud as :data:`SILENCE_DB`.

    Example
    -------
    >>> is_silent(torch.zeros(800), 8000), is_silent(1e-3 * torch.ones(800), 8000)
    (True, False)
    """
    return not len(signal) or bool(levels(signal, sample_rate).max() < 10 ** (SILENCE_DB / 10))


def find_pause(signal: Tensor, sample_rate: int) -> int | None:
    """Find the quietest place in the last two thirds of a signal (samples,), but its very end.

    Returns the sample in its middle, or None if it is not a pause.
    """
    powers = levels(signal, sample_rate)
    width = round(_PAUSE / _FRAME)
    first, last = len(powers) // 3, len(powers) - round(_REST / _FRAME)
    if last - first < width:
        return None
    quiet = powers[first:last].unfold(0, width, 1).mean(1)
    best = int(quiet.argmin())
    speech = float(powers.quantile(0.9))
    if float(quiet[best]) > max(speech * 10 ** (-_BELOW_SPEECH / 10), 10 ** (SILENCE_DB / 10)):
        return None
    return (first + best + width // 2) * max(1, round(_FRAME * sample_rate))
