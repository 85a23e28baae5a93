"""The report on a codec, with one that shouts."""

import csv
import json
import math

import pytest
import torch
from torch import nn

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.evaluation.codec_report import CodecReport

RATE = 8000


class Loud(nn.Module):
    """A codec of frames of 500 samples whose decoder shouts as loudly as its codebooks together say."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def encode(self, wavs):
        assert not self.training and not torch.is_grad_enabled()
        frames = -(-wavs.shape[1] // 500)
        return torch.tensor([7, 4, 10]).expand(1, frames, 3), torch.tensor([frames])

    def decode(self, codes, lengths):
        assert lengths.tolist() == [codes.shape[1]]
        return torch.full((1, 500 * codes.shape[1]), 0.1 * int(codes[0, 0].sum())), 500 * lengths


def utterances():
    for i in range(3):
        time = torch.arange(2400 + 800 * i) / RATE
        yield {"id": f"test{i}", "sig": 0.3 * torch.sin(2 * torch.pi * (200 + 50 * i) * time), "wrd": "one two"}


@pytest.fixture
def pictures(monkeypatch):
    """What would be drawn, by file name."""
    drawn = {}
    monkeypatch.setattr(
        "speechbrain_mamba.evaluation.codec_report.plot_spectrograms",
        lambda path, sounds, rate: drawn.update({str(path): (sounds, rate)}),
    )
    return drawn


def test_examples_have_the_length_of_the_recording_and_do_not_clip(tmp_path, pictures):
    report = CodecReport(tmp_path, Loud(), RATE, n_examples=2)
    report.add_dataset(utterances())
    folder = tmp_path / "examples"
    assert list(pictures) == [str(folder / "test0.png"), str(folder / "test1.png")]
    for i, (sounds, rate) in enumerate(pictures.values()):
        assert list(sounds) == ["original", "reconstruction"] and rate == RATE
        original, reconstruction = (read_audio(folder / f"test{i}_{kind}.wav", RATE) for kind in sounds)
        assert torch.allclose(original, list(utterances())[i]["sig"], atol=1e-4)
        assert torch.allclose(reconstruction, torch.ones(2400 + 800 * i), atol=1e-3)
    assert len(list(folder.iterdir())) == 4


def test_words_are_counted_in_recordings_and_after_all_and_after_one_codebook(tmp_path, pictures):
    heard = []

    def recognize(wav, rate):
        heard.append((len(wav), round(float(wav.max()), 1), rate))
        return {0.3: "One, two!", 2.1: "one", 0.7: "three two one"}[heard[-1][1]]

    report = CodecReport(tmp_path, Loud(), RATE, recognize, n_examples=0)
    report.add_dataset(utterances())
    assert heard == [(length, level, RATE) for length in (2400, 3200, 4000) for level in (0.3, 2.1, 0.7)]
    rates = {"reference_wer": 0, "wer": 50, "first_codebook_wer": 100}
    assert report.write() == {"utterances": 3, **rates}
    assert json.loads((tmp_path / "word_errors.json").read_text()) == {"utterances": 3, **rates}
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("id") for row in rows] == ["test0", "test1", "test2"]
    assert all({name: float(rate) for name, rate in row.items()} == rates for row in rows)
    assert not pictures and not (tmp_path / "reconstruction.json").exists()


def test_losses_are_means_over_batches_and_the_perplexity_is_that_of_all_codes(tmp_path):
    report = CodecReport(tmp_path, Loud(), RATE)
    report.add_losses({"mel": 1.0, "time": 2.0}, torch.tensor([[2, 2], [0, 0]]))
    report.add_losses({"mel": 4.0, "time": 2.5}, torch.tensor([5, 5, 7, 7]))
    assert report.losses() == pytest.approx({"mel": 2.5, "time": 2.25, "perplexity": 4.0})
    report.add_losses({"mel": 4.0, "time": 4.5}, torch.tensor([2] * 8))
    entropy = -(10 / 16 * math.log(10 / 16) + 3 * 2 / 16 * math.log(2 / 16))
    expected = {"mel": 3.0, "time": 3.0, "perplexity": math.exp(entropy)}
    assert report.write() == pytest.approx(expected)
    assert json.loads((tmp_path / "reconstruction.json").read_text()) == pytest.approx(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["reconstruction.json"]


def test_a_recognizer_without_utterances_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="No utterance was tested"):
        CodecReport(tmp_path, Loud(), RATE, recognize=lambda wav, rate: "").write()
