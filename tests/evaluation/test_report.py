"""What all reports have in common."""

import csv
import json
import math

import pytest

from speechbrain_mamba.evaluation.report import Report, format_summary, mean


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


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
    for name, score in {"a": 1.5, "b": None, "d": 2.5}.items():
        report.add(name, score)
    assert report.write() == report.summarize() == {"texts": 3, "score": 2.0}
    assert json.loads((report.folder / "lengths.json").read_text()) == {"texts": 3, "score": 2.0}
    assert table(report.folder / "more.txt") == [["id", "score"], ["a", "1.5"], ["b", ""], ["d", "2.5"]]


class Pairs(Report):
    columns = ("id", "own", "other")

    def scores(self):
        return {"own": mean(self.defined("own")), "other": mean(self.defined("other"))}


class StrictPairs(Pairs):
    required = ("own",)


ROWS = [
    {"id": "a", "own": 1.0, "other": 5.0},
    {"id": "b", "own": 3, "other": None},
    {"id": "c", "own": 100.0, "other": math.nan},
    {"id": "d", "own": -math.inf, "other": 100.0},
    {"id": "e", "own": None, "other": 7.0},
]


@pytest.mark.parametrize(
    ("report_type", "missing", "other"),
    [(Pairs, "", 6.0), (StrictPairs, "own is missing", 5.0)],
    ids=["optional", "required"],
)
def test_rows_without_a_usable_score_are_named_and_counted_and_never_in_a_mean(
    tmp_path, caplog, report_type, missing, other
):
    report = report_type(tmp_path)
    report.rows += [dict(row) for row in ROWS]
    report.add_unscored("f", "the estimate is not finite", own=100.0)
    count = 3 + bool(missing)
    assert report.write() == {"utterances": 6, "unscored": count, "own": 2.0, "other": other}
    assert report.pairs("own", "other") == [(1.0, 5.0)]
    reason = {"c": "other is nan", "d": "own is -inf", "e": missing, "f": "the estimate is not finite"}
    rows = table(tmp_path / "results.csv")
    assert rows[0] == ["id", "own", "other", "unscored"]
    assert {row[0]: row[-1] for row in rows[1:]} == {"a": "", "b": "", **reason}
    warning = ", ".join(f"{name} ({text})" for name, text in reason.items() if text)
    assert caplog.messages == [
        f"{count} of 6 utterances have no usable score and are left out of the means: {warning}."
    ]


def test_a_summary_says_that_all_rows_have_the_scores_that_are_required(tmp_path, caplog):
    report = StrictPairs(tmp_path)
    report.rows += ROWS[:2]
    assert report.write() == {"utterances": 2, "unscored": 0, "own": 2.0, "other": 5.0}
    assert not caplog.messages


def test_without_any_usable_score_there_is_no_mean_and_a_warning_names_ten_rows(tmp_path, caplog):
    report = Pairs(tmp_path)
    for index in range(12):
        report.add_unscored(f"row{index}", "silent")
    assert report.write() == {"utterances": 12, "unscored": 12, "own": None, "other": None}
    assert caplog.messages[0].endswith("row9 (silent), ...") and "row10" not in caplog.text


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
    summary = {"mixtures": 1250, "unscored": 7, "si_snr": -3.25, "si_snr_i": 12.34, "sdr": None, "sdr_i": 5.0}
    assert format_summary(summary) == "\n".join(
        [
            "mixtures            1250",
            "unscored               7",
            "SI-SNR                -3.2 dB",
            "SI-SNRi               12.3 dB",
            "SDR                    -",
            "SDRi                   5.0 dB",
        ]
    )
