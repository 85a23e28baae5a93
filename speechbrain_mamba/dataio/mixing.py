"""Mixtures of speakers for separation: drawn by chance, on the fly or to disk.

A mixture is drawn as in WSJ0-2mix (Hershey et al., "Deep clustering", 2016): distinct speakers at a random relative
level, cut to a common length ("min"), scaled together. It is a pure function of (seed, epoch, index).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.mixture_dataset import read_manifest, source_keys
from speechbrain_mamba.dataio.utterances import Utterance, parallel_map, read_utterances
from speechbrain_mamba.utils.files import write_csv, write_json

logger = logging.getLogger(__name__)

_PEAK = 0.9  # of the loudest of a mixture and its sources, as in WSJ0-2mix
_QUIETEST = 1e-4  # an RMS below is silence, which has no level to set
_ATTEMPTS = 20
_VERSION = 1  # raised whenever the same parameters draw other mixtures


@dataclass(frozen=True)
class Mixture:
    """A mixture and what it was made of.

    Arguments
    ---------
    mix : Tensor
        The mixture (samples,), float32: the sum of the sources.
    sources : Tensor
        The sources (num_spks, samples), float32.
    speakers : tuple of str
        Who speaks in each source.

    Example
    -------
    >>> Mixture(torch.ones(2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), ("anna", "ben")).speakers
    ('anna', 'ben')
    """

    mix: Tensor
    sources: Tensor
    speakers: tuple[str, ...]


def _draw_audible(draw: Callable[[], Tensor], speaker: str) -> Tensor:
    """Draw speech until some is no silence, which has no level, and bring it to an RMS of 1."""
    for _ in range(_ATTEMPTS):
        signal = draw()
        rms = signal.square().mean().sqrt()
        if rms > _QUIETEST:
            return signal / rms
    raise ValueError(f"The speech of speaker '{speaker}' is silent: remove the speaker from the data.")


class MixtureSampler:
    """Draws mixtures of distinct speakers.

    Each source is the speech of one speaker: a random part of a long utterance, or several utterances one after the
    other. The sources have the same RMS but for the random relative level: the first is louder than the second by
    0 to ``level_db``, half of it up and half of it down; others stay in between.

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
    level_db : float
        Largest level difference of the first two sources in dB.
    cache_bytes : int
        Speech that fits into this many bytes is kept in memory, where the workers of a DataLoader share it.

    Raises
    ------
    ValueError
        When there are too few speakers, the seconds are no range, or the seed is negative.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> utterances = []
    >>> for speaker in ("anna", "ben"):
    ...     path = folder / f"{speaker}.wav"
    ...     write_audio(path, torch.randn(8000) / 10, sample_rate=8000)
    ...     utterances.append(Utterance(str(path), speaker, 8000))
    >>> sampler = MixtureSampler(utterances, num_spks=2, sample_rate=8000, seconds=(0.5, 0.5))
    >>> mixture = sampler.draw(index=0)
    >>> mixture.sources.shape
    torch.Size([2, 4000])
    >>> bool((mixture.sources.sum(0) == mixture.mix).all())
    True
    """

    def __init__(
        self,
        utterances: list[Utterance],
        num_spks: int,
        sample_rate: int,
        seconds: tuple[float, float] | None = (2.0, 4.0),
        seed: int = 0,
        level_db: float = 5.0,
        cache_bytes: int = 2**29,
    ) -> None:
        self.num_spks, self.sample_rate, self.seed, self.level_db = num_spks, sample_rate, seed, level_db
        self.seconds = None if seconds is None else (float(seconds[0]), float(seconds[1]))
        if self.seconds is not None and not 0 < self.seconds[0] <= self.seconds[1]:
            raise ValueError(
                f"seconds are {tuple(seconds)}, but must be the shortest and the longest mixture, above 0."
            )
        if seed < 0:
            raise ValueError(f"seed is {seed}, but must be 0 or above.")
        by_speaker = defaultdict(list)
        for utterance in sorted(utterances, key=lambda utterance: (utterance.speaker, utterance.path)):
            by_speaker[utterance.speaker].append(utterance)
        self.speakers = dict(by_speaker)
        if num_spks < 1 or len(self.speakers) < num_spks:
            raise ValueError(
                f"num_spks is {num_spks}, but the speech has {len(self.speakers)} speaker(s): mixtures need that many, "
                "and at least one."
            )
        self._cache: dict[str, Tensor] = {}
        if sum(utterance.samples for utterance in utterances) * 4 <= cache_bytes:
            paths = [utterance.path for utterance in utterances]
            signals = parallel_map(functools.partial(read_audio, sample_rate=sample_rate), paths, "Loading", "file")
            self._cache = dict(zip(paths, signals))

    def __deepcopy__(self, memo: dict) -> MixtureSampler:
        # never changed after construction: copies of a dataset share the speech
        return self

    def parameters(self) -> dict:
        """Everything that decides what is drawn, as values for JSON.

        Returns
        -------
        dict
            Equal for two samplers exactly when they draw the same mixtures, given that the files are the same.
        """
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
            "level_db": self.level_db,
            "utterances": hashlib.sha256(listing.encode()).hexdigest(),
        }

    def _read(self, utterance: Utterance, start: int, frames: int) -> Tensor:
        if utterance.path in self._cache:
            return self._cache[utterance.path][start : start + frames]
        return read_audio(utterance.path, self.sample_rate, start, frames)

    def _draw_speech(self, speaker: str, samples: int, rng: np.random.Generator) -> Tensor:
        utterances = self.speakers[speaker]
        pieces, missing = [], samples
        while missing > 0:
            for index in rng.permutation(len(utterances)):
                utterance = utterances[index]
                # only speech that is long enough alone begins in mid-utterance
                spare = 0 if pieces else max(0, utterance.samples - missing)
                frames = min(utterance.samples, missing)
                pieces.append(self._read(utterance, int(rng.integers(spare + 1)), frames))
                missing -= frames
                if missing == 0:
                    break
        return torch.cat(pieces)

    def _crop(self, utterance: Utterance, samples: int, rng: np.random.Generator) -> Tensor:
        return self._read(utterance, int(rng.integers(utterance.samples - samples + 1)), samples)

    def _draw_sources(self, speakers: list[str], rng: np.random.Generator) -> Tensor:
        """Speech of each speaker at an RMS of 1, (speakers, samples)."""
        if self.seconds is None:
            chosen = [self.speakers[name][rng.integers(len(self.speakers[name]))] for name in speakers]
            samples = min(utterance.samples for utterance in chosen)
            draws = [functools.partial(self._crop, utterance, samples, rng) for utterance in chosen]
        else:
            samples = max(1, round(rng.uniform(*self.seconds) * self.sample_rate))
            draws = [functools.partial(self._draw_speech, name, samples, rng) for name in speakers]
        return torch.stack([_draw_audible(draw, name) for draw, name in zip(draws, speakers)])

    def draw(self, index: int, epoch: int = 0) -> Mixture:
        """Draw one mixture.

        Arguments
        ---------
        index : int
            Number of the mixture in its epoch, from 0.
        epoch : int
            Number of the epoch, from 0.

        Returns
        -------
        Mixture
            The same for the same seed, epoch and index.

        Raises
        ------
        ValueError
            When a file cannot be read any more, or a speaker is silent throughout.
        """
        rng = np.random.default_rng((self.seed, epoch, index))
        names = list(self.speakers)
        speakers = [names[choice] for choice in rng.choice(len(names), size=self.num_spks, replace=False)]
        half = rng.uniform(0, self.level_db) / 2
        levels = torch.zeros(self.num_spks)
        levels[0] = half
        levels[1:2] = -half
        sources = self._draw_sources(speakers, rng) * (10 ** (levels / 20))[:, None]
        loudest = max(sources.abs().max(), sources.sum(0).abs().max())
        sources = sources * (_PEAK / loudest)
        return Mixture(sources.sum(0), sources, tuple(speakers))


class _DrawItems:
    """Draws the signals of one item. The epoch lives in shared memory, where running workers see it change."""

    def __init__(self, sampler: MixtureSampler) -> None:
        self.sampler = sampler
        self.epoch = torch.zeros(1, dtype=torch.long).share_memory_()

    def __deepcopy__(self, memo: dict) -> _DrawItems:
        return self


def _draw_signals(items: _DrawItems, index: int) -> Iterator[Tensor]:
    mixture = items.sampler.draw(index, int(items.epoch))
    yield mixture.mix
    yield from mixture.sources


class DynamicMixtures(DynamicItemDataset):
    """A dataset of mixtures that are drawn when they are asked for, others in each epoch.

    An item is a pure function of (seed, epoch, index): a run that is interrupted and resumed sees the same mixtures.
    It has the keys ``id``, ``mix_sig``, ``s1_sig``, ``s2_sig``, ... (tensors (samples,)).

    Arguments
    ---------
    sampler : MixtureSampler
        Draws the mixtures.
    count : int
        Mixtures per epoch.

    Raises
    ------
    ValueError
        When the count is below 1.

    Example
    -------
    See :func:`dynamic_mixtures`.
    """

    def __init__(self, sampler: MixtureSampler, count: int) -> None:
        if count < 1:
            raise ValueError(f"The number of mixtures per epoch is {count}, but must be at least 1.")
        super().__init__({f"mixture_{index:06d}": {"index": index} for index in range(count)})
        self._items = _DrawItems(sampler)
        keys = ["mix_sig", *(f"{key}_sig" for key in source_keys(sampler.num_spks))]
        self.add_dynamic_item(functools.partial(_draw_signals, self._items), takes=["index"], provides=keys)
        self.set_output_keys(["id", *keys])

    def set_epoch(self, epoch: int) -> None:
        """Choose the mixtures. Call it before an epoch's first batch; workers that already run follow.

        Arguments
        ---------
        epoch : int
            Number of the epoch.
        """
        self._items.epoch.fill_(epoch)


def dynamic_mixtures(
    utterances: list[Utterance] | str | os.PathLike,
    count: int,
    num_spks: int,
    sample_rate: int,
    seconds: tuple[float, float] | None = (2.0, 4.0),
    seed: int = 0,
) -> DynamicMixtures:
    """A dataset that draws mixtures on the fly ("dynamic mixing").

    Arguments
    ---------
    utterances : list of Utterance, str or Path
        The speech, or the CSV file that lists it: ``train_utterances.csv`` of the preparation.
    count : int
        Mixtures per epoch.
    num_spks : int
        Speakers per mixture.
    sample_rate : int
        Samples per second.
    seconds : tuple of float, optional
        Shortest and longest mixture; None makes a mixture as long as the shortest of one utterance of each speaker.
    seed : int
        The seed of all draws.

    Returns
    -------
    DynamicMixtures
        A SpeechBrain dataset; call its ``set_epoch`` at the start of each epoch.

    Raises
    ------
    FileNotFoundError
        When the CSV file or a speech file does not exist.
    ValueError
        When there are too few speakers, or a value is out of range.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for speaker in ("anna", "ben"):
    ...     write_audio(folder / f"{speaker}.wav", torch.randn(8000) / 10, sample_rate=8000)
    >>> utterances = [Utterance(str(folder / f"{speaker}.wav"), speaker, 8000) for speaker in ("anna", "ben")]
    >>> dataset = dynamic_mixtures(utterances, count=4, num_spks=2, sample_rate=8000, seconds=(0.5, 0.5))
    >>> dataset.set_epoch(1)
    >>> sorted(dataset[3])
    ['id', 'mix_sig', 's1_sig', 's2_sig']
    """
    if isinstance(utterances, (str, os.PathLike)):
        utterances = read_utterances(utterances, sample_rate)
    return DynamicMixtures(MixtureSampler(utterances, num_spks, sample_rate, seconds, seed), count)


def _write_mixture(sampler: MixtureSampler, folder: Path, index: int) -> dict:
    mixture = sampler.draw(index)
    name = "_".join([f"{index:06d}", *mixture.speakers])
    # sources are rounded before they are added, so that the 16-bit files too add up exactly
    sources = torch.round(mixture.sources * 32768).to(torch.int16)
    signals = {"mix": sources.sum(0, dtype=torch.int16), **dict(zip(source_keys(sampler.num_spks), sources))}
    row = {"ID": name, "duration": len(mixture.mix) / sampler.sample_rate}
    for key, signal in signals.items():
        path = folder / key / f"{name}.wav"
        if not path.is_file():
            write_audio(path, signal, sampler.sample_rate)
        row[f"{key}_wav"] = str(path)
    return row


def is_complete(csv_path: str | os.PathLike) -> bool:
    """Whether a manifest exists, and all files that it names.

    Arguments
    ---------
    csv_path : str or Path
        A manifest with plain paths, as :func:`write_mixtures` makes it.

    Returns
    -------
    bool
        False when anything is missing.

    Example
    -------
    >>> is_complete(getfixture("tmp_path") / "train.csv")
    False
    """
    if not Path(csv_path).is_file():
        return False
    rows = read_manifest(csv_path)
    return all(Path(value).is_file() for row in rows for key, value in row.items() if key.endswith("_wav"))


def write_mixtures(sampler: MixtureSampler, count: int, folder: str | os.PathLike, csv_path: str | os.PathLike) -> None:
    """Write a fixed list of mixtures to disk, with its manifest.

    The files are 16-bit WAVs, whose mixtures are exactly the sums of their sources. A list that was written with the
    same parameters is kept, and an interrupted one is completed.

    Arguments
    ---------
    sampler : MixtureSampler
        Draws the mixtures.
    count : int
        How many mixtures.
    folder : str or Path
        Where the files go: ``mix/``, ``s1/``, ``s2/``, ... and ``mixtures.json`` with the parameters. What another
        call with other parameters wrote there is removed.
    csv_path : str or Path
        The manifest, with the columns ``ID``, ``duration`` (seconds), ``mix_wav``, ``s1_wav``, ``s2_wav``, ...

    Raises
    ------
    ValueError
        When the folder holds files that this function did not write, or the count is below 1.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for speaker in ("anna", "ben"):
    ...     write_audio(folder / f"{speaker}.wav", torch.randn(8000) / 10, sample_rate=8000)
    >>> utterances = [Utterance(str(folder / f"{speaker}.wav"), speaker, 8000) for speaker in ("anna", "ben")]
    >>> sampler = MixtureSampler(utterances, num_spks=2, sample_rate=8000, seconds=(0.5, 0.5))
    >>> write_mixtures(sampler, 1, folder / "test", folder / "test.csv")
    >>> (folder / "test.csv").read_text().splitlines()[0]
    'ID,duration,mix_wav,s1_wav,s2_wav'
    """
    if count < 1:
        raise ValueError(f"The number of mixtures is {count}, but must be at least 1.")
    folder, csv_path = Path(folder).absolute(), Path(csv_path)
    stamp = folder / "mixtures.json"
    parameters = {**sampler.parameters(), "count": count}
    if stamp.is_file():
        if json.loads(stamp.read_text(encoding="utf-8")) != parameters:
            logger.info("The mixtures in %s were made with other parameters: they are made anew.", folder)
            csv_path.unlink(missing_ok=True)
            shutil.rmtree(folder)
        elif is_complete(csv_path):
            logger.info("The mixtures in %s are there already.", folder)
            return
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"'{folder}' holds files that are no mixtures of ours: choose another folder, or remove it.")
    # the parameters come first and the manifest last: what is in between belongs to the parameters, and can go on
    if not stamp.is_file():
        write_json(stamp, parameters)
    for leftover in folder.glob("*/.*.wav"):  # of a process that was killed while it wrote
        leftover.unlink()
    write = functools.partial(_write_mixture, sampler, folder)
    rows = parallel_map(write, list(range(count)), f"Writing the mixtures {folder.name}", "mixture")
    write_csv(csv_path, rows, list(rows[0]))
