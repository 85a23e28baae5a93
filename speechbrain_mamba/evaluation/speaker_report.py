"""The results of a speaker verification test."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from speechbrain_mamba.evaluation.report import Report
from speechbrain_mamba.utils.plots import plot_pairs


class SpeakerReport(Report):
    """Collect the embeddings of a test, and compare all pairs of them.

    The folder gets ``verification.json`` with the equal error rate in percent over all pairs, ``EER``; ``results.csv``
    with each utterance's mean similarity to its speaker's other utterances and to those of other speakers; and
    ``similarity.png``, which shows both.

    Example
    -------
    >>> report = SpeakerReport(getfixture("tmp_path"))
    >>> for name, speaker, angle in (("a", "anna", 0.1), ("b", "anna", 0.3), ("c", "ben", 1.2)):
    ...     report.add(name, speaker, torch.tensor([angle, 1.0]))
    >>> report.write()
    {'utterances': 3, 'pairs': 3, 'EER': 0.0}
    """

    columns = ("id", "spk_id", "own_similarity", "other_similarity")
    summary_file = "verification.json"
    collected = ("rows", "_embeddings")

    def __init__(self, folder: str | os.PathLike) -> None:
        super().__init__(folder)
        self._embeddings: list[Tensor] = []

    def add(self, name: str, speaker: str, embedding: Tensor) -> None:
        """Keep an utterance's embedding (channels,), whose direction will be compared with all others."""
        self.rows.append({"id": name, "spk_id": speaker})
        self._embeddings.append(torch.nn.functional.normalize(embedding.detach().float(), dim=0).cpu())

    def scores(self) -> dict[str, Any]:
        """Count the ``pairs``, find the equal error rate over them in percent, ``EER``, and complete the rows.

        Raises
        ------
        ValueError
            When no two utterances are of one speaker, or none are of different ones.
        """
        embeddings = torch.stack(self._embeddings)
        similarities = embeddings @ embeddings.T
        names = sorted({row["spk_id"] for row in self.rows})
        speakers = torch.tensor([names.index(row["spk_id"]) for row in self.rows])
        same = speakers[:, None] == speakers
        for row, values, own, others in zip(self.rows, similarities, same & ~torch.eye(len(same)).bool(), ~same):
            for column, chosen in (("own_similarity", own), ("other_similarity", others)):
                row[column] = values[chosen].mean().item() if chosen.any() else None
        pairs = torch.ones_like(same).triu(1)
        positive, negative = similarities[pairs & same], similarities[pairs & ~same]
        if not len(positive) or not len(negative):
            raise ValueError("Speakers cannot be compared: two are needed, and two utterances of one of them.")
        return {"pairs": len(positive) + len(negative), "EER": equal_error_rate(positive, negative)}

    def write_more(self) -> None:
        """Draw the similarities of utterances that have both."""
        pairs = self.pairs("own_similarity", "other_similarity")
        plot_pairs(self.folder / "similarity.png", pairs, ["similarity to the speaker", "similarity to other speakers"])


def equal_error_rate(positive: Tensor, negative: Tensor) -> float:
    """The equal error rate in percent: the mean of the rates of rejected ``positive`` scores (pairs,), of one speaker,
    and of accepted ``negative`` ones, of different speakers, at the threshold where they are closest.

    SpeechBrain's ``EER`` gives the same, but its effort grows with the square of the number of scores.

    Example
    -------
    >>> equal_error_rate(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.4, 0.2, 0.1]))  # doctest: +ELLIPSIS
    33.33...
    """
    positive, negative = positive.double().sort().values, negative.double().sort().values
    thresholds = torch.cat([positive, negative]).unique()
    thresholds = torch.cat([thresholds, (thresholds[1:] + thresholds[:-1]) / 2]).sort().values
    rejected = torch.searchsorted(positive, thresholds, right=True).double() / len(positive)
    accepted = (len(negative) - torch.searchsorted(negative, thresholds, right=True)).double() / len(negative)
    best = (accepted - rejected).abs().argmin()
    return 50 * (accepted + rejected)[best].item()
