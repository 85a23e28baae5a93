"""The recordings that come with the package."""

import pytest
import torch

from speechbrain_mamba.corpora.mini.samples import SAMPLE_RATE, SAMPLES, make_samples
from speechbrain_mamba.corpora.mini.sentences import DIGITS
from speechbrain_mamba.dataio.audio import read_audio


def test_samples_are_speech_of_digits():
    for sample in SAMPLES:
        signal = read_audio(sample.path, SAMPLE_RATE)
        assert 0.15 < len(signal) / SAMPLE_RATE / len(sample.text.split()) < 0.6
        assert 0.02 < signal.square().mean().sqrt() < 0.3
        assert set(sample.text.split()) <= set(DIGITS)


def test_samples_are_what_espeak_says(tmp_path):
    pytest.importorskip("espeakng_loader")
    for sample, path in zip(SAMPLES, make_samples(tmp_path)):
        made, kept = read_audio(path), read_audio(sample.path)
        assert len(made) == pytest.approx(len(kept), rel=0.1)
        spectra = [
            torch.stft(s, 512, window=torch.hann_window(512), return_complex=True).abs().mean(1) for s in (made, kept)
        ]
        assert torch.corrcoef(torch.stack(spectra))[0, 1] > 0.9
