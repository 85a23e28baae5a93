"""The results of a speaker verification test."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechbrain_mamba.evaluation.report import Report
from speechbrain_mamba.utils.plots import plot_pairs

BLOCK = 512
"""Utterances that are compared with all others at a time."""


class SpeakerReport(Report):
    """Collect the embeddings of a test, and compare all pairs of them.

    The folder gets ``verification.json`` with the equal error rate in percent over all pairs, ``EER``; ``results.csv``
    with each utterance's mean similarity to its speaker's other utterances and to those of other speakers; and
    ``similarity.png``, which shows both. An utterance without a usable embedding is listed and counted, and compared
    with none.

    The scores of all pairs are kept, 4 bytes each: N utterances take 2 N^2 bytes, 50 MB for 5000, and
    N x ``BLOCK`` numbers more while they are compared.

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
        self._embeddings: list[Tensor] = []  # of the rows that are scored, in their order

    def add(self, name: str, speaker: str, embedding: Tensor) -> None:
        """Keep an utterance's embedding (channels,), whose direction will be compared with all others."""
        embedding = embedding.detach().float().cpu()
        if not embedding.isfinite().all():
            self.add_unscored(name, "its embedding is not finite", spk_id=speaker)
        elif not embedding.any():
            self.add_unscored(name, "its embedding is zero", spk_id=speaker)
        else:
            self.rows.append({"id": name, "spk_id": speaker})
            self._embeddings.append(torch.nn.functional.normalize(embedding, dim=0))

    def scores(self) -> dict[str, Any]:
        """Count the ``pairs``, find the equal error rate over them in percent, ``EER``, and complete the rows.

        Raises
        ------
        ValueError
            When no two utterances are of one speaker, or none are of different ones.
        """
        rows = self.scored_rows()
        names = {name: index for index, name in enumerate(dict.fromkeys(row["spk_id"] for row in rows))}
        speakers = torch.tensor([names[row["spk_id"]] for row in rows], dtype=torch.long)
        sizes = speakers.bincount()
        n_positive = int((sizes * (sizes - 1) // 2).sum())
        n_negative = len(rows) * (len(rows) - 1) // 2 - n_positive
        if not n_positive or not n_negative:
            raise ValueError("Speakers cannot be compared: two are needed, and two utterances of one of them.")
        embeddings = torch.stack(self._embeddings)
        positive, negative = (np.empty(count, np.float32) for count in (n_positive, n_negative))
        filled = [0, 0]
        for first in range(0, len(rows), BLOCK):
            similarities = embeddings[first : first + BLOCK] @ embeddings.T
            same = speakers[first : first + BLOCK, None] == speakers
            later = torch.ones_like(same).triu(first + 1)
            for kind, (scores, chosen) in enumerate(((positive, same), (negative, ~same))):
                values = similarities[chosen & later].numpy()
                scores[filled[kind] : filled[kind] + len(values)] = values
                filled[kind] += len(values)
            others, own = ~same, same.clone()
            own[:, first:].fill_diagonal_(False)
            for column, chosen in (("own_similarity", own), ("other_similarity", others)):
                sums, counts = (similarities.double() * chosen).sum(1).tolist(), chosen.sum(1).tolist()
                for row, total, count in zip(rows[first : first + BLOCK], sums, counts):
                    row[column] = total / count if count else None
        return {"pairs": n_positive + n_negative, "EER": equal_error_rate(positive, negative)}

    def write_more(self) -> None:
        """Draw the similarities of utterances that have both."""
        pairs = self.pairs("own_similarity", "other_similarity")
        plot_pairs(self.folder / "similarity.png", pairs, ["similarity to the speaker", "similarity to other speakers"])


def equal_error_rate(positive: np.ndarray | Tensor, negative: np.ndarray | Tensor) -> float:
    """The equal error rate in percent: the mean of the rates of rejected ``positive`` scores (pairs,), of one speaker,
    and of accepted ``negative`` ones, of different speakers, at the threshold where they are closest.

    SpeechBrain's ``EER`` gives the same, but tries each score and compares it with all others. Here both kinds are
    sorted, and the place where the rates cross is found by bisection. Arrays are sorted in place.

    Example
    -------
    >>> equal_error_rate(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.4, 0.2, 0.1]))  # doctest: +ELLIPSIS
    33.33...
    """
    kinds = [scores.numpy().copy() if isinstance(scores, Tensor) else scores for scores in (positive, negative)]
    for scores in kinds:
        scores.sort()

    def rates(threshold: float) -> tuple[float, float]:
        """Of accepted negative scores, which are above a threshold, and of rejected positive ones."""
        rejected, refused = (int(np.searchsorted(scores, threshold, "right")) for scores in kinds)
        return (len(kinds[1]) - refused) / len(kinds[1]), rejected / len(kinds[0])

    crossings, before = [], []  # of each kind the first score where more are rejected than accepted
    for scores in kinds:
        low, high = 0, len(scores)
        while low < high:
            middle = (low + high) // 2
            accepted, rejected = rates(scores[middle])
            low, high = (low, middle) if accepted < rejected else (middle + 1, high)
        crossings += [scores[low]] if low < len(scores) else []
    crossing = min(crossings)  # at the highest score none is accepted
    for scores in kinds:
        place = int(np.searchsorted(scores, crossing, "left"))
        before += [scores[place - 1]] if place else []
    candidates = [rates(threshold) for threshold in ([max(before)] if before else []) + [crossing]]
    accepted, rejected = min(candidates, key=lambda pair: abs(pair[0] - pair[1]))
    return 50 * (accepted + rejected)
