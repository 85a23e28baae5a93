"""The results of a separation test, in files people can look at and listen to."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, fields
from pathlib import Path

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.evaluation.separation_scores import SeparationScores, score_separation
from speechbrain_mamba.utils.files import write_csv, write_json
from speechbrain_mamba.utils.plots import plot_spectrograms

SCORES = [field.name for field in fields(SeparationScores)]


class SeparationReport:
    """Collect the scores of a test, keep some examples, and write it all to a folder.

    The folder gets ``results.csv`` with a row per mixture, ``summary.json`` with the means, and in ``examples/`` for
    each of the first mixtures the waveforms of mixture, sources and estimates and a picture of their spectrograms. The
    estimates are in the order of the sources and at their levels; all signals of an example are scaled together, so
    that none is clipped.

    Arguments
    ---------
    folder : str or Path
        Where the results go.
    sample_rate : int
        In Hz.
    n_examples : int
        How many mixtures to keep as examples.

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

    def __init__(self, folder, sample_rate, n_examples):
        self.folder = Path(folder)
        self.sample_rate = sample_rate
        self.n_examples = n_examples
        self.rows = []

    def add(self, name, mix, sources, estimates):
        """Score a mixture, and keep it if it is among the first ones.

        Arguments
        ---------
        name : str
            Its name.
        mix : Tensor
            The mixture (samples,).
        sources, estimates : Tensor
            True and estimated speakers (samples, speakers).

        Returns
        -------
        SeparationScores
            The scores.
        """
        scores, aligned = score_separation(mix, sources, estimates)
        if len(self.rows) < self.n_examples:
            self._write_example(name, mix.detach().cpu(), sources.detach().cpu(), aligned, scores)
        self.rows.append({"id": name, **asdict(scores)})
        return scores

    def _write_example(self, name, mix, sources, estimates, scores):
        speakers = range(sources.shape[1])
        signals = {"mix": mix}
        signals |= {f"source{i + 1}": sources[:, i] for i in speakers}
        signals |= {f"estimate{i + 1}": estimates[:, i] for i in speakers}
        peak = max(signal.abs().max().item() for signal in signals.values())
        signals = {key: signal.float() * 0.9 / max(peak, 1e-8) for key, signal in signals.items()}
        stem = self.folder / "examples" / name
        for key, signal in signals.items():
            write_audio(f"{stem}_{key}.wav", signal, self.sample_rate)
        title = f"{name}: SI-SNRi {scores.si_snr_i:.1f} dB, SDRi {scores.sdr_i:.1f} dB; mix"
        plot_spectrograms(f"{stem}.png", {title: signals.pop("mix"), **signals}, self.sample_rate)

    def write(self):
        """Write the table and the means.

        Returns
        -------
        dict
            ``mixtures``, their number; ``undefined``, how many have a score that is not defined (left out of its mean);
            and the mean of each score in dB, None where no mixture has one.

        Raises
        ------
        ValueError
            When there are no results.
        """
        if not self.rows:
            raise ValueError("No mixture was tested: the test set is empty.")
        summary = {
            "mixtures": len(self.rows),
            "undefined": sum(any(not math.isfinite(row[score]) for score in SCORES) for row in self.rows),
        }
        for score in SCORES:
            finite = [row[score] for row in self.rows if math.isfinite(row[score])]
            summary[score] = statistics.fmean(finite) if finite else None
        write_csv(self.folder / "results.csv", self.rows, ["id", *SCORES])
        write_json(self.folder / "summary.json", summary)
        return summary


def format_summary(summary):
    """Put a summary into a table of two lines.

    Arguments
    ---------
    summary : dict
        What :meth:`SeparationReport.write` returns.

    Returns
    -------
    str
        The table.

    Example
    -------
    >>> print(format_summary({"mixtures": 3, "undefined": 0, "si_snr": 9.5, "si_snr_i": 9.1, "sdr": 10, "sdr_i": None}))
    mixtures  SI-SNR  SI-SNRi     SDR    SDRi
           3     9.5      9.1    10.0       -
    """
    cells = [f"{summary['mixtures']:8d}"]
    for score, width in zip(SCORES, (8, 9, 8, 8)):
        value = summary[score]
        cells.append(f"{'-' if value is None else format(value, '.1f'):>{width}}")
    return "mixtures  SI-SNR  SI-SNRi     SDR    SDRi\n" + "".join(cells)
