"""What all reports of a test have in common: rows, a summary, and files that people can read."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from speechbrain_mamba.utils.files import write_csv, write_json

_LABELS = {"si_snr": "SI-SNR", "si_snr_i": "SI-SNRi", "sdr": "SDR", "sdr_i": "SDRi"}
_UNITS = {
    **dict.fromkeys(["si_snr", "si_snr_i", "sdr", "sdr_i", "mcd"], "dB"),
    **dict.fromkeys(["wer", "cer", "reference_wer", "first_codebook_wer", "EER", "finished", "right_speaker"], "%"),
    "duration_error": "%",
}
"""Scores without a unit are not listed."""


class Report:
    """The results of one test: a row per example, collected by ``add``, and a summary of them.

    A task's report defines ``add``, which appends to ``rows`` and keeps examples, and :meth:`scores`. It may draw or
    write more in :meth:`write_more`.

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
    >>> report.write()
    {'texts': 1, 'characters': 3.0}
    """

    subject: ClassVar[str] = "utterance"
    """What a row is about."""
    columns: Sequence[str] = ()
    """Columns of ``results.csv``."""
    summary_file: ClassVar[str] = "summary.json"
    collected: ClassVar[tuple[str, ...]] = ("rows",)
    """What ``add`` fills: names of lists, numbers or dictionaries of these, which several processes put together."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.rows: list[dict[str, Any]] = []

    def scores(self) -> dict[str, Any]:
        """Summarize the rows, of which there is at least one."""
        raise NotImplementedError

    def write_more(self) -> None:
        """Write files of this task, after ``results.csv`` and before the summary."""

    def defined(self, column: str) -> list[float]:
        """The numbers of a column, without those that are missing or not finite."""
        return [row[column] for row in self.rows if row[column] is not None and math.isfinite(row[column])]

    def pairs(self, first: str, second: str) -> list[tuple[float, float]]:
        """The numbers of two columns, of rows that have both."""
        return [(row[first], row[second]) for row in self.rows if None not in (row[first], row[second])]

    def summarize(self) -> dict[str, Any]:
        """Count the rows, and add their scores by name; ValueError without rows."""
        if not self.rows:
            raise ValueError(f"No {self.subject} was tested: the test set is empty.")
        return {f"{self.subject}s": len(self.rows), **self.scores()}

    def write(self) -> dict[str, Any]:
        """Write all files, and return the summary of :meth:`summarize`. Its file is the last one: where it exists, the
        test is complete."""
        summary = self.summarize()
        write_csv(self.folder / "results.csv", self.rows, list(self.columns))
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
        if value is None:
            number = f"{'-':>8}"
        elif isinstance(value, int):
            number = f"{value:8d}"
        else:
            number = f"{value:10.1f} {unit}" if unit else f"{value:11.2f}"
        lines.append(f"{_LABELS.get(name, name):16s}{number}")
    return "\n".join(lines)
