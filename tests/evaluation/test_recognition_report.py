"""The report on recognition, against jiwer."""

from __future__ import annotations

import csv
import json
import re

import jiwer
import pytest

from speechbrain_mamba.evaluation.recognition_report import RecognitionReport

REFERENCES = {
    "a": "ONE TWO THREE FOUR FIVE SIX SEVEN",
    "b": "ÄRGER IM HAUS",
    "c": "NINE",
    "d": "SEVEN EIGHT",
    "e": "ZERO OH",
}
HYPOTHESES = {
    "a": "ONE TWO TREE FOUR SIX SEVEN",  # one word is another, one is missing
    "b": "ÄRGER IM  HAUS ",  # right but for spaces
    "c": "NINE AND A HALF",  # three words too many
    "d": "",  # nothing
    "e": "ZERO ZERO",
}


def clean(text):
    return " ".join(text.split())


@pytest.fixture
def report(tmp_path):
    report = RecognitionReport(tmp_path / "test", ["greedy"])
    for name, reference in REFERENCES.items():
        report.add(name, {"greedy": HYPOTHESES[name]}, reference)
    return report


def test_error_rates_are_those_of_all_words_and_characters(report):
    references, hypotheses = list(REFERENCES.values()), [clean(text) for text in HYPOTHESES.values()]
    expected = {
        "utterances": 5,
        "normalization": "none",
        "greedy_wer": pytest.approx(100 * jiwer.wer(references, hypotheses)),
        "greedy_cer": pytest.approx(100 * jiwer.cer(references, hypotheses)),
    }
    assert report.summarize() == expected
    assert report.write() == expected
    assert json.loads((report.folder / "summary.json").read_text()) == expected


def test_insertions_deletions_and_substitutions_are_counted(report):
    report.write()
    text = (report.folder / "wer_greedy.txt").read_text(encoding="utf-8")
    counted = jiwer.process_words(list(REFERENCES.values()), [clean(text) for text in HYPOTHESES.values()])
    errors, words, insertions, deletions, substitutions = map(
        int, re.search(r"%WER [\d.]+ \[ (\d+) / (\d+), (\d+) ins, (\d+) del, (\d+) sub \]", text).groups()
    )
    assert (insertions, deletions, substitutions) == (counted.insertions, counted.deletions, counted.substitutions)
    assert (insertions, deletions, substitutions) == (3, 3, 2)
    assert (errors, words) == (8, sum(len(reference.split()) for reference in REFERENCES.values()))
    assert re.findall(r"^(\w), %WER", text, re.MULTILINE) == list(REFERENCES)
    missing = re.search(r"^a, %WER.*?\n(.*)\n(.*)\n(.*)\n", text, re.MULTILINE).groups()
    reference, _, hypothesis = ([word.strip() for word in line.split(";")] for line in missing)
    assert reference == REFERENCES["a"].split()
    assert hypothesis == ["ONE", "TWO", "TREE", "FOUR", "<eps>", "SIX", "SEVEN"]


def test_a_row_has_the_error_rates_and_texts_of_its_utterance(report):
    report.write()
    with open(report.folder / "results.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == ["id", "greedy_wer", "greedy_cer", "greedy", "reference"]
    assert [row["id"] for row in rows] == list(REFERENCES)
    for row in rows:
        reference, hypothesis = REFERENCES[row["id"]], HYPOTHESES[row["id"]]
        assert (row["reference"], row["greedy"]) == (reference, hypothesis)
        assert float(row["greedy_wer"]) == pytest.approx(100 * jiwer.wer(reference, clean(hypothesis)))
        assert float(row["greedy_cer"]) == pytest.approx(100 * jiwer.cer(reference, clean(hypothesis)))


def test_what_comes_after_a_look_at_the_error_rates_counts_too(report):
    before = report.summarize()["greedy_wer"]
    report.add("f", {"greedy": "ONE TWO"}, "ONE THREE TWO")
    assert report.write()["greedy_wer"] == pytest.approx(100 * 9 / 18) != before
    assert "9 / 18, 3 ins, 4 del, 2 sub" in (report.folder / "wer_greedy.txt").read_text(encoding="utf-8")


def test_reports_do_not_share_their_counts(report, tmp_path):
    other = RecognitionReport(tmp_path / "other", ["greedy"])
    other.add("x", {"greedy": "YES"}, "YES")
    assert other.write() == {"utterances": 1, "normalization": "none", "greedy_wer": 0.0, "greedy_cer": 0.0}


def test_each_search_has_its_own_rates_and_texts(tmp_path):
    report = RecognitionReport(tmp_path, ["greedy", "beam"])
    for name, reference in REFERENCES.items():
        report.add(name, {"beam": reference, "greedy": HYPOTHESES[name]}, reference)
    summary = report.write()
    assert list(summary) == ["utterances", "normalization", "greedy_wer", "greedy_cer", "beam_wer", "beam_cer"]
    assert summary["beam_wer"] == 0 < summary["greedy_wer"]
    assert "%WER 0.00" in (tmp_path / "wer_beam.txt").read_text(encoding="utf-8")
    assert "8 / 15" in (tmp_path / "wer_greedy.txt").read_text(encoding="utf-8")
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        assert [(row["beam"], row["greedy"]) for row in csv.DictReader(file)] == [
            (REFERENCES[name], HYPOTHESES[name]) for name in REFERENCES
        ]


def test_a_report_without_utterances_is_an_error(tmp_path):
    for method in ("summarize", "write"):
        with pytest.raises(ValueError, match="No utterance was tested: the test set is empty"):
            getattr(RecognitionReport(tmp_path, ["greedy"]), method)()
    assert not list(tmp_path.iterdir())


def test_texts_are_normalized_before_errors_are_counted_and_the_summary_names_how(tmp_path):
    found = {}
    for name in ("none", "words", "whisper-english"):
        report = RecognitionReport(tmp_path / name, ["greedy"], name)
        report.add("a", {"greedy": "don't pay 20 dollars"}, "Don't pay twenty dollars!")
        summary = report.write()
        assert summary["normalization"] == name
        found[name] = summary["greedy_wer"]
        assert report.rows[0]["reference"] == "Don't pay twenty dollars!"  # as it is
    assert found == {"none": 75.0, "words": 25.0, "whisper-english": pytest.approx(0)}
    with pytest.raises(ValueError, match="no text normalization 'upper': give one of none, words, whisper-basic"):
        RecognitionReport(tmp_path, ["greedy"], "upper")
