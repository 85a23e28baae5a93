"""The results of a recognition test, in files people can read."""

from __future__ import annotations

import os
from typing import Any

from speechbrain_mamba.evaluation.report import Report
from speechbrain_mamba.evaluation.word_errors import WordErrors


class RecognitionReport(Report):
    """Collect the hypotheses of a test, and write word and character error rates to a folder.

    The folder gets ``wer.txt``, SpeechBrain's alignment of each hypothesis with its reference; ``results.csv`` with a
    row per utterance; and ``summary.json`` with the error rates in percent, ``wer`` and ``cer``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> report = RecognitionReport(folder)
    >>> report.add("a", "GOOD MORNING", "GOOD EVENING")
    >>> report.write()["wer"]
    50.0
    """

    columns = ("id", "wer", "cer", "hypothesis", "reference")
    collected = ("rows", "errors.wer", "errors.cer")

    def __init__(self, folder: str | os.PathLike) -> None:
        super().__init__(folder)
        self.errors = {"wer": WordErrors(), "cer": WordErrors(characters=True)}

    def add(self, name: str, hypothesis: str, reference: str) -> None:
        """Count the errors of an utterance in what was recognized, compared with what was said."""
        rates = {key: errors.add(name, hypothesis, reference) for key, errors in self.errors.items()}
        self.rows.append({"id": name, **rates, "hypothesis": hypothesis, "reference": reference})

    def scores(self) -> dict[str, Any]:
        """Error rates in percent of all words, ``wer``, and of all characters, ``cer``."""
        return {key: errors.rate() for key, errors in self.errors.items()}

    def write_more(self) -> None:
        """Write the alignments."""
        self.errors["wer"].write_alignments(self.folder / "wer.txt")
