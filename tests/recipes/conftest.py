"""A small corpus of buzzing voices, and recipes run in this process."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio

ROOT = Path(__file__).parents[2]
RATE = 8000


def buzz(f0, seconds, seed):
    """A voice: harmonics of a wavering fundamental, with pauses."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(round(seconds * RATE)) / RATE
    phase = 2 * torch.pi * f0 * (t + 0.01 * torch.sin(2 * torch.pi * 3 * t))
    signal = sum(torch.sin(k * phase) / k for k in range(1, 8))
    envelope = torch.rand(len(t) // 400 + 1, generator=generator).repeat_interleave(400)[: len(t)]
    return 0.2 * signal * envelope + 1e-3 * torch.randn(len(t), generator=generator)


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
    for name in ("train", "prepare_folder", "prepare_fsdd", "prepare_wsj0mix"):
        sys.modules.pop(name, None)
    return importlib.import_module("train")


@pytest.fixture
def separation(monkeypatch):
    """The module of the separation recipe."""
    return import_separation(monkeypatch)
