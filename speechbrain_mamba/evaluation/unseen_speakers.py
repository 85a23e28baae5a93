"""What a separator does for people who were in no training: scores over mixtures of FSDD's speakers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from speechbrain_mamba.corpora import fsdd
from speechbrain_mamba.dataio.audio_files import SkippedFiles
from speechbrain_mamba.dataio.mixing import Mixture, MixtureSampler
from speechbrain_mamba.evaluation.separation_scores import score_separation

SAMPLE_RATE = 8000
_SEED = 1236  # that of the test mixtures of a training on FSDD with the default seed


def digit_mixtures(data_folder: str | os.PathLike, count: int, seconds: float = 2.0) -> Iterator[Mixture]:
    """Mixtures of strings of digits of two of FSDD's six speakers, of the takes that are for the test.

    Arguments
    ---------
    data_folder : str or Path
        FSDD, with its folder ``recordings``.
    count : int
        How many.
    seconds : float
        The length of each.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such folder, or no speech of FSDD in it.
    """
    speech = fsdd.find_speech(data_folder, SAMPLE_RATE, SkippedFiles())["test"]
    sampler = MixtureSampler(speech, 2, SAMPLE_RATE, (seconds, seconds), _SEED)
    return map(sampler.draw, range(count))


def score_mixtures(
    separate: Callable[[Tensor], Tensor], mixtures: Iterator[Mixture] | Sequence[Mixture]
) -> list[dict[str, Any]]:
    """Separate mixtures and score each.

    Arguments
    ---------
    separate : callable
        Takes a mixture (1, samples), returns the speakers (1, samples, speakers).
    mixtures : iterable of Mixture
        The mixtures.

    Returns
    -------
    list of dict
        For each its ``speakers``, ``si_snr_i`` and ``sdr_i`` in dB.
    """
    rows = []
    for mixture in mixtures:
        scores, _ = score_separation(mixture.mix, mixture.sources.T, separate(mixture.mix[None])[0])
        pair = " and ".join(sorted(mixture.speakers))
        rows.append({"speakers": pair, "si_snr_i": scores.si_snr_i, "sdr_i": scores.sdr_i})
    return rows


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means of some mixtures in dB, and the share of those that the separation made worse in percent.

    Example
    -------
    >>> summarize([{"si_snr_i": 4.0, "sdr_i": 5.0}, {"si_snr_i": -1.0, "sdr_i": 1.0}])
    {'si_snr_i': 1.5, 'sdr_i': 3.0, 'worse': 50.0}
    """
    means = {key: sum(row[key] for row in rows) / len(rows) for key in ("si_snr_i", "sdr_i")}
    return {**means, "worse": 100 * sum(row["si_snr_i"] < 0 for row in rows) / len(rows)}


def by_pair(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The summary of each pair of speakers, the best one first, each with its number of ``mixtures``."""
    pairs: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        pairs.setdefault(row["speakers"], []).append(row)
    found = {pair: {"mixtures": len(own), **summarize(own)} for pair, own in pairs.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]["si_snr_i"]))
