"""The figure of a study: each measure by system and seed, and by the length of the items."""

from __future__ import annotations

import math
from pathlib import Path

from quality.study_file import Study
from quality.tables import BY_LENGTH, SUMMARY, read_rows
from speechbrain_mamba.utils.files import atomic_path

FIGURE = "figure.png"


def draw_figure(study: Study, folder: Path) -> Path | None:
    """Draw the first measure of a study: against the computing time of a training, and by length.

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
    figure = Figure(figsize=(10, 4), layout="constrained")
    cost, length = figure.subplots(1, 2)
    for index, system in enumerate(study.systems):
        color = f"C{index % 10}"
        for row in (row for row in summary if row["system"] == system.name and row["minutes"]):
            marker = "o" if row["comparison"] == summary[0]["comparison"] else "s"
            label = f"{system.label}, {row['comparison']}"
            cost.errorbar(
                float(row["minutes"]), float(row["mean"]), spread_of(row), fmt=marker, color=color, label=label
            )
        own = {row["length"]: row for row in by_length
               if row["system"] == system.name and row["comparison"] == by_length[0]["comparison"]}  # fmt: skip
        places = [place for place, group in enumerate(groups) if group in own]
        rows = [own[groups[place]] for place in places]
        shifted = [place + 0.05 * index for place in places]
        means, spreads = [float(row["mean"]) for row in rows], [spread_of(row) for row in rows]
        length.errorbar(shifted, means, spreads, fmt="o-", color=color, capsize=3, label=system.label)
    cost.set_xlim(left=0)
    cost.set(xlabel="minutes of computing for a training", ylabel=measure.label)
    length.set(xlabel=study.length, ylabel=measure.label)
    length.set_xticks(range(len(groups)), groups)
    cost.legend(fontsize="x-small")
    length.legend(fontsize="x-small")
    repeats = "runs" if study.repeated_with else "seeds"
    figure.suptitle(f"{study.title}: mean and spread over the {repeats}")
    with atomic_path(folder / FIGURE) as temporary:
        figure.savefig(temporary, dpi=90)
    return folder / FIGURE


def spread_of(row: dict[str, str]) -> float:
    """The spread of a row, 0 for a single seed."""
    value = float(row["spread"] or "nan")
    return value if math.isfinite(value) else 0.0
