"""The results of a synthesis test: judged by a recognizer and a speaker encoder, in files people can look at."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tqdm import tqdm

from speechbrain_mamba.dataio.audio import audio_info, read_audio
from speechbrain_mamba.evaluation.report import Report, mean
from speechbrain_mamba.evaluation.speaking import TABLE
from speechbrain_mamba.evaluation.synthesis_scores import N_MELS, mel_cepstral_distortion
from speechbrain_mamba.evaluation.word_errors import WordErrors, normalize_words
from speechbrain_mamba.utils.plots import plot_pairs, plot_spectrograms

logger = logging.getLogger(__name__)

SCORES = ["wer", "reference_wer", "similarity", "other_similarity", "mcd", "duration_error", "rtf"]
"""Scores of an utterance: word error rates of the speech and of the recording in percent; cosine similarity to the
prompt and to a prompt of another speaker; mel-cepstral distortion in dB; how much longer than the recording it is, in
percent; seconds of computing per second of speech."""


class SynthesisReport(Report):
    """Score the speech of a test, and write it all to the folder that it is in.

    The folder gets ``results.csv`` with a row per utterance and ``summary.json``; with a recognizer ``wer.txt``,
    SpeechBrain's alignments; with a speaker encoder ``similarity.png``, each utterance's similarity to its prompt and
    to another speaker; and in ``examples/`` pictures of the first utterances, each below the recording of its text.

    Arguments
    ---------
    folder : str or Path
        Where the results go.
    recognize : callable, optional
        From a waveform (samples,) and its rate to words.
    embed : callable, optional
        From a waveform (samples,) and its rate to a speaker embedding (channels,).
    n_examples : int
        How many utterances to draw.
    """

    columns = ("ID", *SCORES, "wrd", "hypothesis")

    def __init__(
        self,
        folder: str | os.PathLike,
        recognize: Callable[[Tensor, int], str] | None = None,
        embed: Callable[[Tensor, int], Tensor] | None = None,
        n_examples: int = 8,
    ) -> None:
        super().__init__(folder)
        self.recognize, self.embed, self.n_examples = recognize, embed, n_examples
        self.errors = {"wer": WordErrors(), "reference_wer": WordErrors()}
        self._finished: list[bool] = []

    def add(self, spoken: Mapping[str, Any]) -> None:
        """Score an utterance, and draw it if it is among the first ones.

        Arguments
        ---------
        spoken : dict of str to str
            A row of ``synthesis.csv``, as described in :func:`~speechbrain_mamba.evaluation.speaking.speak_test_set`.
        """
        if len(self.rows) < self.n_examples and float(spoken["duration"]):
            self._draw(spoken)
        self._finished.append(spoken["finished"] == "True")
        self.rows.append(self._score(spoken))

    def _score(self, spoken: Mapping[str, Any]) -> dict[str, Any]:
        """The scores of an utterance, None where there is nothing to compare with."""
        row = {"ID": spoken["ID"], **dict.fromkeys(SCORES), "wrd": spoken["wrd"], "hypothesis": ""}
        duration = float(spoken["duration"])  # may be 0: files without samples cannot be read
        wav, rate = _read(spoken["wav"]) if duration else (torch.zeros(0), 0)
        row["rtf"] = float(spoken["seconds"]) / duration if duration else None
        if self.recognize is not None:
            row["hypothesis"] = normalize_words(self.recognize(wav, rate)) if duration else ""
            row["wer"] = self._count("wer", spoken, row["hypothesis"])
        if _exists(spoken["reference"]):
            reference, reference_rate = _read(spoken["reference"])
            seconds = len(reference) / reference_rate
            row["duration_error"] = 100 * (duration - seconds) / seconds
            if rate == reference_rate and min(duration, seconds) > 0.05:
                row["mcd"] = mel_cepstral_distortion(wav, reference, rate)
            if self.recognize is not None:
                text = normalize_words(self.recognize(reference, reference_rate))
                row["reference_wer"] = self._count("reference_wer", spoken, text)
        if self.embed is not None and duration > 0.05:
            voice = self.embed(wav, rate)
            for prompt, score in (("prompt", "similarity"), ("other_prompt", "other_similarity")):
                if _exists(spoken[prompt]):
                    row[score] = float(cosine_similarity(voice, self.embed(*_read(spoken[prompt])), dim=-1))
        return row

    def _count(self, score: str, spoken: Mapping[str, Any], hypothesis: str) -> float:
        return self.errors[score].add(spoken["ID"], hypothesis, normalize_words(spoken["wrd"]))

    def _draw(self, spoken: Mapping[str, Any]) -> None:
        wav, rate = _read(spoken["wav"])
        sounds = {f"{spoken['ID']}: {spoken['wrd']}": wav}
        if _exists(spoken["reference"]) and audio_info(spoken["reference"]).sample_rate == rate:
            sounds = {"recording": _read(spoken["reference"])[0], **sounds}
        plot_spectrograms(self.folder / "examples" / f"{spoken['ID']}.png", sounds, rate, n_mels=N_MELS)

    def _voices(self) -> list[tuple[float, float]]:
        """Similarities to the prompt and to another speaker, of utterances that have both."""
        pairs = [(row["similarity"], row["other_similarity"]) for row in self.rows]
        return [pair for pair in pairs if None not in pair]

    def scores(self) -> dict[str, Any]:
        """Summarize the scores, leaving out those that no utterance has.

        Returns
        -------
        dict
            ``finished``, the percentage that ended on its own; ``wer`` and ``reference_wer`` over all words;
            ``right_speaker``, the percentage that is more similar to its prompt than to the other one; and the means
            of the other scores. ``duration_error`` is the mean of its absolute values.
        """
        right = mean([own > other for own, other in self._voices()])
        summary = {
            "finished": 100 * sum(self._finished) / len(self._finished),
            **{name: errors.rate() for name, errors in self.errors.items()},
            "right_speaker": None if right is None else 100 * right,
            **{name: mean(self.defined(name)) for name in ("similarity", "other_similarity", "mcd")},
            "duration_error": mean([abs(error) for error in self.defined("duration_error")]),
            "rtf": mean(self.defined("rtf")),
        }
        return {name: value for name, value in summary.items() if value is not None}

    def write_more(self) -> None:
        """Write the alignments, and draw the similarities."""
        if self.recognize is not None:
            self.errors["wer"].write_alignments(self.folder / "wer.txt")
        if pairs := self._voices():
            labels = ["similarity to the prompt", "similarity to another speaker"]
            plot_pairs(self.folder / "similarity.png", pairs, labels)


def judge_speech(
    folder: str | os.PathLike,
    recognize: Callable[[Tensor, int], str] | None = None,
    embed: Callable[[Tensor, int], Tensor] | None = None,
    n_examples: int = 8,
) -> dict[str, Any]:
    """Score what ``synthesis.csv`` in a folder lists, as
    :func:`~speechbrain_mamba.evaluation.speaking.speak_test_set` wrote it, and write a :class:`SynthesisReport`.

    Arguments
    ---------
    folder : str or Path
        The folder.
    recognize, embed, n_examples
        As in :class:`SynthesisReport`.

    Returns
    -------
    dict
        The summary, see :meth:`SynthesisReport.scores`.

    Raises
    ------
    FileNotFoundError
        When nothing was spoken into the folder.
    ValueError
        When ``synthesis.csv`` lists nothing.

    Example
    -------
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> from speechbrain_mamba.utils.files import write_csv
    >>> folder = getfixture("tmp_path")
    >>> wav = folder / "a.wav"
    >>> write_audio(wav, 0.1 * torch.randn(8000), 8000)
    >>> row = {"ID": "a", "wrd": "ONE TWO", "finished": True, "duration": 1.0, "seconds": 0.5, "wav": wav,
    ...        "reference": wav, "prompt": wav, "other_prompt": ""}
    >>> write_csv(folder / TABLE, [row], list(row))
    >>> summary = judge_speech(folder, recognize=lambda wav, rate: "one, three", n_examples=0)
    >>> summary["wer"], summary["mcd"], summary["rtf"]
    (50.0, 0.0, 0.5)
    """
    table = Path(folder) / TABLE
    if not table.is_file():
        raise FileNotFoundError(f"'{folder}' has no {TABLE}: train.py writes it when it says the test sentences.")
    with open(table, newline="", encoding="utf-8") as file:
        spoken = list(csv.DictReader(file))
    if not spoken:
        raise ValueError(f"'{table}' lists no utterance.")
    recordings = {row[column] for row in spoken for column in ("reference", "prompt", "other_prompt")}
    gone = sorted(path for path in recordings if path and not _exists(path))
    if gone:
        logger.warning("%d recordings to compare with are not there any more: %s, ...", len(gone), gone[0])
    report = SynthesisReport(folder, recognize, embed, n_examples)
    for row in tqdm(spoken, desc="Judging the speech", unit="utterance", dynamic_ncols=True):
        report.add(row)
    return report.write()


def _exists(path: str) -> bool:
    return bool(path) and Path(path).is_file()


def _read(path: str) -> tuple[Tensor, int]:
    rate = audio_info(path).sample_rate
    return read_audio(path, rate), rate
