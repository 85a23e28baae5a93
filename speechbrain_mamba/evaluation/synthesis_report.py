"""The results of a synthesis test: what a recogniser and a speaker encoder make of it, in files people can look at."""

from __future__ import annotations

import csv
import logging
import os
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from speechbrain.utils.metric_stats import ErrorRateStats
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tqdm import tqdm

from speechbrain_mamba.dataio.audio import audio_info, read_audio
from speechbrain_mamba.evaluation.speaking import TABLE
from speechbrain_mamba.evaluation.synthesis_scores import N_MELS, mel_cepstral_distortion
from speechbrain_mamba.utils.files import atomic_path, write_csv, write_json
from speechbrain_mamba.utils.plots import plot_pairs, plot_spectrograms

logger = logging.getLogger(__name__)

SCORES = ["wer", "reference_wer", "similarity", "other_similarity", "mcd", "duration_error", "rtf"]
"""Scores of an utterance: word error rate in percent, of the recording too; cosine similarity to the prompt and to
another speaker's; mel-cepstral distortion in dB; how much longer than the recording it is, in percent; seconds of
computing per second of speech."""


class SynthesisReport:
    """Score the speech of a test, and write it all to the folder that it is in.

    The folder gets ``results.csv`` with a row per utterance and ``summary.json``; with a recogniser ``wer.txt``,
    SpeechBrain's alignments; with a speaker encoder ``similarity.png``, each utterance's similarity to its prompt and
    to another speaker; and in ``examples/`` pictures of the first utterances, each below the recording of its text.

    Arguments
    ---------
    recognize : callable, optional
        From a waveform (samples,) and its rate to words.
    embed : callable, optional
        From a waveform (samples,) and its rate to a speaker embedding (channels,).
    n_examples : int
        Utterances to draw.

    Example
    -------
    >>> import torch
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> folder = getfixture("tmp_path")
    >>> wav = folder / "a.wav"
    >>> write_audio(wav, 0.1 * torch.randn(8000), 8000)
    >>> row = {"ID": "a", "wrd": "ONE TWO", "finished": True, "duration": 1.0, "seconds": 0.5, "wav": wav,
    ...        "reference": wav, "prompt": wav, "other_prompt": ""}
    >>> write_csv(folder / TABLE, [row], list(row))
    >>> summary = SynthesisReport(recognize=lambda wav, rate: "one, three", n_examples=0).write(folder)
    >>> summary["wer"], summary["mcd"], summary["rtf"]
    (50.0, 0.0, 0.5)
    """

    def __init__(
        self,
        recognize: Callable[[Tensor, int], str] | None = None,
        embed: Callable[[Tensor, int], Tensor] | None = None,
        n_examples: int = 8,
    ):
        self.recognize, self.embed, self.n_examples = recognize, embed, n_examples

    def write(self, folder: str | os.PathLike) -> dict[str, float]:
        """Score what ``synthesis.csv`` in the folder lists, as
        :func:`~speechbrain_mamba.evaluation.speaking.speak_test_set` wrote it.

        Arguments
        ---------
        folder : str or Path
            The folder.

        Returns
        -------
        dict
            ``utterances``; ``finished``, the percentage that ended by itself; ``wer`` and ``reference_wer`` over all
            words, each only where there is a recogniser; ``right_speaker``, the percentage that is more similar to its
            prompt than to the other one, where there is an encoder; and the means of the other scores, of those
            utterances that have them. ``duration_error`` is the mean of its absolute values.

        Raises
        ------
        FileNotFoundError
            When nothing was spoken into the folder.
        ValueError
            When ``synthesis.csv`` lists nothing.
        """
        folder = Path(folder)
        if not (folder / TABLE).is_file():
            raise FileNotFoundError(f"'{folder}' has no {TABLE}: train.py writes it when it says the test sentences.")
        with open(folder / TABLE, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError(f"'{folder / TABLE}' lists no utterance.")
        recordings = {row[column] for row in rows for column in ("reference", "prompt", "other_prompt")}
        gone = sorted(path for path in recordings if path and not Path(path).is_file())
        if gone:
            logger.warning("%d recordings to compare with are not there any more: %s, ...", len(gone), gone[0])
        self.words, self.reference_words, self.texts = ErrorRateStats(), ErrorRateStats(), {}
        results = []
        for index, row in enumerate(tqdm(rows, desc="Judging the speech", unit="utterance", dynamic_ncols=True)):
            results.append({"ID": row["ID"], **self._score(row)})
            if index < self.n_examples and float(row["duration"]):
                self._draw(row, folder / "examples" / f"{row['ID']}.png")
        summary = self._summarise(rows, results)
        write_csv(folder / "results.csv", results, ["ID", *SCORES, "wrd", "hypothesis"])
        if self.recognize is not None:
            with atomic_path(folder / "wer.txt") as temporary, open(temporary, "w", encoding="utf-8") as file:
                self.words.write_stats(file)
        pairs = _voices(results)
        if pairs:
            labels = ["similarity to the prompt", "similarity to another speaker"]
            plot_pairs(folder / "similarity.png", pairs, labels)
        write_json(folder / "summary.json", summary)
        return summary

    def _score(self, row: dict) -> dict:
        """The scores of a row, empty where there is nothing to compare with."""
        scores = dict.fromkeys(SCORES, "") | {"wrd": row["wrd"], "hypothesis": ""}
        duration = float(row["duration"])  # may be 0: files without samples cannot be read
        wav, rate = _read(row["wav"]) if duration else (torch.zeros(0), 0)
        scores["rtf"] = float(row["seconds"]) / duration if duration else ""
        if self.recognize is not None:
            scores["hypothesis"] = normalize_words(self.recognize(wav, rate)) if duration else ""
            scores["wer"] = _count(self.words, row, scores["hypothesis"])
        if row["reference"] and Path(row["reference"]).is_file():
            reference, reference_rate = _read(row["reference"])
            seconds = len(reference) / reference_rate
            scores["duration_error"] = 100 * (duration - seconds) / seconds
            if rate == reference_rate and min(duration, seconds) > 0.05:
                scores["mcd"] = mel_cepstral_distortion(wav, reference, rate)
            if self.recognize is not None:
                text = normalize_words(self.recognize(reference, reference_rate))
                scores["reference_wer"] = _count(self.reference_words, row, text)
        if self.embed is not None and duration > 0.05:
            voice = self.embed(wav, rate)
            for name, key in (("prompt", "similarity"), ("other_prompt", "other_similarity")):
                if row[name] and Path(row[name]).is_file():
                    scores[key] = float(cosine_similarity(voice, self.embed(*_read(row[name])), dim=-1))
        return scores

    def _summarise(self, rows: list[dict], results: list[dict]) -> dict[str, float]:
        summary = {"utterances": len(rows)}
        summary["finished"] = 100 * statistics.fmean(row["finished"] == "True" for row in rows)
        for name, stats in (("wer", self.words), ("reference_wer", self.reference_words)):
            if stats.scores:
                summary[name] = stats.summarize("error_rate")
        pairs = _voices(results)
        if pairs:
            summary["right_speaker"] = 100 * statistics.fmean(own > other for own, other in pairs)
        for name in ("similarity", "other_similarity", "mcd", "duration_error", "rtf"):
            values = [abs(row[name]) if name == "duration_error" else row[name] for row in results if row[name] != ""]
            if values:
                summary[name] = statistics.fmean(values)
        return summary

    def _draw(self, row: dict, path: Path) -> None:
        wav, rate = _read(row["wav"])
        sounds = {f"{row['ID']}: {row['wrd']}": wav}
        if Path(row["reference"] or ".").is_file() and audio_info(row["reference"]).sample_rate == rate:
            sounds = {"recording": _read(row["reference"])[0], **sounds}
        plot_spectrograms(path, sounds, rate, n_mels=N_MELS)


def normalize_words(text: str) -> str:
    """Upper case, without punctuation but for apostrophes within words, so that recognisers of all kinds can be
    compared.

    Example
    -------
    >>> normalize_words("Don't stop -- it's ten o'clock.")
    "DON'T STOP IT'S TEN O'CLOCK"
    """
    return " ".join(re.findall(r"\w+(?:['’]\w+)*", text.upper()))


def _voices(results: list[dict]) -> list[tuple[float, float]]:
    """Similarities to the prompt and to another speaker, of utterances that have both."""
    pairs = [(row["similarity"], row["other_similarity"]) for row in results]
    return [pair for pair in pairs if "" not in pair]


def _read(path: str) -> tuple[Tensor, int]:
    rate = audio_info(path).sample_rate
    return read_audio(path, rate), rate


def _count(stats: ErrorRateStats, row: dict, hypothesis: str) -> float:
    """Count the errors of an utterance, and return its word error rate in percent."""
    stats.append([row["ID"]], [hypothesis.split()], [normalize_words(row["wrd"]).split()])
    return stats.scores[-1]["WER"]


def format_summary(summary: dict[str, float]) -> str:
    """Put a summary into lines.

    Example
    -------
    >>> print(format_summary({"utterances": 3, "finished": 100.0, "wer": 12.5}))
    utterances         3
    finished         100.0 %
    wer               12.5 %
    """
    units = {"mcd": " dB", "rtf": "", "similarity": "", "other_similarity": ""}
    lines = []
    for name, value in summary.items():
        number = f"{value:8d}" if isinstance(value, int) else f"{value:10.{1 if units.get(name, ' %') else 2}f}"
        lines.append(f"{name:16s}{number}{'' if isinstance(value, int) else units.get(name, ' %')}")
    return "\n".join(lines)
