"""The report on speaker verification, against a count of errors and SpeechBrain's."""

import csv
import itertools
import json
import math

import pytest
import torch
from speechbrain.utils.metric_stats import EER

from speechbrain_mamba.evaluation import speaker_report
from speechbrain_mamba.evaluation.speaker_report import SpeakerReport, equal_error_rate


def sorted_equal_error_rate(same, different):
    """Where the share of pairs of a speaker below a threshold meets that of pairs of two above it, in percent."""
    rates = []
    for threshold in sorted([*same, *different]):
        missed = sum(score <= threshold for score in same) / len(same)
        accepted = sum(score > threshold for score in different) / len(different)
        rates.append((abs(missed - accepted), (missed + accepted) / 2))
    return 100 * min(rates)[1]


def fill(report, speakers, angles):
    """Embeddings are directions of different lengths, so that scores are cosines of the angles between them."""
    for index, (speaker, angle) in enumerate(zip(speakers, angles)):
        direction = torch.tensor([math.cos(angle), math.sin(angle)], requires_grad=True)
        report.add(f"u{index}", speaker, (1 + index) * direction)


@pytest.mark.parametrize(
    ("speakers", "angles"),
    [
        # no two pairs at the same angle, whose order would be that of rounding
        ("aabbb", [0.0, 0.1, 1.0, 1.2, 1.5]),
        ("aabbbcc", [0.0, 0.9, 0.8, 1.05, 0.42, 2.0, 1.73]),
        ("abcabcaa", [0.299, 1.025, 0.683, 0.166, 1.326, 1.906, 1.12, 0.841]),
    ],
)
def test_the_equal_error_rate_is_that_of_all_pairs(tmp_path, speakers, angles):
    report = SpeakerReport(tmp_path)
    fill(report, speakers, angles)
    pairs = list(itertools.combinations(zip(speakers, angles), 2))
    same, different = (
        [math.cos(x - y) for (speaker, x), (other, y) in pairs if (speaker == other) == wanted]
        for wanted in (True, False)
    )
    summary = report.write()
    assert summary["EER"] == pytest.approx(sorted_equal_error_rate(same, different))
    assert (summary["EER"] == 0) == (speakers == "aabbb")
    assert (summary["utterances"], summary["pairs"]) == (len(speakers), len(pairs))
    assert json.loads((tmp_path / "verification.json").read_text()) == summary


def test_the_equal_error_rate_is_speechbrains():
    for positives, negatives in ((1, 1), (3, 40), (50, 7), (30, 30)):
        positive, negative = torch.randn(positives) + 1, torch.randn(negatives)
        assert equal_error_rate(positive, negative) == pytest.approx(100 * EER(positive, negative)[0], abs=1e-4)


def test_equal_scores_are_on_the_same_side_of_a_threshold():
    """By a count at each score, of which the lowest counts if several are as close."""
    for _ in range(200):
        positive, negative = (torch.randint(0, 5, (int(torch.randint(1, 9, ())),)).float() for _ in range(2))
        rates = [
            (float((negative > score).double().mean()), float((positive <= score).double().mean()))
            for score in torch.cat([positive, negative]).unique()
        ]
        expected = 50 * sum(min(rates, key=lambda pair: abs(pair[0] - pair[1])))
        assert equal_error_rate(positive, negative) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("block", [1, 3, 7])
def test_blocks_of_comparisons_make_no_difference(tmp_path, monkeypatch, block):
    speakers, angles = "abcabcaa", (3 * torch.rand(8)).tolist()  # no two pairs at the same angle
    whole, parts = SpeakerReport(tmp_path), SpeakerReport(tmp_path)
    fill(whole, speakers, angles)
    fill(parts, speakers, angles)
    expected = whole.summarize()
    monkeypatch.setattr(speaker_report, "BLOCK", block)
    assert parts.summarize() == expected
    for ours, theirs in zip(parts.rows, whole.rows):
        assert ours == pytest.approx(theirs, abs=1e-6, nan_ok=True)


def test_an_utterance_without_a_direction_is_named_and_compared_with_none(tmp_path, figures):
    broken, clean = SpeakerReport(tmp_path / "broken"), SpeakerReport(tmp_path / "clean")
    for report in (broken, clean):
        fill(report, "abab", [0.3, 1.0, 0.7, 0.15])
    broken.add("silent", "a", torch.zeros(2))
    broken.add("broken", "b", torch.tensor([1.0, float("nan")]))
    assert broken.write() == {**clean.write(), "utterances": 6, "unscored": 2}
    with open(tmp_path / "broken" / "results.csv", newline="") as file:
        reasons = {row["id"]: row["unscored"] for row in csv.DictReader(file)}
    assert reasons["silent"] == "its embedding is zero" and reasons["broken"] == "its embedding is not finite"
    assert not any(reasons[f"u{index}"] for index in range(4))


def test_a_row_has_the_mean_similarities_of_its_utterance(tmp_path, figures):
    report = SpeakerReport(tmp_path)
    fill(report, ["ben", "anna", "ben", "cleo"], [0.0, 0.5, 0.9, 1.5])
    report.write()
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["spk_id"]) for row in rows] == [
        ("u0", "ben"),
        ("u1", "anna"),
        ("u2", "ben"),
        ("u3", "cleo"),
    ]
    assert [row["own_similarity"] == "" for row in rows] == [False, True, False, True]
    assert float(rows[2]["own_similarity"]) == pytest.approx(math.cos(0.9))
    others = [(0.5, 1.5), (0.5, 0.4, 1.0), (0.4, 0.6), (1.5, 1.0, 0.6)]
    for row, angles in zip(rows, others):
        assert float(row["other_similarity"]) == pytest.approx(sum(map(math.cos, angles)) / len(angles), abs=1e-5)
    (axis,) = figures[0].axes
    assert list(axis.lines[0].get_xdata()) == pytest.approx([math.cos(0.9)] * 2)
    assert (tmp_path / "similarity.png").exists()


@pytest.mark.parametrize("names", [["anna"] * 3, ["anna", "ben", "cleo"], ["anna"]])
def test_an_error_rate_needs_pairs_of_both_kinds(tmp_path, names):
    report = SpeakerReport(tmp_path)
    fill(report, names, [0, 0.8, 1.6])
    for method in (report.summarize, report.write):
        with pytest.raises(ValueError, match="two are needed, and two utterances of one of them"):
            method()
    assert not list(tmp_path.iterdir())
