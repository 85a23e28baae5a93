"""The results of a recognition test, in files people can read."""

from __future__ import annotations

from pathlib import Path

from speechbrain.utils.metric_stats import ErrorRateStats

from speechbrain_mamba.utils.files import atomic_path, write_csv, write_json


class RecognitionReport:
    """Collect the hypotheses of a test, and write word and character error rates to a folder.

    The folder gets ``wer.txt``, SpeechBrain's alignment of each hypothesis with its reference; ``results.csv`` with a
    row per utterance; and ``summary.json`` with the error rates in percent.

    Arguments
    ---------
    folder : str or Path
        Where the results go.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> report = RecognitionReport(folder)
    >>> report.add("a", "GOOD MORNING", "GOOD EVENING")
    >>> report.write()["wer"]
    50.0
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.words, self.characters = ErrorRateStats(), ErrorRateStats(split_tokens=True)
        self.rows = []

    def add(self, name, hypothesis, reference):
        """Count the errors of an utterance.

        Arguments
        ---------
        name : str
            Its name.
        hypothesis, reference : str
            What was recognised, and what was said.
        """
        rates = {}
        for key, stats in (("wer", self.words), ("cer", self.characters)):
            stats.append([name], [hypothesis.split()], [reference.split()])
            rates[key] = stats.scores[-1]["WER"]
        self.rows.append({"id": name, **rates, "hypothesis": hypothesis, "reference": reference})

    def error_rates(self):
        """The error rates so far.

        Returns
        -------
        dict
            ``utterances``, their number; ``wer`` and ``cer`` in percent of all words and characters.

        Raises
        ------
        ValueError
            When there are no results.
        """
        if not self.rows:
            raise ValueError("No utterance was tested: the test set is empty.")
        return {
            "utterances": len(self.rows),
            "wer": self.words.summarize("error_rate"),
            "cer": self.characters.summarize("error_rate"),
        }

    def write(self):
        """Write all files.

        Returns
        -------
        dict
            As :meth:`error_rates`.

        Raises
        ------
        ValueError
            When there are no results.
        """
        summary = self.error_rates()
        with atomic_path(self.folder / "wer.txt") as temporary, open(temporary, "w", encoding="utf-8") as file:
            self.words.write_stats(file)
        write_csv(self.folder / "results.csv", self.rows, ["id", "wer", "cer", "hypothesis", "reference"])
        write_json(self.folder / "summary.json", summary)
        return summary
