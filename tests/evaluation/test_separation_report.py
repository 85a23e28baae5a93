"""The report on separation: tables, means and examples of three speakers."""

from __future__ import annotations

import csv
import json
import math

import mir_eval
import pytest
import torch
from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio

from speechbrain_mamba.dataio.audio import audio_info, read_audio
from speechbrain_mamba.evaluation.report import format_summary
from speechbrain_mamba.evaluation.separation_report import SeparationReport

SCORES = ["si_snr", "si_snr_i", "sdr", "sdr_i"]
PLOT = "speechbrain_mamba.evaluation.separation_report.plot_spectrograms"
ORDER = [1, 2, 0]
"""Which source each estimate is of."""


def mixture(noise: float, level: float = 0.3):
    """A mixture of three speakers, the speakers, and estimates in another order and at another level."""
    sources = level * torch.randn(1000, 3) * torch.tensor([1.0, 0.7, 0.4])
    estimates = sources + noise * level * torch.randn(1000, 3)
    return sources.sum(1), sources, 0.5 * estimates[:, ORDER]


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def pictures(monkeypatch):
    """What would be drawn: by file name the signals by title, and the rate."""
    drawn = {}

    def plot(path, signals, sample_rate):
        drawn[str(path)] = (signals, sample_rate)

    monkeypatch.setattr(PLOT, plot)
    return drawn


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_row_has_the_scores_of_its_mixture(tmp_path):
    report = SeparationReport(tmp_path, 8000, n_examples=0)
    mix, sources, estimates = mixture(0.3)
    report.add("first", *mixture(1.0))
    report.add("second", mix, sources, estimates)
    report.write()
    assert (tmp_path / "results.csv").read_text().splitlines()[0] == "id,si_snr,si_snr_i,sdr,sdr_i,unscored"
    first, second = table(tmp_path / "results.csv")
    assert (first["id"], second["id"]) == ("first", "second")

    mixtures, sources = mix.expand(3, -1).double(), sources.T.double()
    scores = []
    for signals in (estimates.T[[2, 0, 1]].double(), mixtures):
        sdr = mir_eval.separation.bss_eval_sources(sources.numpy(), signals.numpy(), compute_permutation=False)[0]
        scores.append((float(scale_invariant_signal_noise_ratio(signals, sources).mean()), sdr.mean()))
    (si_snr, sdr), (mix_si_snr, mix_sdr) = scores
    expected = [si_snr, si_snr - mix_si_snr, sdr, sdr - mix_sdr]
    assert [float(second[name]) for name in SCORES] == pytest.approx(expected, abs=1e-3)


def test_the_summary_has_the_means_of_the_scores_that_are_defined(tmp_path, pictures):
    report = SeparationReport(tmp_path, 8000, n_examples=9)
    scores = [report.add(f"m{i}", *mixture(noise)) for i, noise in enumerate((0.1, 0.2, 3.0))]
    mix, sources, estimates = mixture(0.1)
    report.add("mute", mix, sources, estimates * torch.tensor([1.0, 0.0, 1.0]))
    report.add("broken", mix, sources, estimates * torch.tensor([1.0, math.nan, 1.0]))
    report.add("nobody", mix, sources * torch.tensor([1.0, 0.0, 1.0]), estimates)
    report.add("burst", mix, sources, estimates * torch.tensor([1.0, 1.0, math.inf]))
    summary = report.write()
    assert list(summary) == ["mixtures", "unscored", *SCORES]
    assert summary["mixtures"] == 7 and summary["unscored"] == 4
    for name in SCORES:
        assert summary[name] == pytest.approx(sum(getattr(score, name) for score in scores) / 3)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    rows = {row["id"]: row for row in table(tmp_path / "results.csv")}
    assert {name: row["unscored"] for name, row in rows.items()} == {
        "m0": "", "m1": "", "m2": "", "mute": "silent estimate", "broken": "estimate not finite",
        "nobody": "silent source", "burst": "estimate not finite",
    }  # fmt: skip
    assert not any(rows[name][score] for name in ("mute", "broken", "nobody", "burst") for score in SCORES)
    examples = {path.stem.partition("_")[0] for path in (tmp_path / "examples").glob("*.wav")}
    assert examples == {"m0", "m1", "m2", "mute", "nobody"}
    assert "mute: silent estimate; mix" in pictures[str(tmp_path / "examples" / "mute.png")][0]


def test_where_no_mixture_has_a_score_there_is_no_mean(tmp_path, pictures):
    report = SeparationReport(tmp_path, 8000, n_examples=1)
    report.add("nothing", torch.zeros(500), torch.zeros(500, 3), torch.zeros(500, 3))
    summary = report.write()
    assert summary == {"mixtures": 1, "unscored": 1, **dict.fromkeys(SCORES)}
    assert json.loads((tmp_path / "summary.json").read_text())["sdr"] is None
    assert not read_audio(tmp_path / "examples" / "nothing_mix.wav").any()
    assert [line.split()[-1] for line in format_summary(summary).splitlines()] == ["1", "1", "-", "-", "-", "-"]


@pytest.mark.parametrize("level", [0.01, 30.0])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_an_example_keeps_the_signals_in_the_order_and_proportion_of_the_sources(tmp_path, pictures, rate, level):
    report = SeparationReport(tmp_path, rate, n_examples=1)
    mix, sources, estimates = mixture(0.1, level)
    scores = report.add("a", mix, sources, estimates)
    files = {path.stem: path for path in (tmp_path / "examples").glob("*.wav")}
    names = ["mix", *(f"{kind}{i}" for kind in ("source", "estimate") for i in (1, 2, 3))]
    assert set(files) == {f"a_{name}" for name in names}
    assert all(audio_info(path).sample_rate == rate for path in files.values())
    aligned = estimates[:, [2, 0, 1]]
    aligned = aligned * (aligned * sources).sum(0) / aligned.square().sum(0)
    signals = torch.cat([mix[:, None], sources, aligned], 1)
    signals *= 0.9 / signals.abs().max()
    for name, signal in zip(names, signals.T):
        torch.testing.assert_close(read_audio(files[f"a_{name}"]), signal, atol=1e-4, rtol=0)

    drawn, drawn_rate = pictures[str(tmp_path / "examples" / "a.png")]
    title = f"a: SI-SNRi {scores.si_snr_i:.1f} dB, SDRi {scores.sdr_i:.1f} dB; mix"
    assert list(drawn) == [title, *names[1:]] and drawn_rate == rate
    for signal, expected in zip(drawn.values(), signals.T):
        torch.testing.assert_close(signal, expected, atol=1e-4, rtol=0)


def test_a_loud_estimate_is_not_clipped(tmp_path, pictures):
    report = SeparationReport(tmp_path, 8000, n_examples=1)
    mix, sources, estimates = mixture(0.1)
    estimates[:, 2] += 20 * sources[:, 0]
    sources[7, 0] = -30
    report.add("a", mix, sources, estimates)
    peak = {path.stem: read_audio(path) for path in (tmp_path / "examples").glob("*.wav")}
    assert peak["a_source1"].min().item() == pytest.approx(-0.9, abs=1e-3)
    assert all(signal.abs().max() < 0.95 for signal in peak.values())


@pytest.mark.parametrize("n_examples", [0, 2])
def test_the_first_mixtures_are_kept(tmp_path, pictures, n_examples):
    report = SeparationReport(tmp_path, 8000, n_examples)
    for name in "abc":
        report.add(name, *mixture(0.1))
    assert {path.name[0] for path in (tmp_path / "examples").glob("*.wav")} == set("abc"[:n_examples])
    assert len(pictures) == n_examples


def test_a_report_without_mixtures_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="No mixture was tested: the test set is empty"):
        SeparationReport(tmp_path, 8000, 1).write()
    assert not list(tmp_path.iterdir())
