"""What a training run measured and how it was trained, read from its output folder."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from speechbrain_mamba.training.record import HYPERPARAMS
from speechbrain_mamba.utils.yaml_text import parse_yaml

SUMMARIES = ("summary.json", "verification.json", "word_errors.json", "reconstruction.json", "prediction.json")
"""The files of a test that hold its scores."""

SETTINGS = (
    "experiment_name", "corpus", "number_of_epochs", "seed", "precision", "lr", "batch_size", "max_batch_length_train",
    "grad_accumulation_factor", "sample_rate", "num_spks", "mixer", "attention_layers", "cross", "backbone",
    "streaming", "causal",
)  # fmt: skip
"""Settings that a card shows. Others may hold paths of the machine that trained."""

_NAMES = {
    "si_snr": ("SI-SNR", "dB"), "si_snr_i": ("SI-SNRi", "dB"), "sdr": ("SDR", "dB"), "sdr_i": ("SDRi", "dB"),
    "wer": ("WER", "%"), "cer": ("CER", "%"), "reference_wer": ("WER of recordings", "%"),
    "first_codebook_wer": ("WER of the first codebook", "%"), "EER": ("EER", "%"), "mcd": ("MCD", "dB"),
    "finished": ("finished", "%"), "right_speaker": ("right speaker", "%"), "duration_error": ("duration error", "%"),
    "rtf": ("real-time factor", ""),
}  # fmt: skip


class Score(NamedTuple):
    """A score of a test."""

    key: str
    """Its name in the files."""

    label: str
    """Its name for readers, with its unit: ``SI-SNRi, dB``."""

    value: float


@dataclass(frozen=True)
class TestResult:
    """The scores of one test.

    Attributes
    ----------
    name : str
        The name of the test set, such as ``test-clean``.
    scores : list of Score
        The means.
    counts : dict of str to int
        How many examples it had, and how many of them have no score.
    """

    __test__ = False  # no class of tests

    name: str
    scores: list[Score]
    counts: dict[str, int]


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run.

    Attributes
    ----------
    results : list of TestResult
        The tests.
    settings : dict of str to object
        Those of :data:`SETTINGS` that it has.
    epochs : int
        Epochs that were trained; 0 if it is not known.
    hours : float
        Hours that they took.
    """

    results: list[TestResult] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    epochs: int = 0
    hours: float = 0.0


def read_run(folder: str | os.PathLike) -> RunFacts:
    """Read the facts of a run; what is not there is left out.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "test").mkdir()
    >>> _ = (folder / "test" / "summary.json").write_text('{"mixtures": 3, "unscored": 0, "si_snr_i": 9.5}')
    >>> read_run(folder).results[0].scores
    [Score(key='si_snr_i', label='SI-SNRi, dB', value=9.5)]
    """
    root, results = Path(folder), []
    for path in sorted((root / "test").rglob("*.json")) if (root / "test").is_dir() else []:
        if path.name in SUMMARIES and path.parent.name != "examples":
            results.append(_read_summary(path, root / "test"))
    settings: dict[str, Any] = {}
    if (root / HYPERPARAMS).is_file():
        tree = parse_yaml((root / HYPERPARAMS).read_text(encoding="utf-8"), str(root / HYPERPARAMS)) or {}
        found = {key: tree[key] for key in SETTINGS if key in tree}
        settings = {key: value for key, value in found.items() if isinstance(value, (bool, int, float, str))}
    epochs, seconds = 0, 0.0
    if (root / "training.csv").is_file():
        with open(root / "training.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        epochs, seconds = len(rows), sum(float(row.get("seconds") or 0) for row in rows)
    return RunFacts([one for one in results if one.scores], settings, epochs, seconds / 3600)


def _read_summary(path: Path, root: Path) -> TestResult:
    summary = json.loads(path.read_text(encoding="utf-8"))
    scores, counts = [], {}
    for key, value in summary.items() if isinstance(summary, dict) else ():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            continue
        if isinstance(value, int):
            counts[key] = value
        else:
            scores.append(Score(key, label_of(key), float(value)))
    name = path.parent.relative_to(root).as_posix()
    return TestResult("test" if name == "." else name, scores, counts)


def label_of(key: str) -> str:
    """The name of a score for readers.

    Example
    -------
    >>> label_of("beam_wer"), label_of("estoi")
    ('WER (beam), %', 'estoi')
    """
    search, _, rate = key.rpartition("_")
    if rate in ("wer", "cer") and search in ("greedy", "beam"):
        return f"{rate.upper()} ({search}), %"
    name, unit = _NAMES.get(key, (key, ""))
    return f"{name}, {unit}" if unit else name


def metric_of(key: str) -> str:
    """The name of a score as the Hub calls metrics.

    Example
    -------
    >>> metric_of("beam_wer"), metric_of("si_snr_i")
    ('wer', 'si-snri')
    """
    last = key.rpartition("_")[2]
    return last if last in ("wer", "cer") else key.lower().replace("_i", "i").replace("_", "-")
