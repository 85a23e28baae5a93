"""Word and character error rates, for recognition, synthesis and codecs."""

from __future__ import annotations

import os
import re

from speechbrain.utils.metric_stats import ErrorRateStats

from speechbrain_mamba.utils.files import atomic_path


def normalize_words(text: str) -> str:
    """Convert to upper case and drop punctuation, except for apostrophes within words, so that recognizers of all kinds
    can be compared.

    Example
    -------
    >>> normalize_words("Don't stop -- it's ten o'clock.")
    "DON'T STOP IT'S TEN O'CLOCK"
    """
    return " ".join(re.findall(r"\w+(?:['’]\w+)*", text.upper()))


class WordErrors:
    """Count the errors of hypotheses against their references.

    Arguments
    ---------
    characters : bool
        Whether to count characters instead of words.

    Example
    -------
    >>> errors = WordErrors()
    >>> errors.add("a", "GOOD MORNING", "GOOD EVENING"), errors.add("b", "YES", "YES")
    (50.0, 0.0)
    >>> round(errors.rate(), 1), errors.counts()
    (33.3, (1, 3))
    """

    def __init__(self, characters: bool = False) -> None:
        self.stats = ErrorRateStats(split_tokens=characters)

    def add(self, name: str, hypothesis: str, reference: str) -> float:
        """Count the errors of an utterance, and return its error rate in percent."""
        self.stats.append([name], [hypothesis.split()], [reference.split()])
        return self.stats.scores[-1]["WER"]

    def rate(self) -> float | None:
        """The error rate over all utterances in percent, or None before the first one."""
        return self.stats.summarize("error_rate") if self.stats.scores else None

    def counts(self) -> tuple[int, int]:
        """The number of errors, and of words or characters of the references."""
        if not self.stats.scores:
            return 0, 0
        summary = self.stats.summarize()
        return summary["num_edits"], summary["num_scored_tokens"]

    def write_alignments(self, path: str | os.PathLike) -> None:
        """Write SpeechBrain's alignment of each hypothesis with its reference."""
        self.stats.summarize()  # write_stats keeps to an earlier summary
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            self.stats.write_stats(file)
