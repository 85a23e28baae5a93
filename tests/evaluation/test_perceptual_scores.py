"""PESQ and ESTOI: values of the packages, rates, and speech for which they are not defined."""

from __future__ import annotations

import csv

import pytest
import torch

from speechbrain_mamba.corpora.mini.samples import SAMPLES
from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.dataio.resampling import resample
from speechbrain_mamba.evaluation import perceptual_scores as module
from speechbrain_mamba.evaluation.perceptual_scores import estoi_score, perceptual_scores, pesq_score
from speechbrain_mamba.evaluation.separation_report import SeparationReport

pytest.importorskip("pesq", reason="pesq has no wheels and was not built: it needs a C compiler")

RATE = 8000


@pytest.fixture(scope="module")
def voices():
    """1.6 seconds of both bundled voices (samples, 2)."""
    return torch.stack([read_audio(sample.path)[2000:15000] for sample in SAMPLES], -1)


def test_pesq_is_that_of_the_narrow_band_below_16_khz_and_else_of_the_wide_band(voices):
    from pesq import pesq

    voice = voices[:, 0]
    noisy = voice + 0.02 * torch.randn(len(voice))
    assert pesq_score(noisy, voice, RATE) == pytest.approx(pesq(RATE, voice.numpy(), noisy.numpy(), "nb"), abs=1e-3)
    wide, wide_noisy = (resample(wav, RATE, 16000) for wav in (voice, noisy))
    expected = pesq(16000, wide.double().numpy(), wide_noisy.double().numpy(), "wb")
    assert pesq_score(wide_noisy, wide, 16000) == pytest.approx(expected, abs=1e-3)
    finer, finer_noisy = (resample(wav, RATE, 24000) for wav in (voice, noisy))
    assert pesq_score(finer_noisy, finer, 24000) == pytest.approx(expected, abs=0.1)


def test_both_scores_fall_with_noise_and_do_not_depend_on_level(voices):
    voice = voices[:, 0]
    noise = torch.randn(len(voice))
    for score in (pesq_score, estoi_score):
        clean, little, much = (score(voice + level * noise, voice, RATE) for level in (0.0, 0.01, 0.1))
        assert clean > little > much
        assert score(0.1 * (voice + 0.01 * noise), voice, RATE) == pytest.approx(little, abs=0.03)
    assert estoi_score(voice, voice, RATE) == pytest.approx(1)


def test_there_is_no_score_of_silence_or_of_very_short_speech(voices):
    voice, silence = voices[:, 0], torch.zeros(len(voices))
    assert pesq_score(voice, silence, RATE) is None and pesq_score(silence, voice, RATE) is None
    assert pesq_score(voice[:1000], voice[:1000], RATE) is None
    assert estoi_score(voice[:1000], voice[:1000], RATE) is None
    assert estoi_score(voice[:50], voice[:50], RATE) is None
    found = perceptual_scores(voices, torch.stack([voice, silence], -1), RATE)
    assert found["pesq"] == pytest.approx(4.55, abs=0.01)  # of the speaker who speaks


def test_the_report_has_scores_and_improvements_of_speakers_in_any_order(tmp_path, voices):
    mix, estimates = voices.sum(1), voices.flip(-1) + 0.01 * torch.randn_like(voices)
    report = SeparationReport(tmp_path, RATE, n_examples=0, perceptual=True)
    report.add("a", mix, voices, estimates)
    report.add("short", mix[:1500], voices[:1500], estimates[:1500])
    summary = report.write()
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        first, short = csv.DictReader(file)
    own, mixed = (perceptual_scores(x, voices, RATE) for x in (estimates.flip(-1), mix[:, None].expand(-1, 2)))
    for name in ("pesq", "estoi"):
        assert float(first[name]) == pytest.approx(own[name], abs=0.02) == pytest.approx(summary[name])
        assert float(first[f"{name}_i"]) == pytest.approx(own[name] - mixed[name], abs=0.02)
        assert short[name] == short[f"{name}_i"] == ""
    assert summary["pesq_i"] > 0.3 and summary["unscored"] == 0
    plain = SeparationReport(tmp_path / "plain", RATE, n_examples=0)
    assert not {"pesq", "estoi"} & set(plain.columns)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pesq and pystoi are not installed: pip install .*\[metrics\]"):
        SeparationReport(tmp_path, RATE, n_examples=0, perceptual=True)
    SeparationReport(tmp_path, RATE, n_examples=0)
    monkeypatch.setattr(module, "find_spec", lambda name: name == "pesq" or None)
    with pytest.raises(ImportError, match="but pystoi is not installed"):
        pesq_score(torch.ones(8000), torch.ones(8000), RATE)
