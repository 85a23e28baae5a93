"""The results of a separation test, in files people can look at and listen to."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

from torch import Tensor

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.evaluation.perceptual_scores import check_perceptual_packages, perceptual_scores
from speechbrain_mamba.evaluation.report import Report, mean
from speechbrain_mamba.evaluation.separation_scores import NOT_FINITE, SeparationScores, score_separation
from speechbrain_mamba.utils.plots import plot_spectrograms

SCORES = [field.name for field in fields(SeparationScores) if field.name != "fault"]
PERCEPTUAL_SCORES = ["pesq", "pesq_i", "estoi", "estoi_i"]
"""Scores that are computed if they are asked for: of the estimates, and their improvements over the mixture."""


class SeparationReport(Report):
    """Collect the scores of a test, keep some examples, and write it all to a folder.

    The folder gets ``results.csv`` with a row per mixture, ``summary.json`` with the means, and in ``examples/`` for
    each of the first mixtures the waveforms of mixture, sources and estimates, and a picture. The estimates are in the
    order of the sources and at their levels; the signals of an example are scaled together, so that none is clipped.
    A mixture that has no scores, such as one with a silent source, has one of ``separation_scores.FAULTS`` in the
    column ``unscored``.

    Arguments
    ---------
    folder, sample_rate, n_examples
        Where the results go, the rate in Hz, and how many mixtures to keep as examples.
    perceptual : bool
        Whether PESQ and ESTOI are computed too, see :mod:`~speechbrain_mamba.evaluation.perceptual_scores`. Mixtures
        for which one is not defined are left out of its mean.

    Raises
    ------
    ImportError
        When what computes PESQ or ESTOI is not installed.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> report = SeparationReport(folder, sample_rate=8000, n_examples=1)
    >>> sources = torch.randn(4000, 2)
    >>> _ = report.add("a", sources.sum(-1), sources, sources + 0.1 * torch.randn(4000, 2))
    >>> report.write()["mixtures"]
    1
    >>> sorted(path.name for path in (folder / "examples").iterdir())
    ['a.png', 'a_estimate1.wav', 'a_estimate2.wav', 'a_mix.wav', 'a_source1.wav', 'a_source2.wav']
    """

    subject = "mixture"
    required = SCORES

    def __init__(self, folder: str | os.PathLike, sample_rate: int, n_examples: int, perceptual: bool = False) -> None:
        super().__init__(folder)
        self.sample_rate, self.n_examples, self.perceptual = sample_rate, n_examples, perceptual
        self.columns = ("id", *SCORES, *(PERCEPTUAL_SCORES if perceptual else ()))
        if perceptual:
            check_perceptual_packages()

    def add(self, name: str, mix: Tensor, sources: Tensor, estimates: Tensor) -> SeparationScores:
        """Score a mixture with :func:`~speechbrain_mamba.evaluation.separation_scores.score_separation`, and keep it if
        it is among the first ones."""
        scores, aligned = score_separation(mix, sources, estimates)
        if len(self.rows) < self.n_examples and scores.fault != NOT_FINITE:  # there are no files of such signals
            self._write_example(name, mix.detach().cpu(), sources.detach().cpu(), aligned, scores)
        if scores.fault:
            self.add_unscored(name, scores.fault)
        else:
            row = {"id": name, **{score: getattr(scores, score) for score in SCORES}}
            self.rows.append(row | (self._perceptual_scores(mix, sources, aligned) if self.perceptual else {}))
        return scores

    def _perceptual_scores(self, mix: Tensor, sources: Tensor, aligned: Tensor) -> dict[str, float | None]:
        found = perceptual_scores(aligned, sources, self.sample_rate)
        before = perceptual_scores(mix[:, None].expand_as(sources), sources, self.sample_rate)
        row: dict[str, float | None] = {}
        for name, value in found.items():
            unprocessed = before[name]
            gain = None if value is None or unprocessed is None else value - unprocessed
            row |= {name: value, f"{name}_i": gain}
        return row

    def _write_example(
        self, name: str, mix: Tensor, sources: Tensor, estimates: Tensor, scores: SeparationScores
    ) -> None:
        speakers = range(sources.shape[1])
        signals = {"mix": mix}
        signals |= {f"source{i + 1}": sources[:, i] for i in speakers}
        signals |= {f"estimate{i + 1}": estimates[:, i] for i in speakers}
        peak = max(signal.abs().max().item() for signal in signals.values())
        signals = {key: signal.float() * 0.9 / max(peak, 1e-8) for key, signal in signals.items()}
        stem = self.folder / "examples" / name
        for key, signal in signals.items():
            write_audio(f"{stem}_{key}.wav", signal, self.sample_rate)
        found = scores.fault or f"SI-SNRi {scores.si_snr_i:.1f} dB, SDRi {scores.sdr_i:.1f} dB"
        plot_spectrograms(f"{stem}.png", {f"{name}: {found}; mix": signals.pop("mix"), **signals}, self.sample_rate)

    def scores(self) -> dict[str, Any]:
        """Means over the mixtures whose scores are all defined, in dB but for PESQ and ESTOI; None without any."""
        return {score: mean(self.defined(score)) for score in self.columns[1:]}
