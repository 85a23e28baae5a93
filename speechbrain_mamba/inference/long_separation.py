"""Separation of recordings of any length, in windows or with a state, in memory that does not grow with the length."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from speechbrain_mamba.dataio.windows import Window, cut_windows
from speechbrain_mamba.inference.separation_result import Junction, LongSeparation
from speechbrain_mamba.inference.speaker_levels import find_levels
from speechbrain_mamba.inference.speaker_order import Overlap, SpeakerOrder, order_speakers
from speechbrain_mamba.inference.voice_cues import EmbeddingCues, VoiceCues, Voices

WINDOW = 16.0
"""Seconds. Long enough that most speakers are heard in most windows and that what windows share is 25 % of the work;
short enough for the memory of a laptop, and not far from the mixtures of a few seconds that separators are trained on.
"""

OVERLAP = 4.0
"""Seconds. Longer than nearly all pauses, so that someone speaks in it: then waveforms tell who is who, not voices."""

_IN_MEMORY = 2**26  # bytes of estimates; more wait in a temporary file
_PART = 1.0  # seconds of the parts in which overlaps are compared
_FRAME = 0.05  # seconds of the frames whose levels tell speech from silence

Progress = Callable[[float, "float | None"], Any]


class _Kept(NamedTuple):
    """What the first pass keeps of a window beside its estimates; arrays begin with channels."""

    start: int
    samples: int
    products: np.ndarray  # (channels, speakers, speakers)
    matches: np.ndarray  # (channels, speakers)
    energy: np.ndarray  # of the mixture (channels,)
    levels: np.ndarray  # mean squares of the frames (channels, frames)
    envelopes: np.ndarray  # energies of the frames (channels, speakers, frames)
    voices: list[Voices]  # of each channel


class _Estimates:
    """Estimates of windows, one after the other, in memory or, when they are many, in a file without a name."""

    def __init__(self, folder: str | os.PathLike | None) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=None if folder is None else str(folder))  # noqa: SIM115
        self._shapes: list[torch.Size] = []

    def append(self, estimates: Tensor) -> None:
        self._shapes.append(estimates.shape)
        self._file.write(estimates.to(torch.float32).contiguous().numpy().tobytes())

    def __iter__(self) -> Iterator[Tensor]:
        self._file.seek(0)
        for size in self._shapes:
            yield torch.frombuffer(bytearray(self._file.read(4 * size.numel())), dtype=torch.float32).reshape(size)

    def close(self) -> None:
        self._file.close()


class LongSeparator:
    """Separate a recording that comes in blocks, in two passes.

    The first separates windows that overlap, several at a time, and keeps their estimates in a temporary file. Then all
    windows are known, and it is decided which estimate is which speaker
    (:func:`~speechbrain_mamba.inference.speaker_order.order_speakers`) and how loud it is
    (:func:`~speechbrain_mamba.inference.speaker_levels.find_levels`). The second pass puts them together, with
    cross-fades in the middle of the overlaps, where both windows know what was before and what follows.

    With a ``stream`` there is one window, of any length: the model carries its state.

    Arguments
    ---------
    separate : callable
        Separates mixtures (batch, samples) into estimates (batch, samples, speakers), in a scale of its own.
    sample_rate : int
        Samples per second.
    speakers : int
        Speakers that it separates.
    stride : int
        Samples between the frames of the model: windows begin at a multiple of it.
    shortest : int
        Samples that the model needs.
    stream : StreamingSeparator, optional
        Separates without windows.
    window, overlap : float
        Seconds. Without a window the recording is separated at once.
    batch_size : int
        Mixtures that are separated at once.
    speaker_encoder : optional
        Tells voices apart: see :class:`~speechbrain_mamba.inference.voice_cues.EmbeddingCues`. By default pitch and
        spectrum do.
    progress : callable, optional
        Called with the seconds that are done, and all of them or None.
    folder : str or Path, optional
        For the temporary file.

    Example
    -------
    >>> def halves(mix):
    ...     return torch.stack([0.5 * mix, 0.5 * mix], -1)
    >>> separator = LongSeparator(halves, sample_rate=8000, speakers=2, window=1.0, overlap=0.25)
    >>> mix = torch.randn(1, 20000)
    >>> result, parts = separator(mix.split(5000, 1))
    >>> torch.allclose(torch.cat(list(parts), 1).sum(2), mix, atol=1e-4), result.windows
    (True, 3)
    """

    def __init__(
        self,
        separate: Callable[[Tensor], Tensor],
        sample_rate: int,
        speakers: int,
        *,
        stride: int = 1,
        shortest: int = 1,
        stream: Any = None,
        window: float | None = WINDOW,
        overlap: float = OVERLAP,
        batch_size: int = 1,
        speaker_encoder: Any = None,
        progress: Progress | None = None,
        folder: str | os.PathLike | None = None,
    ) -> None:
        self.separate, self.sample_rate, self.speakers = separate, sample_rate, speakers
        self.shortest, self.stream, self.batch_size, self.progress = shortest, stream, batch_size, progress
        self.stride, self.folder = stride, folder
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be a whole number of at least 1.")
        self.length = self.overlap = 0
        if window is not None and stream is None:
            self._set_window(window, overlap)
        self.cues: Any = (
            VoiceCues(sample_rate) if speaker_encoder is None else EmbeddingCues(speaker_encoder, sample_rate)
        )

    def _set_window(self, window: float, overlap: float) -> None:
        if math.isfinite(window) and math.isfinite(overlap):
            self.length, self.overlap = (
                round(self.sample_rate * x / self.stride) * self.stride for x in (window, overlap)
            )
        if not (0 < 2 * self.overlap <= self.length and self.length >= self.shortest):
            raise ValueError(
                f"The window is {window:g} s and the overlap {overlap:g} s: the overlap must be more than 0 and at "
                f"most half of the window, and the window at least {self.shortest / self.sample_rate:g} s."
            )

    def __call__(self, blocks: Iterable[Tensor], total: int | None = None) -> tuple[LongSeparation, Iterator[Tensor]]:
        """Separate a recording.

        Arguments
        ---------
        blocks : iterable of Tensor
            Its consecutive parts (channels, samples), float32 and finite. Channels are separated independently.
        total : int, optional
            Samples that will come, for the progress.

        Returns
        -------
        LongSeparation
            Without estimates.
        iterator of Tensor
            Consecutive parts of the estimates (channels, samples, speakers), as many samples as came.

        Raises
        ------
        ValueError
            When the recording is shorter than the model needs.
        """
        estimates = _Estimates(self.folder)
        try:
            kept, overlaps = self._first_pass(blocks, total, estimates)
            orders, gains = self._decide(kept, overlaps)
        except BaseException:
            estimates.close()
            raise
        samples = kept[-1].start + kept[-1].samples
        result = LongSeparation(self.sample_rate, samples, len(kept), self._junctions(kept, orders))
        if result.doubtful:
            places = ", ".join(str(junction) for junction in result.doubtful[:10])
            more = f" and {len(result.doubtful) - 10} more" if len(result.doubtful) > 10 else ""
            result.notices.append(
                f"The speakers may be swapped at these places (with the probability that they are not): {places}{more}."
            )
        return result, self._second_pass(kept, estimates, np.stack([found.orders for found in orders]), gains)

    # ------------------------------------------------------------ first pass

    def _first_pass(
        self, blocks: Iterable[Tensor], total: int | None, estimates: _Estimates
    ) -> tuple[list[_Kept], list[list[Overlap]]]:
        kept: list[_Kept] = []
        overlaps: list[list[Overlap]] = []
        before: tuple[Window, Tensor] | None = None
        separated = self._streamed(blocks) if self.stream is not None else self._separated(blocks)
        for window, estimate in separated:
            estimates.append(estimate)
            kept.append(self._keep(window, estimate))
            if before is not None and self.stream is None:
                overlaps.append(self._compare(*before, window, estimate))
            before = window, estimate
            if self.progress is not None:
                done = (window.start + window.signal.shape[1]) / self.sample_rate
                self.progress(done, None if total is None else total / self.sample_rate)
        return kept, overlaps

    def _separated(self, blocks: Iterable[Tensor]) -> Iterator[tuple[Window, Tensor]]:
        """Windows and their estimates (channels, speakers, samples)."""
        if self.length:
            windows = cut_windows(blocks, self.length, self.overlap, self.stride)
        else:
            windows = iter([Window(0, torch.cat([*blocks] or [torch.zeros(1, 0)], 1))])
        batch: list[Window] = []
        for window in windows:
            self._check_length(window.signal.shape[1] + window.start)
            if batch and (
                window.signal.shape != batch[0].signal.shape or len(batch) * len(window.signal) >= self.batch_size
            ):
                yield from self._separate_batch(batch)
                batch = []
            batch.append(window)
        yield from self._separate_batch(batch)

    def _check_length(self, samples: int) -> None:
        if samples < self.shortest:
            raise ValueError(
                f"The recording has {samples} samples at {self.sample_rate} Hz, but the separator needs at least "
                f"{self.shortest}: give a longer one."
            )

    def _separate_batch(self, windows: list[Window]) -> Iterator[tuple[Window, Tensor]]:
        mixtures = torch.cat([window.signal for window in windows])
        heard = mixtures.any(1)  # digital silence costs nothing
        estimates = mixtures.new_zeros(*mixtures.shape, self.speakers)
        groups = mixtures[heard].split(self.batch_size)
        if bool(heard.any()):
            estimates[heard] = torch.cat([self.separate(group).float().cpu() for group in groups])
        for window, estimate in zip(windows, estimates.split(len(windows[0].signal))):
            yield window, estimate.transpose(1, 2).contiguous()

    def _streamed(self, blocks: Iterable[Tensor]) -> Iterator[tuple[Window, Tensor]]:
        """Consecutive parts and their estimates, without overlap."""
        start, waiting = 0, torch.zeros(1, 0)
        for block in blocks:
            waiting = block if not waiting.shape[1] else torch.cat([waiting, block], 1)
            estimate = self.stream.add(block)
            if estimate.shape[1]:
                yield self._part(start, waiting, estimate)
            waiting, start = waiting[:, estimate.shape[1] :], start + estimate.shape[1]
        self._check_length(start + waiting.shape[1])
        yield self._part(start, waiting, self.stream.finish())

    @staticmethod
    def _part(start: int, waiting: Tensor, estimate: Tensor) -> tuple[Window, Tensor]:
        window = Window(start, waiting[:, : estimate.shape[1]])
        return window, estimate.float().cpu().transpose(1, 2).contiguous()

    def _keep(self, window: Window, estimate: Tensor) -> _Kept:
        mix, found = window.signal.numpy(), estimate.numpy()
        frame = max(1, round(_FRAME * self.sample_rate))
        return _Kept(
            window.start,
            mix.shape[1],
            np.stack([part @ part.T for part in found]).astype(np.float64),
            np.einsum("ckn,cn->ck", found, mix, dtype=np.float64),
            np.square(mix, dtype=np.float64).sum(1),
            _frames(mix, frame) / frame,
            _frames(found, frame) if len(found) > 1 else np.zeros((1, self.speakers, 0)),
            [self._hear(part) for part in estimate],
        )

    def _hear(self, estimate: Tensor) -> Voices:
        """The voices of the estimates of a window (speakers, samples), unless it is the only one."""
        if not self.length or estimate.shape[1] < self.length:
            return Voices(*np.zeros((2, self.speakers, len(self.cues.model.within))))
        return self.cues(estimate)

    def _compare(self, window: Window, estimate: Tensor, following: Window, estimate_2: Tensor) -> list[Overlap]:
        """What two windows have in common, in each channel."""
        shared = window.start + window.signal.shape[1] - following.start
        size = min(shared, round(_PART * self.sample_rate))
        parts = shared // size
        first, second = (
            part.numpy()[..., : parts * size].reshape(len(part), self.speakers, parts, size)
            for part in (estimate[..., -shared:], estimate_2[..., :shared])
        )
        mix = following.signal[:, : parts * size].numpy().reshape(-1, parts, size)
        products = np.einsum("cipn,cjpn->cpij", first, second, dtype=np.float64, optimize=True)
        energies = [np.square(part, dtype=np.float64).sum(-1).transpose(0, 2, 1) for part in (first, second)]
        means = np.square(mix, dtype=np.float64).mean(-1)
        return [Overlap(*fields) for fields in zip(products, *energies, means)]

    # ------------------------------------------------------------ decisions

    def _decide(self, kept: list[_Kept], overlaps: list[list[Overlap]]) -> tuple[list[SpeakerOrder], np.ndarray]:
        """The order of each channel's speakers, and the gains (channels, windows, speakers)."""
        channels = len(kept[0].energy)
        if self.stream is not None:
            order = np.tile(np.arange(self.speakers), (len(kept), 1))
            orders = [SpeakerOrder(order, np.ones(0), []) for _ in range(channels)]
            products, matches = (np.sum([getattr(part, name) for part in kept], 0) for name in ("products", "matches"))
            none = np.zeros((0, self.speakers))
            gains = [find_levels(products[c : c + 1], matches[c : c + 1], none, none, none) for c in range(channels)]
            return orders, np.repeat(np.stack(gains), len(kept), 1)
        orders, gains = [], []
        for c in range(channels):
            own = [overlap[c] for overlap in overlaps]
            found = self._order(kept, own, c)
            orders.append(found)
            gains.append(self._levels(kept, own, found.orders, c))
        for c in range(1, channels):
            turn = _align(_envelope(kept, orders[0].orders, 0), _envelope(kept, orders[c].orders, c))
            orders[c] = orders[c]._replace(orders=orders[c].orders[:, turn])
            gains[c] = gains[c][:, turn]
        return orders, np.stack(gains)

    def _order(self, kept: list[_Kept], overlaps: list[Overlap], c: int) -> SpeakerOrder:
        levels = [part.levels[c] for part in kept]
        everything = np.concatenate(levels)
        power = everything.sum()
        loud = np.square(everything).sum() / power if power > 0 else 0.0  # the mean square where it is loud
        quiet = min(float(np.percentile(everything, 10)), 0.1 * loud) if len(everything) else 0.0
        floor = 2 * quiet + 1e-3 * loud
        wide = max(1, round(0.25 / _FRAME))
        silent = [_smooth(level, wide).max(initial=0) <= floor for level in levels]
        none = np.zeros((0, self.speakers))
        scaled = []
        gains = [find_levels(part.products[c : c + 1], part.matches[c : c + 1], none, none, none)[0] for part in kept]
        for overlap, first, second in zip(overlaps, gains, gains[1:]):
            products = overlap.products * first[:, None] * second
            scaled.append(Overlap(products, overlap.first * first**2, overlap.second * second**2, overlap.mixture))
        return order_speakers(scaled, [part.voices[c] for part in kept], silent, self.cues.model, floor)

    def _levels(self, kept: list[_Kept], overlaps: list[Overlap], orders: np.ndarray, c: int) -> np.ndarray:
        products = np.stack([part.products[c][np.ix_(order, order)] for part, order in zip(kept, orders)])
        matches = np.stack([part.matches[c][order] for part, order in zip(kept, orders)])
        none = np.zeros((0, self.speakers))
        first, second, both = [none], [none], [none]
        for overlap, order, following in zip(overlaps, orders, orders[1:]):
            first.append(overlap.first.sum(0)[None, order])
            second.append(overlap.second.sum(0)[None, following])
            both.append(overlap.products.sum(0)[order, following][None])
        return find_levels(products, matches, *map(np.concatenate, (first, second, both)))

    def _junctions(self, kept: list[_Kept], orders: list[SpeakerOrder]) -> list[Junction]:
        if self.stream is not None:
            return []
        return [
            Junction((part.start + before.start + before.samples) / 2 / self.sample_rate, float(sure), cue, c)
            for c, order in enumerate(orders)
            for before, part, sure, cue in zip(kept, kept[1:], order.confidence, order.cues)
        ]

    # ------------------------------------------------------------ second pass

    def _second_pass(
        self, kept: list[_Kept], estimates: _Estimates, orders: np.ndarray, gains: np.ndarray
    ) -> Iterator[Tensor]:
        """Put windows together: orders and gains are (channels, windows, speakers)."""
        try:
            fading: Tensor | None = None  # the end of the window before, from where the cross-fade begins
            begin = 0  # what is done
            for w, (part, estimate) in enumerate(zip(kept, estimates)):
                order, gain = torch.from_numpy(orders[:, w]), torch.from_numpy(gains[:, w]).float()
                estimate = estimate.gather(1, order[:, :, None].expand_as(estimate)) * gain[:, :, None]
                estimate = estimate[..., begin - part.start :]
                if fading is not None:
                    size = min(fading.shape[2], self._fade)
                    ramp = (torch.arange(size) + 0.5) / size
                    estimate[..., :size] = torch.lerp(fading[..., :size], estimate[..., :size], ramp)
                end = part.start + part.samples
                if self.stream is None and w + 1 < len(kept):
                    middle = (kept[w + 1].start + end) // 2
                    end = middle - self._fade // 2
                    fading = estimate[..., end - begin :]
                yield estimate[..., : end - begin].transpose(1, 2)
                begin = end
        finally:
            estimates.close()

    @property
    def _fade(self) -> int:
        return max(1, self.overlap // 2)


def _frames(signal: np.ndarray, frame: int) -> np.ndarray:
    """Energies of frames (..., frames); the rest that does not fill one counts as one."""
    starts = np.arange(0, signal.shape[-1], frame)
    if not len(starts):
        return np.zeros((*signal.shape[:-1], 0))
    return np.add.reduceat(np.square(signal, dtype=np.float64), starts, -1)


def _smooth(levels: np.ndarray, wide: int) -> np.ndarray:
    return np.convolve(levels, np.full(min(wide, max(1, len(levels))), 1 / min(wide, max(1, len(levels)))), "valid")


def _envelope(kept: list[_Kept], orders: np.ndarray, c: int) -> np.ndarray:
    """Magnitudes of each speaker's frames in all windows (speakers, frames), with their mean subtracted."""
    frames = np.concatenate([part.envelopes[c][order] for part, order in zip(kept, orders)], 1)
    magnitudes = np.sqrt(frames)
    return magnitudes - magnitudes.mean(1, keepdims=True)


def _align(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The order of another channel's speakers in which their envelopes match those of the reference best."""
    norms = np.linalg.norm(reference, axis=1)[:, None] * np.linalg.norm(other, axis=1)
    correlations = reference @ other.T / np.maximum(norms, 1e-12)
    index = np.arange(len(reference))
    best = max(itertools.permutations(range(len(reference))), key=lambda order: correlations[index, list(order)].sum())
    return np.array(best)
