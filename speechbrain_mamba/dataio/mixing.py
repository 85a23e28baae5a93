"""Mixtures of speakers for separation, drawn at random.

A mixture is drawn as in WSJ0-2mix (Hershey et al., "Deep clustering", 2016): distinct speakers at a random relative
level (:mod:`~speechbrain_mamba.dataio.level_laws`), cut to a common length ("min"). It is a pure function of (seed,
epoch, index).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.dataio.augmentation import MixtureAugmentation
from speechbrain_mamba.dataio.level_laws import LevelLaw, Wsj0MixLaw
from speechbrain_mamba.dataio.utterances import Utterance
from speechbrain_mamba.utils.parallel import parallel_map

_QUIETEST = 1e-4  # RMS; what is below is silence, which has no level
_ATTEMPTS = 20
_VERSION = 1  # raised whenever the same parameters draw other mixtures


@dataclass(frozen=True)
class Mixture:
    """A mixture (samples,), float32, the sum of its sources (num_spks, samples) and perhaps noise, and who speaks in
    each of them."""

    mix: Tensor
    sources: Tensor
    speakers: tuple[str, ...]


class MixtureSampler:
    """Draws mixtures of distinct speakers.

    Each source is the speech of one speaker: a random part of a long utterance, or several utterances one after the
    other. A law says how speakers and levels are drawn.

    Arguments
    ---------
    utterances : list of Utterance
        The speech.
    num_spks : int
        Speakers per mixture.
    sample_rate : int
        Samples per second.
    seconds : tuple of float, optional
        Shortest and longest mixture; None makes a mixture as long as the shortest of one utterance of each speaker.
    seed : int
        The seed of all draws.
    law : LevelLaw
        How often a speaker is drawn, and how loud each source is.
    augmentation : MixtureAugmentation, optional
        Random changes of the sources, and noise over the mixture; it needs ``seconds``.
    cache_bytes : int
        If all speech fits into this many bytes, it is kept in memory, where the workers of a DataLoader share it.

    Raises
    ------
    ValueError
        When there are too few speakers, the seconds are not a range or, with an augmentation, missing, or the seed is
        negative.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> utterances = []
    >>> for speaker in ("anna", "ben"):
    ...     path = folder / f"{speaker}.wav"
    ...     write_audio(path, torch.randn(8000) / 10, sample_rate=8000)
    ...     utterances.append(Utterance(str(path), speaker, 8000))
    >>> MixtureSampler(utterances, num_spks=2, sample_rate=8000, seconds=(0.5, 0.5)).draw(index=0).sources.shape
    torch.Size([2, 4000])
    """

    def __init__(
        self,
        utterances: list[Utterance],
        num_spks: int,
        sample_rate: int,
        seconds: tuple[float, float] | None = (2.0, 4.0),
        seed: int = 0,
        law: LevelLaw = Wsj0MixLaw(),  # noqa: B008  # it never changes
        augmentation: MixtureAugmentation | None = None,
        cache_bytes: int = 2**29,
    ) -> None:
        self.num_spks, self.sample_rate, self.seed, self.law = num_spks, sample_rate, seed, law
        self.augmentation = augmentation
        self.seconds = None if seconds is None else (float(seconds[0]), float(seconds[1]))
        if self.seconds is not None and not 0 < self.seconds[0] <= self.seconds[1]:
            raise ValueError(f"seconds are {self.seconds}, but must be the shortest and the longest mixture, above 0.")
        if seconds is None and augmentation is not None:
            raise ValueError("An augmentation changes the length of utterances: give the seconds of the mixtures.")
        if seed < 0:
            raise ValueError(f"seed is {seed}, but must be 0 or above.")
        self.speakers: dict[str, list[Utterance]] = {}
        for utterance in sorted(utterances, key=lambda utterance: (utterance.speaker, utterance.path)):
            self.speakers.setdefault(utterance.speaker, []).append(utterance)
        if num_spks < 1 or len(self.speakers) < num_spks:
            raise ValueError(
                f"num_spks is {num_spks}, but the speech has {len(self.speakers)} speaker(s): mixtures need that many, "
                "and at least one."
            )
        self._cache: dict[str, Tensor] = {}
        if sum(utterance.samples for utterance in utterances) * 4 <= cache_bytes:
            paths = [utterance.path for utterance in utterances]
            signals = parallel_map(lambda path: read_audio(path, sample_rate), paths, "Loading", "file")
            self._cache = dict(zip(paths, signals))

    def parameters(self) -> dict[str, Any]:
        """Everything that decides the mixtures, given that the files are the same, as values for JSON."""
        listing = "\n".join(
            f"{speaker} {utterance.samples} {utterance.path}"
            for speaker, utterances in self.speakers.items()
            for utterance in utterances
        )
        return {
            "version": _VERSION,
            "num_spks": self.num_spks,
            "sample_rate": self.sample_rate,
            "seconds": self.seconds and list(self.seconds),
            "seed": self.seed,
            **self.law.parameters(),
            **({} if self.augmentation is None else {"augmentation": self.augmentation.parameters()}),
            "utterances": hashlib.sha256(listing.encode()).hexdigest(),
        }

    def _read(self, utterance: Utterance, start: int, frames: int) -> Tensor:
        if utterance.path in self._cache:
            return self._cache[utterance.path][start : start + frames]
        return read_audio(utterance.path, self.sample_rate, start, frames)

    def _draw_speech(self, utterances: list[Utterance], samples: int, rng: np.random.Generator) -> Tensor:
        pieces: list[Tensor] = []
        missing = samples
        while missing > 0:
            for index in rng.permutation(len(utterances)):
                utterance = utterances[index]
                # Only an utterance that is long enough on its own begins at a random place.
                spare = 0 if pieces else max(0, utterance.samples - missing)
                frames = min(utterance.samples, missing)
                pieces.append(self._read(utterance, int(rng.integers(spare + 1)), frames))
                missing -= frames
                if missing == 0:
                    break
        return torch.cat(pieces)

    def _draw_changed_speech(self, utterances: list[Utterance], samples: int, rng: np.random.Generator) -> Tensor:
        """Speech of one speaker, with the augmentation."""
        if self.augmentation is None:
            return self._draw_speech(utterances, samples, rng)
        speed = self.augmentation.draw_speed(rng)
        speech = self._draw_speech(utterances, -(-samples * speed // 100), rng)  # rounded up
        return self.augmentation.change_source(speech, self.sample_rate, speed, samples, rng)

    def _draw_source(self, utterances: list[Utterance], samples: int, rng: np.random.Generator) -> Tensor:
        """Speech at a level of 0 dB, (samples,). Silence, which has no level, is drawn again."""
        for _ in range(_ATTEMPTS):
            signal = self._draw_changed_speech(utterances, samples, rng)
            if signal.square().mean().sqrt() > _QUIETEST:
                return signal / self.law.amplitude(signal)
        if self.seconds is None:
            raise ValueError(f"The utterance '{utterances[0].path}' is silent: remove it from the data.")
        name = utterances[0].speaker
        raise ValueError(f"The speech of speaker '{name}' is silent: remove the speaker from the data.")

    def _draw_sources(self, speakers: list[str], rng: np.random.Generator) -> Tensor:
        """Speech of each speaker at a level of 0 dB, (speakers, samples)."""
        speech = [self.speakers[name] for name in speakers]
        if self.seconds is None:
            speech = [[utterances[rng.integers(len(utterances))]] for utterances in speech]
            samples = min(utterance.samples for (utterance,) in speech)
        else:
            samples = max(1, round(rng.uniform(*self.seconds) * self.sample_rate))
        return torch.stack([self._draw_source(utterances, samples, rng) for utterances in speech])

    def draw(self, index: int, epoch: int = 0) -> Mixture:
        """Draw one mixture of an epoch, always the same for the same seed, epoch and index.

        Raises
        ------
        ValueError
            When a file cannot be read any more, or a speaker or an utterance is silent throughout.
        """
        rng = np.random.default_rng((self.seed, epoch, index))
        names = list(self.speakers)
        weights = self.law.speaker_weights([len(speech) for speech in self.speakers.values()])
        choices = rng.choice(len(names), size=self.num_spks, replace=False, p=weights)
        speakers = [names[choice] for choice in choices]
        levels = self.law.draw_levels(self.num_spks, rng)
        sources = self._draw_sources(speakers, rng) * (10 ** (levels / 20))[:, None]
        noise = None if self.augmentation is None else self.augmentation.draw_mixture_noise(sources.sum(0), rng)
        mix = sources.sum(0) if noise is None else sources.sum(0) + noise
        gain = self.law.common_gain(max(sources.abs().max(), mix.abs().max()))
        sources = sources * gain
        return Mixture(sources.sum(0) if noise is None else sources.sum(0) + noise * gain, sources, tuple(speakers))
