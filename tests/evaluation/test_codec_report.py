"""The report on a codec, with one that shouts."""

import csv
import json
import math

import pytest
import torch
from torch import nn

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.evaluation.codec_report import CodecReport
from speechbrain_mamba.utils.distributed import merge

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
    assert all({name: float(rate) for name, rate in row.items() if rate} == rates for row in rows)
    assert not pictures and not (tmp_path / "reconstruction.json").exists()


def test_losses_are_means_over_samples_and_the_perplexity_is_that_of_all_codes(tmp_path):
    report = CodecReport(tmp_path, Loud(), RATE)
    assert report.losses() == {}
    report.add_losses({"mel": 1.0, "time": 2.0}, torch.tensor([[2, 2], [0, 0]]), samples=100)
    report.add_losses({"mel": 4.0, "time": 2.5}, torch.tensor([5, 5, 7, 7]), samples=200)
    assert report.losses() == pytest.approx({"mel": 3.0, "time": 7 / 3, "perplexity": 4.0})
    report.add_utterance_losses("a", {"mel": 4.0, "time": 4.5}, torch.tensor([2] * 8), samples=300)
    entropy = -(10 / 16 * math.log(10 / 16) + 3 * 2 / 16 * math.log(2 / 16))
    expected = {"utterances": 1, "mel": 3.5, "time": 3.0 + 5 / 12, "perplexity": math.exp(entropy)}
    assert report.write() == pytest.approx(expected)
    assert json.loads((tmp_path / "reconstruction.json").read_text()) == pytest.approx(expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reconstruction.json", "results.csv"]
    assert (tmp_path / "results.csv").read_text().split() == ["id,mel,time", "a,4.0,4.5"]


def test_processes_put_their_losses_together(tmp_path):
    whole, *parts = (CodecReport(tmp_path, Loud(), RATE) for _ in range(3))
    for place, (mel, codes, samples) in enumerate([(1.0, [5, 7], 100), (4.0, [2], 300)]):
        for report in (whole, parts[place]):
            report.add_utterance_losses(f"u{place}", {"mel": mel, "time": 0.5}, torch.tensor(codes), samples)
    merged = CodecReport(tmp_path, Loud(), RATE)
    for name in CodecReport.collected:
        setattr(merged, name, merge([getattr(part, name) for part in parts]))
    assert merged.losses() == whole.losses() and merged.rows == whole.rows


class Broken(Loud):
    """A codec that is loud but for utterances of 3200 samples, which it cannot say."""

    def decode(self, codes, lengths):
        wavs, lengths = super().decode(codes, lengths)
        return wavs * (float("nan") if codes.shape[1] == 7 else 1), lengths


@pytest.mark.parametrize("recognizer", [True, False])
def test_silence_and_what_is_not_finite_are_named_and_not_counted(tmp_path, pictures, caplog, recognizer):
    recognize = (lambda wav, rate: "one") if recognizer else None
    report = CodecReport(tmp_path, Broken(), RATE, recognize, n_examples=9)
    report.add_utterance_losses("test0", {"mel": 2.0, "time": 1.0}, torch.tensor([1]), samples=10)
    report.add_unscored("silent", "the recording is silent")
    report.add_utterance_losses("test2", {"mel": math.nan, "time": 1.0}, torch.tensor([1]), samples=99)
    report.add_dataset([{"id": "silent", "sig": torch.zeros(800), "wrd": ""}, *utterances()])
    summary = report.write()
    assert (summary["utterances"], summary["unscored"]) == (4, 3)
    if recognizer:
        assert summary["wer"] == 50  # of the first one alone
    else:
        assert summary["mel"] == 2.0
    with open(tmp_path / "results.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == ["silent", "test0", "test1", "test2"] and rows["test0"]["mel"] == "2.0"
    assert rows["silent"]["unscored"] == "the recording is silent" and not rows["test0"]["unscored"]
    assert rows["test1"]["unscored"] == rows["test2"]["unscored"] == "the reconstruction is not finite"
    assert "silent (the recording is silent), test2 (" in caplog.text
    assert list(pictures) == [str(tmp_path / "examples" / "test0.png")]


def test_a_recognizer_without_utterances_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="No utterance was tested"):
        CodecReport(tmp_path, Loud(), RATE, recognize=lambda wav, rate: "").write()
