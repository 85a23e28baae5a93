"""What all reports have in common."""

import csv
import json
import math

import pytest

from speechbrain_mamba.evaluation.report import Report, format_summary, mean


class Lengths(Report):
    subject, columns, summary_file = "text", ("id", "score"), "lengths.json"

    def add(self, name, score):
        self.rows.append({"id": name, "score": score})

    def scores(self):
        return {"score": mean(self.defined("score"))}

    def write_more(self):
        assert not (self.folder / self.summary_file).exists()
        (self.folder / "more.txt").write_text((self.folder / "results.csv").read_text())


def test_a_report_writes_its_rows_what_its_task_adds_and_at_last_its_summary(tmp_path):
    report = Lengths(tmp_path / "new" / "test")
    for name, score in {"a": 1.5, "b": None, "c": math.nan, "d": 2.5}.items():
        report.add(name, score)
    assert report.write() == report.summarize() == {"texts": 4, "score": 2.0}
    assert json.loads((report.folder / "lengths.json").read_text()) == {"texts": 4, "score": 2.0}
    with open(report.folder / "more.txt", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["id", "score"], ["a", "1.5"], ["b", ""], ["c", "nan"], ["d", "2.5"]]


def test_a_report_without_rows_is_an_error(tmp_path):
    for method in ("summarize", "write"):
        with pytest.raises(ValueError, match="No text was tested: the test set is empty"):
            getattr(Lengths(tmp_path), method)()
    assert not list(tmp_path.iterdir())


def test_a_line_of_the_summary_has_the_unit_of_its_number():
    summary = {
        "utterances": 120, "finished": 97.25, "wer": 3.14, "reference_wer": 2.0, "right_speaker": 66.67,
        "similarity": 0.815, "other_similarity": -0.104, "mcd": 7.126, "duration_error": 12.34, "rtf": 1.556,
    }  # fmt: skip
    assert [line.split() for line in format_summary(summary).splitlines()] == [
        ["utterances", "120"],
        ["finished", "97.2", "%"],
        ["wer", "3.1", "%"],
        ["reference_wer", "2.0", "%"],
        ["right_speaker", "66.7", "%"],
        ["similarity", "0.81"],
        ["other_similarity", "-0.10"],
        ["mcd", "7.1", "dB"],
        ["duration_error", "12.3", "%"],
        ["rtf", "1.56"],
    ]


def test_scores_in_db_have_their_usual_names_and_missing_ones_a_dash():
    summary = {"mixtures": 1250, "undefined": 7, "si_snr": -3.25, "si_snr_i": 12.34, "sdr": None, "sdr_i": 5.0}
    assert format_summary(summary) == "\n".join(
        [
            "mixtures            1250",
            "undefined              7",
            "SI-SNR                -3.2 dB",
            "SI-SNRi               12.3 dB",
            "SDR                    -",
            "SDRi                   5.0 dB",
        ]
    )
