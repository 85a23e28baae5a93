"""Resampling in blocks: the samples of the whole signal, in memory that depends on neither the rates nor the length."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ZERO_CROSSINGS, _ROLLOFF = 6, 0.99
"""The filter of torchaudio.functional.resample: a sinc under a Hann window, up to this crossing on either side, whose
cutoff is this fraction of the lower Nyquist frequency."""
_TABLE = 2**22
"""The most weights that are kept. Rates without a common divisor have a filter per output sample of a second."""
_SLAB = 2**18
"""Products that are made at a time: 1 MB, which stays in a cache."""


class StreamingResampler:
    """Resample a signal that comes in blocks, as ``torchaudio.functional.resample`` resamples the whole.

    torchaudio's filters are as long as the reduced rate: from 44101 to 8000 Hz they take 1.4 GB. These hold only the
    weights that are not zero.

    Arguments
    ---------
    from_rate, to_rate : int
        Samples per second of what comes in and goes out.

    Example
    -------
    >>> import torchaudio
    >>> resampler, signal = StreamingResampler(8000, 11025), torch.randn(2, 1000)
    >>> out = torch.cat([resampler.push(block) for block in signal.split(300, 1)] + [resampler.finish()], 1)
    >>> whole = torchaudio.functional.resample(signal.double(), 8000, 11025)
    >>> out.shape == whole.shape, bool((out - whole).abs().max() < 1e-5)
    (True, True)
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        if min(from_rate, to_rate) < 1 or from_rate != int(from_rate) or to_rate != int(to_rate):
            raise ValueError(f"Sample rates must be whole and positive, not {from_rate} and {to_rate} Hz.")
        divisor = math.gcd(int(from_rate), int(to_rate))
        self._from, self._to = int(from_rate) // divisor, int(to_rate) // divisor
        self._cutoff = _ROLLOFF * min(self._from, self._to)
        self._reach = math.ceil(_ZERO_CROSSINGS * self._from / self._cutoff)
        taps = 2 * self._reach + 1
        self._table = self._weights(torch.arange(self._to)) if self._to * taps <= _TABLE else None
        self._heard = self._given = 0  # samples so far
        self._kept: Tensor | None = None  # samples that are needed again, from position self._first
        self._first = -self._reach

    def push(self, block: Tensor) -> Tensor:
        """Take the next samples (..., time); the output samples (..., time) that they complete are returned."""
        self._heard += block.shape[-1]
        if self._from == self._to:
            self._kept = block[..., :0]
            return block
        if self._kept is None:
            self._kept = block.new_zeros((*block.shape[:-1], self._reach))  # silence before the signal
        self._kept = torch.cat([self._kept, block], -1)
        # output j needs input up to floor(j * from / to) + reach
        return self._make(-(-(self._heard - self._reach) * self._to // self._from))

    def finish(self) -> Tensor:
        """The rest of the output samples; ceil(input * to_rate / from_rate) have then come in all.

        Raises
        ------
        RuntimeError
            When no block came before.
        """
        if self._kept is None:
            raise RuntimeError("StreamingResampler.finish: no block came before it.")
        if self._from == self._to:
            return self._kept
        self._kept = torch.nn.functional.pad(self._kept, (0, self._reach + 1))  # silence behind it
        return self._make(-(-self._heard * self._to // self._from))

    def _weights(self, phases: Tensor) -> Tensor:
        """The filters (phases, taps) of outputs that lie ``phase * from / to`` input samples behind the first."""
        offset = ((phases * self._from) % self._to).double() / self._to  # from the input sample before it
        place = torch.arange(-self._reach, self._reach + 1, dtype=torch.float64)
        time = ((place - offset[:, None]) * (self._cutoff / self._from)).clamp_(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
        window = torch.cos(time * (math.pi / _ZERO_CROSSINGS / 2)).square_()
        return (torch.sinc(time) * window).mul_(self._cutoff / self._from).float()

    def _make(self, end: int) -> Tensor:
        """The output samples up to one that is not included."""
        assert self._kept is not None
        taps = 2 * self._reach + 1
        lead = self._kept.shape[:-1]
        signal = self._kept.reshape(-1, self._kept.shape[-1])
        step = max(1, _SLAB // (taps * max(1, len(signal))))
        parts = [signal.new_zeros(len(signal), 0)]
        for start in range(self._given, end, step):
            output = torch.arange(start, min(start + step, end))
            weights = self._weights(output % self._to) if self._table is None else self._table[output % self._to]
            first = output * self._from // self._to - self._reach - self._first
            heard = signal.unfold(1, taps, 1)[:, first]
            parts.append(torch.einsum("cnt,nt->cn", heard, weights.to(heard.dtype)))
        self._given = max(self._given, end)
        # the next output reads from here on
        needed = min(self._given * self._from // self._to - self._reach - self._first, self._kept.shape[-1])
        if needed > 0:
            self._kept = self._kept[..., needed:].clone()
            self._first += needed
        return torch.cat(parts, 1).reshape(*lead, -1)


def resample(signal: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Resample a signal (..., time) in one go, as ``torchaudio.functional.resample`` does, in bounded memory.

    Example
    -------
    >>> resample(torch.zeros(2, 44101), 44101, 8000).shape
    torch.Size([2, 8000])
    """
    resampler = StreamingResampler(from_rate, to_rate)
    return torch.cat([resampler.push(signal), resampler.finish()], -1)
