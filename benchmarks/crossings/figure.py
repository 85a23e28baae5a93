"""The picture of an efficiency map: costs over length with their fits, and thresholds over token durations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossings.catalog import COMPARISONS, systems_of
from crossings.cost_fits import fit_cost
from crossings.schedule import Series
from crossings.thresholds import Found, costs_of
from speechbrain_mamba.utils.plots import new_figure, save_figure

MAIN = {
    "separation": ["mambatasnet_M", "dpmamba_M", "sepformer", "mambatasnet_M, all attention"],
    "asr": ["conmamba_ctc", "conformer_ctc"],
    "tts": ["vallm AR", "valle AR"],
    "layer": ["mamba, both ways, 256 channels", "attention, both ways, 256 channels"],
}
"""What each panel shows, at the published duration of a token."""

_MARKERS = "os^Dv<>P"


def draw_map(path: Path, rows: Sequence[Mapping[str, Any]], found: Sequence[Found]) -> None:
    """Draw a panel for the time of each task's main systems, for inference and training step, and one for the
    thresholds over token durations.

    Raises
    ------
    ImportError
        When matplotlib is not installed.
    """
    costs = costs_of(rows, "seconds")
    tasks = [task for task in MAIN if any(row["task"] == task for row in rows)]
    figure, axes = new_figure(2, len(tasks) + 1, (4.6 * (len(tasks) + 1) + 3.5, 7.5))
    for line, which in enumerate(("inference", "training step")):
        for axis, task in zip(axes[line], tasks):
            _draw_costs(axis, task, which, costs)
        _draw_thresholds(axes[line, -1], which, found)
    save_figure(figure, path)


def draw_layers(path: Path, rows: Sequence[Mapping[str, Any]], found: Sequence[Found]) -> bool:
    """Draw experiment 1: what one layer costs over tokens, at the width of :data:`MAIN`, and the thresholds in tokens
    over widths, both for inference and training step.

    Returns
    -------
    bool
        Whether there is a threshold of a layer; nothing is drawn otherwise.
    """
    layers = [one for one in found if one.row["task"] == "layer" and one.measure == "time"]
    if not layers:
        return False
    costs = costs_of(rows, "seconds")
    figure, axes = new_figure(2, 2, (10, 7.5))
    for line, which in enumerate(("inference", "training step")):
        _draw_costs(axes[line, 0], "layer", which, costs)
        _draw_widths(axes[line, 1], which, [one for one in layers if one.passed == which])
    save_figure(figure, path)
    return True


def _draw_widths(axis: Any, which: str, found: Sequence[Found]) -> None:
    """The panel of thresholds in tokens over widths, a line for each kind of both layers."""
    kinds: dict[str, list[Found]] = {}
    for one in found:
        if 0 < one.threshold.length < math.inf:
            width = f", {one.comparison.mamba.overrides['d_model']} channels"
            kinds.setdefault(one.comparison.label.replace(width, ""), []).append(one)
    for number, (kind, own) in enumerate(kinds.items()):
        own = sorted(own, key=lambda one: one.comparison.mamba.overrides["d_model"])
        x = [one.comparison.mamba.overrides["d_model"] for one in own]
        y = [one.threshold.length for one in own]
        low = [max(0.0, one.threshold.length - one.threshold.low) for one in own]
        high = [max(0.0, min(one.threshold.high, 1e6) - one.threshold.length) for one in own]
        axis.errorbar(x, y, [low, high], fmt="o-", color=f"C{number % 10}", capsize=3, label=kind, markersize=4)
    axis.set(title=f"thresholds of a layer, {which}", xlabel="channels", ylabel="tokens")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.grid(alpha=0.3)
    if kinds:
        axis.legend(fontsize=6)


def _draw_costs(axis: Any, task: str, which: str, costs: Mapping[Series, Mapping[float, Sequence[float]]]) -> None:
    """The panel of a task and a pass."""
    by_key = {system.key: system for system in systems_of(list(COMPARISONS[task]()))}
    published = {token for label, _, token, _ in costs if label == MAIN[task][0]}
    usual = {"separation": 1.0, "asr": 40.0, "tts": 1000 / 75}.get(task, 0.0)
    token_ms = min(published, key=lambda token: abs(token - usual), default=0.0)
    for series in sorted(s for s in costs if s[0] in MAIN[task] and s[3] == which and s[2] == token_ms):
        label, form, _, _ = series
        points = [(t, cost) for t, of in sorted(costs[series].items()) for cost in of]
        lengths, seconds = zip(*points)
        linear = by_key[series[:3]].linear
        color = f"C{MAIN[task].index(label)}"
        style = "-" if linear or form == "sdpa" else "--"
        axis.loglog(lengths, seconds, ".", color=color, alpha=0.5)
        if len(costs[series]) >= 3:
            x = np.geomspace(min(lengths), max(lengths), 100)
            name = label if linear else f"{label}, {form}"
            axis.loglog(x, fit_cost(lengths, seconds, not linear).at(x), style, color=color, label=name)
    axis.set(title=f"{task}, {which}", xlabel="tokens" if task == "layer" else "s of speech", ylabel="s")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7)


def _draw_thresholds(axis: Any, which: str, found: Sequence[Found]) -> None:
    """The panel of thresholds in time over token durations; a constant number of tokens is a line of slope 1."""
    shown = [one for one in found if one.passed == which and one.measure == "time" and one.comparison.mamba.token_ms
             and 0 < one.threshold.length < math.inf]  # fmt: skip
    for number, label in enumerate(dict.fromkeys(one.row["comparison"] for one in shown)):
        own = [one for one in shown if one.row["comparison"] == label]
        x = [one.comparison.mamba.token_ms for one in own]
        y = [one.threshold.length for one in own]
        low = [max(0.0, one.threshold.length - one.threshold.low) for one in own]
        high = [max(0.0, min(one.threshold.high, 1e3) - one.threshold.length) for one in own]
        marker, color = _MARKERS[number % len(_MARKERS)], f"C{number % 10}"
        axis.errorbar(x, y, [low, high], fmt=marker, color=color, label=label, markersize=4)
    if shown:
        x = np.array([0.5, 80.0])
        for count in (100, 1000):
            axis.plot(x, x * count / 1000, ":", color="gray", linewidth=1)
            axis.annotate(f"{count} tokens", (x[0], x[0] * count / 1000), fontsize=7, color="gray")
        axis.set(xscale="log", yscale="log")
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    axis.set(title=f"thresholds, {which}", xlabel="ms per token", ylabel="s of speech")
    axis.grid(alpha=0.3)
