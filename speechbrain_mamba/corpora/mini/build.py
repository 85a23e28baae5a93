"""The embedded corpus: many synthetic voices that read varied sentences, built in seconds by espeak-ng.

Its layout is that of LibriSpeech::

    <folder>/<split>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.wav
    <folder>/<split>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt       transcripts, upper case
    <folder>/<split>/<speaker>/<chapter>/<speaker>-<chapter>.phonemes.txt    phonemes, IPA
    <folder>/SPEAKERS.TXT
    <folder>/corpus.json                                                     the stamp: settings, speakers, hours

Chapter 1 has sentences, chapter 2 strings of digits. No speaker, no voice variant and no sentence is in two splits.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional
from torch import Tensor
from tqdm import tqdm

from speechbrain_mamba.corpora.mini.sentences import digit_string, make_sentences
from speechbrain_mamba.corpora.mini.voices import Speaker, make_speakers
from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.manifests import SPLITS
from speechbrain_mamba.text.espeak import espeak_version, phonemes, synthesize
from speechbrain_mamba.text.espeak_engine import ESPEAK_RATE
from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.stamps import Stamp
from speechbrain_mamba.utils.waiting import one_at_a_time

logger = logging.getLogger(__name__)

_STAMP = "corpus.json"
_VERSION = 1  # of the corpus: raised whenever the same parameters make other files
_SILENCE_DB = -45  # relative to the utterance's peak
_MARGIN = 0.05  # seconds kept around the speech
_NOISE = 1e-4  # RMS of the noise floor, full scale is 1: 50 dB below the speech


def _trim(signal: Tensor, sample_rate: int) -> Tensor:
    """Remove the silence at both ends except for a margin."""
    loud = torch.nonzero(signal.abs() > signal.abs().max() * 10 ** (_SILENCE_DB / 20))
    margin = round(_MARGIN * sample_rate)
    return signal[max(0, int(loud[0]) - margin) : int(loud[-1]) + 1 + margin]


def speak(text: str, speaker: Speaker, sample_rate: int, rng: np.random.Generator) -> Tensor:
    """A text by a speaker, (samples,), trimmed and with a floor of noise."""
    signal, _ = synthesize(
        text,
        voice=speaker.accent,
        variant=speaker.variant,
        pitch=speaker.pitch,
        pitch_range=speaker.pitch_range,
        # compensates for the playback rate, so that the pace is that of the speaker
        rate=round(speaker.rate * ESPEAK_RATE / speaker.played_rate),
    )
    signal = torchaudio.functional.resample(
        signal, speaker.played_rate, sample_rate, lowpass_filter_width=32, rolloff=0.95
    )
    signal = _trim(signal, sample_rate)
    # Pauses of espeak-ng are digital silence, unlike those of a recording.
    signal = signal + torch.from_numpy(rng.normal(0.0, _NOISE, len(signal))).float()
    return signal / max(1.0, float(signal.abs().max()) / 0.99)


def _write_speaker(task: tuple[Path, Speaker, list[list[str]], int, int]) -> float:
    """Write all chapters of one speaker; returns the seconds of speech."""
    folder, speaker, chapters, sample_rate, seed = task
    rng = np.random.default_rng((seed, int(speaker.id)))
    torch.set_num_threads(1)
    seconds = 0.0
    for chapter, texts in enumerate(chapters, start=1):
        if not texts:
            continue
        name = f"{speaker.id}-{chapter}"
        place = folder / speaker.split / speaker.id / str(chapter)
        place.mkdir(parents=True)
        transcripts, pronunciations = [], []
        for index, text in enumerate(texts):
            signal = speak(text, speaker, sample_rate, rng)
            write_audio(place / f"{name}-{index:04d}.wav", signal, sample_rate)
            transcripts.append(f"{name}-{index:04d} {text.upper()}\n")
            pronunciations.append(f"{name}-{index:04d} {phonemes(text, speaker.accent)}\n")
            seconds += len(signal) / sample_rate
        (place / f"{name}.trans.txt").write_text("".join(transcripts), encoding="utf-8")
        (place / f"{name}.phonemes.txt").write_text("".join(pronunciations), encoding="utf-8")
    return seconds


def _assign_texts(
    speakers: list[Speaker], sentences: int, digit_strings: int, distinct: int, rng: np.random.Generator
) -> Iterator[list[list[str]]]:
    """The chapters of each speaker. The speakers of a split take turns in reading its sentences."""
    pool = make_sentences(distinct, rng)
    first, second = round(0.8 * distinct), round(0.88 * distinct)
    pools = dict(zip(SPLITS, (pool[:first], pool[first:second], pool[second:])))
    position = dict.fromkeys(SPLITS, 0)
    for speaker in speakers:
        own, start = pools[speaker.split], position[speaker.split]
        position[speaker.split] = start + sentences
        read = [own[index % len(own)] for index in range(start, start + sentences)]
        digits = [digit_string(int(rng.integers(3, 8)), rng) for _ in range(digit_strings)]
        yield [read, digits]


def _speakers_table(speakers: list[Speaker], seconds: list[float]) -> str:
    lines = [";ID  |SEX| SUBSET | MINUTES | NAME\n"]
    for speaker, duration in zip(speakers, seconds):
        voice = f"{speaker.accent}+{speaker.variant}, pitch {speaker.pitch}, {speaker.rate} words per minute"
        sex = "F" if speaker.high else "M"
        lines.append(f"{speaker.id:<5}| {sex} | {speaker.split:<6} | {duration / 60:<7.2f} | {voice}\n")
    return "".join(lines)


def build_mini_corpus(
    folder: str | os.PathLike,
    sample_rate: int = 16000,
    seed: int = 1234,
    speakers: Sequence[int] = (40, 6, 8),
    sentences: int = 26,
    digit_strings: int = 4,
    distinct_sentences: int = 1200,
    processes: int | None = None,
) -> Path:
    """Build the embedded corpus. If the folder has it already, built with the same settings, it is kept.

    The same seed makes the same files, bit by bit, on the same machine. The folder appears when all files are written.

    Arguments
    ---------
    folder : str or Path
        Where the corpus goes.
    sample_rate : int
        Samples per second. espeak-ng speaks at 22050 Hz; a higher rate gains nothing.
    seed : int
        Chooses speakers and texts.
    speakers : sequence of int
        Speakers for training, validation and test.
    sentences : int
        Sentences that each speaker reads.
    digit_strings : int
        Strings of 3 to 7 digits that each speaker reads.
    distinct_sentences : int
        Distinct sentences in the corpus: 80 % of them are read in training, 8 % in validation and 12 % in test.
    processes : int, optional
        Number of processes; that of the cores by default.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ImportError
        When espeak-ng is not installed.
    ValueError
        When the folder holds other files or a corpus with other settings, or a count is too small.

    Example
    -------
    >>> import pytest
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> folder = getfixture("tmp_path") / "mini"
    >>> folder = build_mini_corpus(folder, sample_rate=8000, speakers=(1, 1, 1), sentences=2, digit_strings=1)
    >>> sorted(path.name for path in (folder / "test").rglob("*.wav"))
    ['300-1-0000.wav', '300-1-0001.wav', '300-2-0000.wav']
    """
    corpus = Path(folder).absolute()
    counts = {
        "sample_rate": sample_rate, "sentences": sentences, "digit_strings": digit_strings,
        "distinct_sentences": distinct_sentences,
    }  # fmt: skip
    for (name, count), least in zip(counts.items(), (1000, 0, 0, 25)):
        if count < least:
            raise ValueError(f"build_mini_corpus: {name} is {count}, but must be at least {least}.")
    if not sentences + digit_strings:
        raise ValueError("build_mini_corpus: sentences and digit_strings are both 0, so that nobody says anything.")
    parameters = {"version": _VERSION, "seed": seed, "speakers": list(speakers), **counts}
    stamp = Stamp(corpus / _STAMP, parameters)
    if not _is_built(stamp):
        with one_at_a_time(corpus):
            if not _is_built(stamp):  # by the process that this one waited for
                _build(stamp, processes)
    return corpus


def _is_built(stamp: Stamp) -> bool:
    """Whether the corpus is there; ValueError if the folder holds something else."""
    stamp.check_folder()
    if not stamp.is_done() and stamp.path.is_file():
        raise ValueError(
            f"The mini corpus in '{stamp.path.parent}' was built with other settings ({', '.join(stamp.differences())})"
            ": choose another folder, or remove it."
        )
    return stamp.path.is_file()


def _build(stamp: Stamp, processes: int | None) -> None:
    corpus, settings = stamp.path.parent, stamp.settings
    version = espeak_version()
    rng = np.random.default_rng(settings["seed"])
    cast = make_speakers(settings["speakers"], rng)
    counts = {name: settings[name] for name in ("sentences", "digit_strings")}
    texts = list(_assign_texts(cast, **counts, distinct=settings["distinct_sentences"], rng=rng))
    # espeak-ng carries state from text to text. Each speaker gets a new process, so that the files do not depend on
    # what a process spoke before.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    with atomic_path(corpus) as temporary:
        rate, seed = settings["sample_rate"], settings["seed"]
        tasks = [(temporary, speaker, chapters, rate, seed) for speaker, chapters in zip(cast, texts)]
        with multiprocessing.get_context(method).Pool(processes, maxtasksperchild=1) as pool:
            results = pool.imap(_write_speaker, tasks, chunksize=1)
            seconds = list(tqdm(results, total=len(tasks), desc="Building the mini corpus", unit="speaker"))
            pool.close()
            pool.join()  # without which a process that is just being started is left behind
        (temporary / "SPEAKERS.TXT").write_text(_speakers_table(cast, seconds), encoding="utf-8")
        hours = round(sum(seconds) / 3600, 3)
        facts = {"espeak-ng": version, "hours": hours, "speakers": [asdict(speaker) for speaker in cast]}
        Stamp(temporary / _STAMP, settings).finish(**facts)
    logger.info("Built the mini corpus in %s: %d speakers, %.0f minutes.", corpus, len(cast), sum(seconds) / 60)
