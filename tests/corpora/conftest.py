"""Small data sets."""

import csv

import torch

from speechbrain_mamba.dataio.audio import write_audio

SMALL = {"seconds": (0.3, 0.5), "train_mixtures": 3, "valid_mixtures": 2, "test_mixtures": 2}


def write_noise(path, seconds=0.4, sample_rate=8000):
    torch.manual_seed(len(str(path)))
    write_audio(path, 0.1 * torch.randn(round(seconds * sample_rate)), sample_rate)


def write_speakers(folder, speakers, **settings):
    for speaker in speakers:
        for index in range(2):
            write_noise(folder / speaker / "book" / f"{index}.flac", **settings)
    return folder


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def speakers_of(manifest):
    """The speakers of the mixtures, which are in their IDs."""
    return {speaker for row in read_rows(manifest) for speaker in row["ID"].split("_")[1:]}
