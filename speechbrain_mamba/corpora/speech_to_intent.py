"""The clean speech of Picovoice's speech-to-intent benchmark: real voices, each before a microphone of its own.

It is a git repository (Picovoice/speech-to-intent-benchmark, Apache-2.0) with ``data/speech/clean/{uuid}.wav``: 619
spoken orders of coffee at 16 kHz, crowd-sourced from more than 50 speakers with about ten orders each. Who speaks in a
file is not said, so every file counts as a speaker of its own: two of a mixture are the same person in about 2 % of all
mixtures.

Two thirds of the recordings are pauses, mostly before and after the order; they are removed.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor

from speechbrain_mamba.corpora.mixtures import MixtureSettings, prepare_mixtures
from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.audio_files import SkippedFiles, find_audio, scan_audio
from speechbrain_mamba.dataio.manifests import SPLITS
from speechbrain_mamba.dataio.utterances import Utterance
from speechbrain_mamba.utils.parallel import parallel_map

_RATE = 16000
_FRAME = 0.02  # seconds
_LOUD = 0.97  # the quantile of the frames' levels that counts as the level of the speech
_BELOW_DB = 35.0
_MARGIN = 0.1  # seconds kept around speech
_FRACTIONS = {"train": 0.8, "valid": 0.1, "test": 0.1}
_SEED = 1234  # of the splits, which are the same in all experiments


def find_clean_speech(data_folder: str | os.PathLike) -> Path:
    """The folder of the clean speech: ``data/speech/clean`` in the clone of the repository, or that folder itself.

    Raises a FileNotFoundError when there is no such folder.
    """
    folder = Path(data_folder).absolute()
    inside = folder / "data" / "speech" / "clean"
    folder = inside if inside.is_dir() else folder
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The data folder '{folder}' does not exist: it should be a clone of speech-to-intent-benchmark, with "
            "data/speech/clean/*.wav."
        )
    return folder


def remove_pauses(signal: Tensor, sample_rate: int, below_db: float = _BELOW_DB, margin: float = _MARGIN) -> Tensor:
    """Remove the pauses of a recording, except for a margin before and after speech.

    Arguments
    ---------
    signal : Tensor
        The recording (samples,).
    sample_rate : int
        Its samples per second.
    below_db : float
        A pause is this much softer than the loudest speech, which is the loudest 3 % of the frames.
    margin : float
        Seconds of a pause that stay at either end.

    Example
    -------
    >>> speech, silence = torch.ones(800), torch.zeros(8000)
    >>> len(remove_pauses(torch.cat([silence, speech, silence]), 8000, margin=0.1))
    2400
    """
    size = round(_FRAME * sample_rate)
    count = len(signal) // size
    if not count:
        return signal
    levels = 10 * torch.log10(signal[: count * size].view(count, size).square().mean(1) + 1e-12)
    loud = (levels > torch.quantile(levels, _LOUD) - below_db).float()
    reach = round(margin / _FRAME)
    kept = F.max_pool1d(loud[None], 2 * reach + 1, stride=1, padding=reach)[0] > 0
    return signal[: count * size].view(count, size)[kept].flatten()


def split_speech(names: list[str]) -> dict[str, list[str]]:
    """Divide the files among ``train``, ``valid`` and ``test``, always in the same way: 80, 10 and 10 %.

    The speakers of a split are not known, so most of them speak in other splits too.

    Example
    -------
    >>> [len(names) for names in split_speech([f"{number:03d}.wav" for number in range(20)]).values()]
    [16, 2, 2]
    """
    order = [sorted(names)[index] for index in np.random.default_rng(_SEED).permutation(len(names))]
    held_out = {split: max(1, round(_FRACTIONS[split] * len(names))) for split in ("valid", "test")}
    first, last = held_out["valid"], held_out["valid"] + held_out["test"]
    return {"train": order[last:], "valid": order[:first], "test": order[first:last]}


def find_speech(
    data_folder: str | os.PathLike, speech_folder: str | os.PathLike, sample_rate: int, skipped: SkippedFiles
) -> dict[str, list[Utterance]]:
    """Write the speech without its pauses, and list it.

    Arguments
    ---------
    data_folder : str or Path
        The clone of the repository, or its folder of clean speech.
    speech_folder : str or Path
        Where the files go.
    sample_rate : int
        Samples per second of the files.
    skipped : SkippedFiles
        Gets the files that cannot be used.

    Returns
    -------
    dict of str to list of Utterance
        The speech of ``train``, ``valid`` and ``test``, each file with a speaker of its own.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such folder or no speech in it, or a file is not mono or has another rate than 16 kHz.
    """
    root, target = find_clean_speech(data_folder), Path(speech_folder).absolute()
    found = list(scan_audio([root / path for path in find_audio(root)], _RATE, skipped, f"Reading {root.name}"))
    if len(found) < len(SPLITS):
        raise ValueError(f"The data folder '{root}' has {len(found)} usable .wav file(s): clone the repository again.")
    write = functools.partial(_write_speech, target, sample_rate)
    speech = {utterance.speaker: utterance for utterance in parallel_map(write, found, "Removing pauses", "file")}
    return {split: [speech[Path(name).stem] for name in sorted(names)]
            for split, names in split_speech([path.name for path in found]).items()}  # fmt: skip


def _write_speech(folder: Path, sample_rate: int, path: Path) -> Utterance:
    signal = remove_pauses(read_audio(path, _RATE), _RATE)
    signal = torchaudio.functional.resample(signal, _RATE, sample_rate)
    write_audio(folder / f"{path.stem}.wav", signal.clamp(-1, 1), sample_rate)
    return Utterance(str(folder / f"{path.stem}.wav"), path.stem, len(signal))


def prepare_speech_to_intent(
    data_folder: str | os.PathLike, save_folder: str | os.PathLike, **options: Any
) -> dict[str, Path]:
    """Make mixtures, with manifests.

    The data folder is the clone of the repository, or its folder of clean speech. The speech without its pauses goes to
    ``speech/`` in the save folder. Options, results and errors are those of
    :func:`~speechbrain_mamba.corpora.folder.prepare_folder`.
    """
    root, settings, skipped = find_clean_speech(data_folder), MixtureSettings(**options), SkippedFiles()

    def find_splits() -> dict[str, list[Utterance]]:
        return find_speech(root, Path(save_folder) / "speech", settings.sample_rate, skipped)

    return prepare_mixtures(save_folder, settings, {"speech_to_intent": str(root)}, find_splits, skipped)
