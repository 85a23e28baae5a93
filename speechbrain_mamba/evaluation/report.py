"""What all reports of a test have in common: rows, a summary, and files that people can read."""

from __future__ import annotations

import logging
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from speechbrain_mamba.utils.files import write_csv, write_json

logger = logging.getLogger(__name__)

UNSCORED = "unscored"
"""In a summary the number of rows without a usable score; in a table of results, where it is the last column, the
reason, empty for rows that have one."""

_LABELS = {"si_snr": "SI-SNR", "si_snr_i": "SI-SNRi", "sdr": "SDR", "sdr_i": "SDRi", "pesq": "PESQ",
           "pesq_i": "PESQi", "estoi": "ESTOI", "estoi_i": "ESTOIi"}  # fmt: skip
_UNITS = {
    **dict.fromkeys(["si_snr", "si_snr_i", "sdr", "sdr_i", "mcd"], "dB"),
    **dict.fromkeys(["wer", "cer", "reference_wer", "first_codebook_wer", "EER", "finished", "right_speaker"], "%"),
    "duration_error": "%",
}
"""Scores without a unit are not listed."""
_NAMED = 10  # rows without a usable score that a warning names


class Report:
    """The results of one test: a row per example, collected by ``add``, and a summary of them.

    A task's report defines ``add``, which appends to ``rows`` and keeps examples, and :meth:`scores`. It may draw or
    write more in :meth:`write_more`.

    A row has no usable score when a number in it is not finite, when it lacks one of the ``required`` columns, or when
    ``add`` says so with :meth:`add_unscored`. Such rows are listed with the reason, counted in the summary as
    ``unscored``, and left out of every mean, so that all means are over the same rows. The column and the number are
    there if the task requires a score or a row has none.

    Arguments
    ---------
    folder : str or Path
        Where the results go: ``results.csv`` with the rows, and the summary as JSON.

    Example
    -------
    >>> class Lengths(Report):
    ...     subject, columns = "text", ["id", "characters"]
    ...     def add(self, name, text):
    ...         self.rows.append({"id": name, "characters": len(text)})
    ...     def scores(self):
    ...         return {"characters": mean(self.defined("characters"))}
    >>> report = Lengths(getfixture("tmp_path"))
    >>> report.add("a", "one")
    >>> report.add_unscored("b", "the file is gone")
    >>> report.write()
    {'texts': 2, 'unscored': 1, 'characters': 3.0}
    """

    subject: ClassVar[str] = "utterance"
    """What a row is about."""
    columns: Sequence[str] = ()
    """Columns of ``results.csv``; the first one names the row. The column ``unscored`` goes behind them."""
    required: Sequence[str] = ()
    """Columns without which a row has no usable score."""
    summary_file: ClassVar[str] = "summary.json"
    collected: Sequence[str] = ("rows",)
    """What ``add`` fills: names of lists, numbers or dictionaries of these, which several processes put together."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.rows: list[dict[str, Any]] = []

    def scores(self) -> dict[str, Any]:
        """Summarize the rows, of which there is at least one."""
        raise NotImplementedError

    def write_more(self) -> None:
        """Write files of this task, after ``results.csv`` and before the summary."""

    def add_unscored(self, name: str, reason: str, **values: Any) -> None:
        """Add a row without a usable score: its name, the reason in a few words, and what else is known of it."""
        self.rows.append({self.columns[0]: name, **values, UNSCORED: reason})

    def why_unscored(self, row: Mapping[str, Any]) -> str:
        """Why a row has no usable score; empty if it has."""
        if row.get(UNSCORED):
            return str(row[UNSCORED])
        missing = [f"{column} is missing" for column in self.required if row.get(column) is None]
        numbers = {column: value for column, value in row.items() if isinstance(value, float)}
        return ", ".join(
            [*missing, *(f"{name} is {value}" for name, value in numbers.items() if not math.isfinite(value))]
        )

    def unscored(self) -> list[tuple[str, str]]:
        """Name and reason of each row without a usable score."""
        return [(str(row[self.columns[0]]), reason) for row in self.rows if (reason := self.why_unscored(row))]

    def scored_rows(self) -> list[dict[str, Any]]:
        """The rows with a usable score."""
        return [row for row in self.rows if not self.why_unscored(row)]

    def defined(self, column: str) -> list[float]:
        """The numbers of a column, of rows with a usable score that have it."""
        return [row[column] for row in self.scored_rows() if row.get(column) is not None]

    def pairs(self, first: str, second: str) -> list[tuple[float, float]]:
        """The numbers of two columns, of rows with a usable score that have both."""
        rows = self.scored_rows()
        return [(row[first], row[second]) for row in rows if None not in (row.get(first), row.get(second))]

    def summarize(self) -> dict[str, Any]:
        """Count the rows, and those without a usable score, and add the scores by name; ValueError without rows."""
        if not self.rows:
            raise ValueError(f"No {self.subject} was tested: the test set is empty.")
        scores = self.scores()  # may complete the rows
        unscored = self.unscored()
        count = {UNSCORED: len(unscored)} if unscored or self.required else {}
        return {f"{self.subject}s": len(self.rows), **count, **scores}

    def write(self) -> dict[str, Any]:
        """Write all files, and return the summary of :meth:`summarize`. Its file is the last one: where it exists, the
        test is complete. A warning names rows without a usable score."""
        summary = self.summarize()
        if UNSCORED in summary:
            table = [{**row, UNSCORED: self.why_unscored(row)} for row in self.rows]
            write_csv(self.folder / "results.csv", table, [*self.columns, UNSCORED])
        else:
            write_csv(self.folder / "results.csv", self.rows, list(self.columns))
        if unscored := self.unscored():
            named = ", ".join(f"{name} ({reason})" for name, reason in unscored[:_NAMED])
            logger.warning(
                "%d of %d %ss have no usable score and are left out of the means: %s%s",
                len(unscored), len(self.rows), self.subject, named, ", ..." if len(unscored) > _NAMED else ".",
            )  # fmt: skip
        self.write_more()
        write_json(self.folder / self.summary_file, summary)
        return summary


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None without values."""
    return statistics.fmean(values) if values else None


def format_summary(summary: Mapping[str, Any]) -> str:
    """Format the summary of a :class:`Report`: a line per number or score, with its unit. None is an undefined score.

    Example
    -------
    >>> print(format_summary({"utterances": 3, "wer": 12.5, "similarity": 0.5, "si_snr_i": 9.13, "sdr": None}))
    utterances         3
    wer               12.5 %
    similarity         0.50
    SI-SNRi            9.1 dB
    SDR                -
    """
    lines = []
    for name, value in summary.items():
        unit = _UNITS.get(name, "")
        if isinstance(value, str):
            number = f"{value:>8}"
        elif value is None:
            number = f"{'-':>8}"
        elif isinstance(value, int):
            number = f"{value:8d}"
        else:
            number = f"{value:10.1f} {unit}" if unit else f"{value:11.2f}"
        lines.append(f"{_LABELS.get(name, name):16s}{number}")
    return "\n".join(lines)
