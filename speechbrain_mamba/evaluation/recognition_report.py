"""The results of a recognition test, in files people can read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from speechbrain_mamba.evaluation.report import Report
from speechbrain_mamba.evaluation.text_normalization import load_normalization
from speechbrain_mamba.evaluation.word_errors import WordErrors


class RecognitionReport(Report):
    """Collect the hypotheses of a test, and write word and character error rates to a folder.

    A recognizer may search in several ways, such as ``greedy`` and ``beam``. Each search has its own error rates, under
    its name: ``results.csv`` has a row per utterance with its texts and error rates, ``summary.json`` has the error
    rates of all utterances in percent, ``greedy_wer`` and ``greedy_cer``, and ``wer_greedy.txt`` is SpeechBrain's
    alignment of each hypothesis with its reference.

    Arguments
    ---------
    folder : str or Path
        Where the results go.
    searches : sequence of str
        The names of the searches.
    normalization : str
        How texts are normalized before errors are counted, see
        :func:`~speechbrain_mamba.evaluation.text_normalization.load_normalization`. The summary names it; the texts of
        ``results.csv`` stay as they are.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> report = RecognitionReport(folder, ["greedy", "beam"])
    >>> report.add("a", {"greedy": "GOOD MORNING", "beam": "GOOD EVENING"}, "GOOD EVENING")
    >>> summary = report.write()
    >>> summary["greedy_wer"], summary["beam_wer"]
    (50.0, 0.0)
    """

    def __init__(self, folder: str | os.PathLike, searches: Sequence[str], normalization: str = "none") -> None:
        super().__init__(folder)
        self.normalization, self._normalize = normalization, load_normalization(normalization)
        self.searches = tuple(searches)
        self.rates = tuple(f"{search}_{rate}" for search in searches for rate in ("wer", "cer"))
        self.columns = ("id", *self.rates, *self.searches, "reference")

    def add(self, name: str, hypotheses: Mapping[str, str], reference: str) -> None:
        """Count the errors of an utterance in what each search recognized, compared with what was said."""
        row = {"id": name, **{search: hypotheses[search] for search in self.searches}, "reference": reference}
        self.rows.append({**row, **{rate: self._count(rate, [row]).rate() for rate in self.rates}})

    def scores(self) -> dict[str, Any]:
        """Error rates in percent, of all words and of all characters, by search."""
        return {rate: self._count(rate, self.rows).rate() for rate in self.rates}

    def summarize(self) -> dict[str, Any]:
        """The scores, with the name of the normalization."""
        summary = super().summarize()
        return {"utterances": summary.pop("utterances"), "normalization": self.normalization, **summary}

    def write_more(self) -> None:
        """Write the alignments."""
        for search in self.searches:
            self._count(f"{search}_wer", self.rows).write_alignments(self.folder / f"wer_{search}.txt")

    def _count(self, rate: str, rows: Iterable[Mapping[str, Any]]) -> WordErrors:
        """Count the errors of some rows: of an error rate such as ``beam_cer``."""
        search, _, kind = rate.rpartition("_")
        errors = WordErrors(characters=kind == "cer")
        for row in rows:
            errors.add(row["id"], self._normalize(row[search]), self._normalize(row["reference"]))
        return errors
