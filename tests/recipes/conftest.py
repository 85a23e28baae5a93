"""A small corpus of buzzing voices, and recipes run in this process."""

import csv
import importlib
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from speechbrain_mamba.dataio.audio import write_audio

ROOT = Path(__file__).parents[2]
RATE = 8000
SPEAKERS = 3


def buzz(f0, seconds, seed):
    """A voice: harmonics of a wavering fundamental, with pauses."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(round(seconds * RATE)) / RATE
    phase = 2 * torch.pi * f0 * (t + 0.01 * torch.sin(2 * torch.pi * 3 * t))
    signal = sum(torch.sin(k * phase) / k for k in range(1, 8))
    envelope = torch.rand(len(t) // 400 + 1, generator=generator).repeat_interleave(400)[: len(t)]
    return 0.2 * signal * envelope + 1e-3 * torch.randn(len(t), generator=generator)


def table(path):
    """The rows of a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_set(folder, fault):
    """A prepared data set with one mixture, and a fault in it."""
    mix, s1, s2 = (buzz(f0, 0.25, seed=f0) for f0 in (100, 120, 150))
    signals = {"mix": mix, "s1": s1, "s2": s2}
    rate, channels = RATE, 1
    if fault == "rate":
        rate = 16000
    elif fault == "stereo":
        channels = 2
    elif fault == "nan":
        signals["s1"][100] = float("nan")
    elif fault == "unequal":
        signals["s2"] = s2[:-7]
    for key, value in signals.items():
        data = value.numpy()
        soundfile.write(folder / f"{key}.wav", data if channels == 1 else data[:, None].repeat(2, 1), rate, "FLOAT")
    if fault == "unreadable":
        (folder / "s1.wav").write_bytes(b"RIFFnothing")
    elif fault == "empty":
        soundfile.write(folder / "s1.wav", s1.numpy()[:0], rate)
    (folder / "out" / "save").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (folder / "out" / "save" / f"{split}.csv").write_text(
            "ID,duration,mix_wav,s1_wav,s2_wav\na,0.25,$data_root/mix.wav,$data_root/s1.wav,$data_root/s2.wav\n"
        )


@pytest.fixture
def drawn():
    """For tests that look at pictures."""


@pytest.fixture(autouse=True)
def _figures(request):
    """Do not draw pictures otherwise: that takes half the time of a tiny run."""
    if "drawn" not in request.fixturenames:
        request.getfixturevalue("figures")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Folders train, valid and test of three voices each, two utterances a voice."""
    folder = tmp_path_factory.mktemp("corpus")
    for i, split in enumerate(("train", "valid", "test")):
        for j in range(3):
            for k in range(2):
                path = folder / split / f"{split}{j}" / f"{k}.wav"
                write_audio(path, buzz(80 + 25 * i + 60 * j, 0.6, seed=10 * j + k), RATE)
    return folder


def import_separation(monkeypatch):
    """The module of the separation recipe, imported anew; the one place that knows where it is."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "separation"))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # SpeechBrain replaces it
    sys.modules.pop("train", None)
    return importlib.import_module("train")


@pytest.fixture
def separation(monkeypatch):
    """The module of the separation recipe."""
    return import_separation(monkeypatch)
