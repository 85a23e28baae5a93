"""Strings of digits from FSDD, the Free Spoken Digit Dataset: takes of one speaker, one after the other."""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional

from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.corpus import parallel_map
from speechbrain_mamba.dataio.prepare import is_prepared, mark_prepared
from speechbrain_mamba.dataio.recognition import write_transcripts
from speechbrain_mamba.dataio.sentences import DIGITS

TAKES = {"train": range(10, 50), "valid": range(5, 10), "test": range(5)}
FSDD_RATE = 8000
PAUSE = (0.05, 0.25)  # seconds


def find_takes(data_folder):
    """The files of each speaker and digit by split: {split: {speaker: {digit: [paths]}}}."""
    folder = Path(data_folder)
    folder = folder / "recordings" if (folder / "recordings").is_dir() else folder
    takes = {split: defaultdict(lambda: defaultdict(list)) for split in TAKES}
    for path in sorted(folder.glob("*.wav")):
        match = re.fullmatch(r"(\d)_(\w+)_(\d+)", path.stem)
        if match:
            split = next((split for split, numbers in TAKES.items() if int(match[3]) in numbers), None)
            if split:
                takes[split][match[2]][int(match[1])].append(path)
    if not takes["train"]:
        raise FileNotFoundError(f"'{folder}' has no files like 7_jackson_32.wav: give the folder of FSDD.")
    return takes


def draw_strings(speakers, count, rng):
    """Draw speakers, 3 to 7 digits, a take of each and the pauses around them."""
    for _ in range(count):
        speaker = sorted(speakers)[rng.integers(len(speakers))]
        digits = rng.integers(10, size=rng.integers(3, 8)).tolist()
        files = [speakers[speaker][digit][rng.integers(len(speakers[speaker][digit]))] for digit in digits]
        yield speaker, digits, files, rng.uniform(*PAUSE, size=len(digits) + 1)


def prepare_fsdd_digits(data_folder, save_folder, sample_rate=8000, seed=1234, counts=(2000, 100, 300)):
    """Write strings of digits, and a CSV file per split: takes 0-4 are for the test, 5-9 for validation.

    Arguments
    ---------
    data_folder : str or Path
        FSDD, with its folder ``recordings``.
    save_folder : str or Path
        Where the CSV files and, in ``strings/``, the audio go.
    sample_rate : int
        Of the strings, in Hz.
    seed : int
        Of all draws.
    counts : tuple of int
        Strings for training, validation and test.

    Returns
    -------
    dict of str to Path
        The files, with the columns ID, duration (seconds), wav, wrd and spk_id.
    """
    save_folder = Path(save_folder).absolute()
    manifests = {split: save_folder / f"{split}.csv" for split in TAKES}
    settings = {"fsdd": str(Path(data_folder).absolute()), "sample_rate": sample_rate, "seed": seed, "counts": counts}
    if all(path.is_file() for path in manifests.values()) and is_prepared(save_folder, settings):
        return manifests
    takes, rng = find_takes(data_folder), np.random.default_rng(seed)
    for split, count in zip(TAKES, counts):
        drawn = list(enumerate(draw_strings(takes[split], count, rng)))

        def write(task, split=split):
            index, (speaker, digits, files, pauses) = task
            parts = [torch.zeros(round(pauses[0] * FSDD_RATE))]
            for file, pause in zip(files, pauses[1:]):
                parts += [read_audio(file, FSDD_RATE), torch.zeros(round(pause * FSDD_RATE))]
            signal = torchaudio.functional.resample(torch.cat(parts), FSDD_RATE, sample_rate)
            path = save_folder / "strings" / split / f"{split}-{index:05d}.wav"
            write_audio(path, signal.clamp(-1, 1), sample_rate)
            words = " ".join(DIGITS[digit] for digit in digits).upper()
            return {"ID": path.stem, "duration": len(signal) / sample_rate, "wav": str(path), "wrd": words,
                    "spk_id": speaker}  # fmt: skip

        write_transcripts(manifests[split], parallel_map(write, drawn, f"Writing digits for {split}", "string"))
    mark_prepared(save_folder, settings)
    return manifests
