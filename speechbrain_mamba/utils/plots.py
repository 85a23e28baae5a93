"""Pictures of training runs and of speech.

Each function takes the path of a PNG file to write, and raises ImportError if matplotlib is not installed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from speechbrain_mamba.utils.files import atomic_path

if TYPE_CHECKING:  # optional
    from matplotlib.figure import Figure


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    """A figure, and its axes (rows, columns)."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'Pictures are drawn by matplotlib, which is not installed: pip install "speechbrain_mamba[recipes]".'
        ) from error
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    figure = Figure(figsize=size, layout="constrained")  # not pyplot: no display, no global state
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    with atomic_path(path, durable=False) as temporary:
        figure.savefig(temporary, dpi=110)


def plot_curves(
    path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], x: str, panels: Mapping[str, Sequence[str]]
) -> None:
    """Draw the course of a training run.

    Arguments
    ---------
    rows : list of dict
        The run's table, such as a row per epoch.
    x : str
        The column on the horizontal axis.
    panels : dict of str to list of str
        For each panel, by the label of its vertical axis, the columns to draw.

    Example
    -------
    >>> path = getfixture("tmp_path") / "curve.png"
    >>> plot_curves(path, [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}], "epoch", {"loss": ["loss"]})
    >>> path.stat().st_size > 1000
    True
    """
    figure, axes = new_figure(1, len(panels), (5 * len(panels), 3.5))
    for axis, (label, columns) in zip(axes[0], panels.items()):
        for column in columns:
            axis.plot([row[x] for row in rows], [row[column] for row in rows], marker=".", label=column)
        axis.set(xlabel=x, ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend()
    save_figure(figure, path)


def _levels(signals: Mapping[str, Tensor], sample_rate: int, n_mels: int | None = None) -> dict[str, Tensor]:
    """Levels in dB (frequencies, frames) of signals (samples,), in Hann windows of 32 ms."""
    n_fft = max(16, round(0.032 * sample_rate))
    levels = {}
    for title, signal in signals.items():
        padded = torch.nn.functional.pad(signal.detach().float().cpu(), (0, max(0, n_fft - len(signal))))
        spectrum = torch.stft(padded, n_fft, n_fft // 4, window=torch.hann_window(n_fft), return_complex=True)
        power = spectrum.abs().square()
        if n_mels is not None:
            power = melscale_fbanks(len(power), 0, sample_rate / 2, n_mels, sample_rate).T @ power
        levels[title] = 10 * torch.log10(power + 1e-16)
    return levels


def plot_sounds(path: str | os.PathLike, signals: Mapping[str, Tensor], sample_rate: int) -> None:
    """Draw the waveform of each signal beside its spectrogram, all on the same scales: the largest amplitude, and 70 dB
    below the highest level.

    Arguments
    ---------
    signals : dict of str to Tensor
        Signals (samples,) by title.
    sample_rate : int
        In Hz.

    Example
    -------
    >>> path = getfixture("tmp_path") / "sounds.png"
    >>> plot_sounds(path, {"noise": torch.randn(8000)}, sample_rate=8000)
    >>> path.stat().st_size > 1000
    True
    """
    levels = _levels(signals, sample_rate)
    top = max(level.max().item() for level in levels.values())
    loudest = max([*(signal.abs().max().item() for signal in signals.values() if len(signal)), 1e-9])
    figure, axes = new_figure(len(signals), 2, (12, 1.9 * len(signals)))
    for (left, right), (title, signal) in zip(axes, signals.items()):
        seconds = len(signal) / sample_rate
        left.plot(torch.arange(len(signal)) / sample_rate, signal.detach().float().cpu(), linewidth=0.4)
        left.set(xlim=(0, max(seconds, 1 / sample_rate)), ylim=(-1.05 * loudest, 1.05 * loudest))
        left.set_title(title, fontsize=9, loc="left")
        options = {"origin": "lower", "aspect": "auto", "extent": (0, seconds, 0, sample_rate / 2000)}
        image = right.imshow(levels[title].numpy(), vmin=top - 70, vmax=top, cmap="magma", **options)
        right.set_ylabel("kHz")
    for axis in axes[-1]:
        axis.set_xlabel("s")
    figure.colorbar(image, ax=axes[:, 1], label="dB")
    save_figure(figure, path)


def plot_spectrograms(
    path: str | os.PathLike, signals: Mapping[str, Tensor], sample_rate: int, n_mels: int | None = None
) -> None:
    """Draw spectrograms one below the other: Hann windows of 32 ms, and one color scale, from the highest level of all
    signals to 70 dB below it.

    Arguments
    ---------
    signals : dict of str to Tensor
        Signals (samples,) by title.
    sample_rate : int
        In Hz.
    n_mels : int, optional
        Number of mel bands to draw instead of linear frequencies.

    Example
    -------
    >>> path = getfixture("tmp_path") / "spectrogram.png"
    >>> plot_spectrograms(path, {"noise": torch.randn(8000)}, sample_rate=8000)
    >>> path.stat().st_size > 1000
    True
    """
    levels = _levels(signals, sample_rate, n_mels)
    top = max(level.max().item() for level in levels.values())
    figure, axes = new_figure(len(signals), 1, (9, 1.9 * len(signals)))
    for axis, (title, level) in zip(axes[:, 0], levels.items()):
        extent = (0, len(signals[title]) / sample_rate, 0, n_mels or sample_rate / 2000)
        options = {"origin": "lower", "aspect": "auto", "extent": extent, "cmap": "magma"}
        image = axis.imshow(level.numpy(), vmin=top - 70, vmax=top, **options)
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_ylabel("mel band" if n_mels else "kHz")
    axes[-1, 0].set_xlabel("s")
    figure.colorbar(image, ax=axes[:, 0], label="dB")
    save_figure(figure, path)


def plot_pairs(path: str | os.PathLike, pairs: Sequence[tuple[float, float]], labels: Sequence[str]) -> None:
    """Draw pairs of numbers as points, with labels for both axes and the line where both are equal.

    Example
    -------
    >>> path = getfixture("tmp_path") / "pairs.png"
    >>> plot_pairs(path, [(0.9, 0.2), (0.7, 0.1)], ["right", "wrong"])
    >>> path.stat().st_size > 1000
    True
    """
    figure, [[axis]] = new_figure(1, 1, (4.5, 4.5))
    axis.plot(*zip(*pairs), ".", alpha=0.6)
    axis.axline((0, 0), slope=1, color="gray", linewidth=1)
    axis.set(xlabel=labels[0], ylabel=labels[1])
    axis.grid(alpha=0.3)
    save_figure(figure, path)
