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

from speechbrain_mamba.dataio.audio import UnreadableAudioError, audio_info, read_audio
from speechbrain_mamba.evaluation.report import Report, mean
from speechbrain_mamba.evaluation.speaking import TABLE
from speechbrain_mamba.evaluation.synthesis_scores import N_MELS, mel_cepstral_distortion
from speechbrain_mamba.evaluation.text_normalization import load_normalization
from speechbrain_mamba.evaluation.word_errors import WordErrors
from speechbrain_mamba.utils.plots import plot_pairs, plot_spectrograms

logger = logging.getLogger(__name__)

SCORES = [
    "wer", "reference_wer", "similarity", "other_similarity", "mos", "reference_mos", "mcd", "duration_error", "rtf"
]  # fmt: skip
"""Scores of an utterance: word error rates of the speech and of the recording in percent; cosine similarity to the
prompt and to a prompt of another speaker; predicted mean opinion scores of the speech and of the recording;
mel-cepstral distortion in dB; how much longer than the recording it is, in percent; seconds of computing per second of
speech."""
SHORTEST = 0.05
"""Seconds of the shortest sound whose voice and cepstra are compared."""


class SynthesisReport(Report):
    """Score the speech of a test, and write it all to the folder that it is in.

    The folder gets ``results.csv`` with a row per utterance and ``summary.json``; with a recognizer ``wer.txt``,
    SpeechBrain's alignments; with a speaker encoder ``similarity.png``, each utterance's similarity to its prompt and
    to another speaker; and in ``examples/`` pictures of the first utterances, each below the recording of its text.

    Speech, recordings and prompts that are silent, not finite or cannot be read are no end of the test: the utterance
    is listed with the reason, counted as ``unscored``, and left out of all means and rates, its words too.

    Arguments
    ---------
    folder, n_examples
        Where the speech is and the results go, and how many utterances to draw.
    recognize, embed : callable, optional
        From a waveform (samples,) and its rate to words, and to a speaker embedding (channels,).
    rate_naturalness : callable, optional
        From a waveform and its rate to a predicted mean opinion score: the column ``mos``.
    normalization : str
        How texts are normalized before errors are counted, see
        :func:`~speechbrain_mamba.evaluation.text_normalization.load_normalization`. The summary names it.
    """

    columns = ("ID", *SCORES, "wrd", "hypothesis")

    def __init__(
        self,
        folder: str | os.PathLike,
        recognize: Callable[[Tensor, int], str] | None = None,
        embed: Callable[[Tensor, int], Tensor] | None = None,
        n_examples: int = 8,
        rate_naturalness: Callable[[Tensor, int], float] | None = None,
        normalization: str = "words",
    ) -> None:
        super().__init__(folder)
        self.recognize, self.embed, self.n_examples = recognize, embed, n_examples
        self.rate_naturalness = rate_naturalness
        self.normalization, self._normalize = normalization, load_normalization(normalization)
        self.errors = {"wer": WordErrors(), "reference_wer": WordErrors()}
        self._finished: dict[str, bool] = {}

    def add(self, spoken: Mapping[str, Any]) -> None:
        """Score an utterance, a row of the table that
        :func:`~speechbrain_mamba.evaluation.speaking.speak_test_set` writes, and draw it if it is among the first
        ones."""
        name, duration = spoken["ID"], float(spoken["duration"])
        paths = {"speech": spoken["wav"], "recording": spoken["reference"]}
        paths |= {"prompt": spoken["prompt"], "other prompt": spoken["other_prompt"]} if self.embed else {}
        try:
            if not spoken["wav"]:
                raise UnreadableAudioError("the speech is not finite")
            if not duration:  # files without samples cannot be read
                raise UnreadableAudioError("the speech is empty")
            sounds = {what: _read(path, what) for what, path in paths.items() if what == "speech" or _exists(path)}
        except UnreadableAudioError as error:
            self.add_unscored(name, str(error), wrd=spoken["wrd"])
            return
        wav, rate = sounds["speech"]
        reference, reference_rate = sounds.get("recording", (torch.zeros(0), 0))
        if len(self.rows) < self.n_examples:
            pictured = {"recording": reference} if rate == reference_rate else {}
            pictured[f"{name}: {spoken['wrd']}"] = wav
            plot_spectrograms(self.folder / "examples" / f"{name}.png", pictured, rate, n_mels=N_MELS)

        row = {"ID": name, **dict.fromkeys(SCORES), "wrd": spoken["wrd"], "hypothesis": ""}
        row["rtf"] = float(spoken["seconds"]) / duration
        if reference_rate:
            seconds = len(reference) / reference_rate
            row["duration_error"] = 100 * (duration - seconds) / seconds
            if rate == reference_rate and min(duration, seconds) > SHORTEST:
                row["mcd"] = mel_cepstral_distortion(wav, reference, rate)
        if self.embed is not None and duration > SHORTEST:
            voice = self.embed(wav, rate)
            for prompt, score in (("prompt", "similarity"), ("other prompt", "other_similarity")):
                if prompt in sounds:
                    row[score] = float(cosine_similarity(voice, self.embed(*sounds[prompt]), dim=-1))
        if self.rate_naturalness is not None and duration > SHORTEST:
            row["mos"] = self.rate_naturalness(wav, rate)
            if reference_rate:
                row["reference_mos"] = self.rate_naturalness(reference, reference_rate)
        if self.recognize is not None and not self.why_unscored(row):
            row["hypothesis"] = self._hear(wav, rate)
            row["wer"] = self._count("wer", spoken, row["hypothesis"])
            if reference_rate:
                row["reference_wer"] = self._count("reference_wer", spoken, self._hear(reference, reference_rate))
        self.rows.append(row)
        self._finished[name] = spoken["finished"] == "True"

    def _hear(self, wav: Tensor, rate: int) -> str:
        """The words of a sound. A recognizer may have no frame of a shorter one, so silence is put behind it."""
        assert self.recognize is not None
        missing = max(round(SHORTEST * rate) - len(wav), 0)
        return self._normalize(self.recognize(torch.nn.functional.pad(wav, (0, missing)), rate))

    def _count(self, score: str, spoken: Mapping[str, Any], hypothesis: str) -> float:
        return self.errors[score].add(spoken["ID"], hypothesis, self._normalize(spoken["wrd"]))

    def scores(self) -> dict[str, Any]:
        """Summarize the scores that some utterance has: ``finished``, the percentage that ended on its own; ``wer`` and
        ``reference_wer`` over all words; ``right_speaker``, the percentage that is more similar to its prompt than to
        the other one; and the means of the other scores, of ``duration_error`` without its sign."""
        summary = {
            "finished": mean([100 * self._finished[row["ID"]] for row in self.scored_rows()]),
            **{name: errors.rate() for name, errors in self.errors.items()},
            "right_speaker": mean([100 * (own > other) for own, other in self.pairs("similarity", "other_similarity")]),
            **{
                name: mean(self.defined(name))
                for name in ("similarity", "other_similarity", "mos", "reference_mos", "mcd")
            },
            "duration_error": mean([abs(error) for error in self.defined("duration_error")]),
            "rtf": mean(self.defined("rtf")),
        }
        return {name: value for name, value in summary.items() if value is not None}

    def summarize(self) -> dict[str, Any]:
        """The scores, with the name of the normalization if words were counted."""
        summary = super().summarize()
        return summary if self.recognize is None else {**summary, "normalization": self.normalization}

    def write_more(self) -> None:
        """Write the alignments, and draw the similarities."""
        if self.recognize is not None:
            self.errors["wer"].write_alignments(self.folder / "wer.txt")
        if pairs := self.pairs("similarity", "other_similarity"):
            labels = ["similarity to the prompt", "similarity to another speaker"]
            plot_pairs(self.folder / "similarity.png", pairs, labels)


def judge_speech(
    folder: str | os.PathLike,
    recognize: Callable[[Tensor, int], str] | None = None,
    embed: Callable[[Tensor, int], Tensor] | None = None,
    n_examples: int = 8,
    rate_naturalness: Callable[[Tensor, int], float] | None = None,
    normalization: str = "words",
) -> dict[str, Any]:
    """Score what :func:`~speechbrain_mamba.evaluation.speaking.speak_test_set` wrote into a folder, write a
    :class:`SynthesisReport`, whose arguments these are, and return its summary.

    Raises
    ------
    FileNotFoundError, ValueError
        When nothing was spoken into the folder, and when its ``synthesis.csv`` lists nothing.

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
    report = SynthesisReport(folder, recognize, embed, n_examples, rate_naturalness, normalization)
    for row in tqdm(spoken, desc="Judging the speech", unit="utterance", dynamic_ncols=True):
        report.add(row)
    return report.write()


def _exists(path: str) -> bool:
    return bool(path) and Path(path).is_file()


def _read(path: str, what: str) -> tuple[Tensor, int]:
    """Read a sound and its rate in Hz; an UnreadableAudioError says why it cannot be compared with others."""
    try:
        rate = audio_info(path).sample_rate
        wav = read_audio(path, rate)
    except UnreadableAudioError as error:
        raise UnreadableAudioError(f"the {what} cannot be read: {error}") from error
    if not wav.any():
        raise UnreadableAudioError(f"the {what} is silent")
    return wav, rate
