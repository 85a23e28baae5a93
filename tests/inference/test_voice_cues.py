"""What tells voices apart."""

import numpy as np
import pytest
import torch

from speechbrain_mamba.inference.voice_cues import EmbeddingCues, VoiceCues
from tests.inference.test_long_separation import voice


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("pitch", [90, 150, 280])
def test_pitch_is_that_of_the_voice(rate, pitch):
    time = torch.arange(2 * rate) / rate
    tone = sum(torch.cos(2 * torch.pi * k * pitch * time) / k for k in range(1, 10))
    found = VoiceCues(rate)(torch.stack([tone, 0.01 * torch.randn(2 * rate)]))
    assert found.means[0, 0] == pytest.approx(12 * np.log2(pitch), abs=0.3)
    assert found.counts[0, 0] > 100 and not found.counts[1].any()


def test_features_do_not_depend_on_the_level():
    speech = torch.stack([voice(120, 1.0, 3.0, lambda t: t < 1.5), voice(210, 1.0, 3.0, lambda t: t > 1.6)])
    cues = VoiceCues(8000)
    first, second = cues(speech), cues(0.01 * speech)
    assert np.allclose(first.means, second.means, atol=0.05) and np.array_equal(first.counts, second.counts)
    assert (first.counts[:, 1:] > 50).all()
    assert abs(first.means[0, 0] - 12 * np.log2(120)) < 1 and abs(first.means[1, 0] - 12 * np.log2(210)) < 1


def test_two_voices_at_once_tell_nothing():
    speech = torch.stack([voice(120, 1.0, 2.0), voice(120, 1.0, 2.0)])
    assert not VoiceCues(8000)(speech).counts.any()


def test_an_encoder_gets_the_speech_of_one_voice_at_its_rate():
    heard = []

    class Classifier:
        hparams = type("", (), {"sample_rate": 16000})

        def encode_batch(self, wavs):
            heard.append(wavs.shape)
            return torch.ones(1, 1, 4)

    cues = EmbeddingCues(Classifier(), 8000)
    silent = cues(torch.zeros(2, 8000))
    assert silent.counts.shape == (2, 0) and not heard
    speech = torch.zeros(2, 24000)
    speech[0, :16000] = torch.randn(16000)
    found = cues(speech)
    assert [shape[0] for shape in heard] == [1] and abs(heard[0][1] - 32000) < 600
    assert np.allclose(found.means, [[0.5] * 4, [0] * 4]) and found.counts[0, 0] == pytest.approx(2 / 1.5, abs=0.03)
    assert not found.counts[1].any() and cues.model.within.shape == (4,)
