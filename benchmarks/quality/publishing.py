"""What of a study is kept with the code: its tables, its items in few digits, its figure, and where it was made."""

from __future__ import annotations

import shutil
from pathlib import Path

from quality.figures import FIGURE, draw_figure
from quality.items import with_people
from quality.machine import MACHINE, describe_machine
from quality.study_file import Study
from quality.tables import BY_LENGTH, BY_NAME, COSTS, DIFFERENCES, SUMMARY, read_rows
from speechbrain_mamba.utils.files import atomic_path, write_csv, write_json

ITEMS, RUNS, TRIALS = "items.csv", "runs.csv", "trials.csv"


def publish(study: Study, out: Path, target: Path) -> Path:
    """Copy what is kept of a study.

    Arguments
    ---------
    study : Study
        The study.
    out : Path
        Where its results are.
    target : Path
        Where the folder of the study goes, such as ``docs/results``.

    Returns
    -------
    Path
        The folder of the study there.

    Raises
    ------
    FileNotFoundError
        When no training is done.
    """
    if not (out / SUMMARY).is_file():
        raise FileNotFoundError(f"'{out}' has no {SUMMARY} yet: nothing can be published before a training is done.")
    folder = target / study.name
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(column for measure in study.measures for column in measure.columns))
    items = [
        {name: row.get(name, "") for name in ("comparison", "system", "seed", "with", "item", "people", "length")}
        | {name: _short(row[name]) for name in columns}
        for row in with_people(read_rows(out / ITEMS), study.people)
    ]
    write_csv(folder / ITEMS, items, list(items[0]))
    for name in (SUMMARY, DIFFERENCES, BY_LENGTH, BY_NAME, FIGURE, RUNS):
        if (out / name).is_file():
            _copy(out / name, folder / name)
    if (out / "tuning" / TRIALS).is_file():
        _copy(out / "tuning" / TRIALS, folder / TRIALS)
    if (folder / COSTS).is_file():
        draw_figure(study, folder)  # once more, with what the systems cost
    # where the trainings ran, which need not be here; results of before that was noted are taken to be of here
    if (out / MACHINE).is_file():
        _copy(out / MACHINE, folder / MACHINE)
    else:
        write_json(folder / MACHINE, describe_machine())
    return folder


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _short(text: str) -> str:
    return f"{float(text):.4g}" if text else ""
