"""The figure of a study: its first measure by the cost of training and of inference, and by the length of the items."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from quality.study_file import Study
from quality.tables import BY_LENGTH, COSTS, SUMMARY, read_rows
from speechbrain_mamba.utils.files import atomic_path

FIGURE = "figure.png"


def draw_figure(study: Study, folder: Path) -> Path | None:
    """Draw the first measure of a study: against the computing time of a training, by length, and, where the folder has
    ``costs.csv``, against the time of inference.

    Arguments
    ---------
    study : Study
        The study.
    folder : Path
        Where its tables are, and where the figure goes.

    Returns
    -------
    Path or None
        The figure; None without tables or without matplotlib, which the extra ``recipes`` brings.
    """
    if not (folder / SUMMARY).is_file():
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    measure = study.measures[0]
    summary = [row for row in read_rows(folder / SUMMARY) if row["measure"] == measure.name]
    by_length = [row for row in read_rows(folder / BY_LENGTH) if row["measure"] == measure.name]
    groups = list(dict.fromkeys(row["length"] for row in by_length))
    costs = read_rows(folder / COSTS) if (folder / COSTS).is_file() else []
    panels = 3 if costs else 2
    figure = Figure(figsize=(5 * panels, 4), layout="constrained")
    cost, length, *more = figure.subplots(1, panels)
    if more:
        _draw_inference(
            more[0], study, [row for row in summary if row["comparison"] == summary[0]["comparison"]], costs
        )
        more[0].set(ylabel=measure.label)
    for index, system in enumerate(study.systems):
        color = color_of(index, len(study.systems))
        for row in (row for row in summary if row["system"] == system.name and row["minutes"]):
            marker = "o" if row["comparison"] == summary[0]["comparison"] else "s"
            cost.errorbar(float(row["minutes"]), float(row["mean"]), spread_of(row), fmt=marker, color=color, capsize=3)
        own = {row["length"]: row for row in by_length
               if row["system"] == system.name and row["comparison"] == by_length[0]["comparison"]}  # fmt: skip
        places = [place for place, group in enumerate(groups) if group in own]
        rows = [own[groups[place]] for place in places]
        shifted = [place + 0.05 * index for place in places]
        means, spreads = [float(row["mean"]) for row in rows], [spread_of(row) for row in rows]
        length.errorbar(shifted, means, spreads, fmt="o-", color=color, capsize=3, label=system.label)
    cost.set_xlim(0, 1.1 * max((float(row["minutes"]) for row in summary if row["minutes"]), default=1))
    kinds = list(dict.fromkeys(row["comparison"] for row in summary))
    title = "" if len(kinds) == 1 else f"circles: {kinds[0]}, squares: {kinds[1]}"
    cost.set(xlabel="minutes of computing for a training", ylabel=measure.label, title=title)
    length.set(xlabel=study.length, ylabel=measure.label)
    length.set_xticks(range(len(groups)), groups)
    handles, labels = length.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), fontsize="small")
    repeats = "runs" if study.repeated_with else "seeds"
    figure.suptitle(f"{study.title}: mean and spread over the {repeats}")
    with atomic_path(folder / FIGURE) as temporary:
        figure.savefig(temporary, dpi=90)
    return folder / FIGURE


def _draw_inference(axis: Any, study: Study, summary: list[dict[str, str]], costs: list[dict[str, str]]) -> None:
    """The panel of what systems reach over the processor time of inference, at the longest measured length."""
    longest = max(float(row["length"]) for row in costs)
    seconds = {
        row["system"]: float(row["seconds"]) for row in costs
        if (row["pass"], row["status"], float(row["length"])) == ("inference", "done", longest)
    }  # fmt: skip
    for index, system in enumerate(study.systems):
        for row in (row for row in summary if row["system"] == system.name and system.name in seconds):
            color = color_of(index, len(study.systems))
            axis.errorbar(seconds[system.name], float(row["mean"]), spread_of(row), fmt="o", color=color, capsize=3)
    axis.set_xlim(0, 1.1 * max(seconds.values(), default=1))
    axis.set(xlabel=f"seconds of inference for {longest:g} s of speech, one thread")


def color_of(index: int, count: int) -> Any:
    """The color of a system, which no other one of up to twenty has."""
    from matplotlib import colormaps

    return f"C{index}" if count <= 10 else colormaps["tab20"](index % 20)


def spread_of(row: dict[str, str]) -> float:
    """The spread of a row, 0 for a single seed."""
    value = float(row["spread"] or "nan")
    return value if math.isfinite(value) else 0.0
