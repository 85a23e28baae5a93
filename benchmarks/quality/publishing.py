"""What of a study is kept with the code: its tables, its items in few digits, its figure, and where it was made."""

from __future__ import annotations

import os
import platform
import shutil
from datetime import datetime, timezone
from pathlib import Path

import torch

from quality.figures import FIGURE
from quality.study_file import Study
from quality.tables import BY_LENGTH, BY_NAME, DIFFERENCES, SUMMARY, read_rows
from speechbrain_mamba import __version__
from speechbrain_mamba.utils.files import atomic_path, write_csv, write_json

MACHINE = "machine.json"
ITEMS, RUNS, TRIALS = "items.csv", "runs.csv", "trials.csv"


def describe_machine() -> dict[str, str]:
    """Processor, number of its cores, GPU and versions of this machine, and the date."""
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()), "threads": os.environ.get("OMP_NUM_THREADS", "all"), "gpu": gpu,
        "torch": torch.__version__, "speechbrain_mamba": __version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }  # fmt: skip


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


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
        {name: row.get(name, "") for name in ("comparison", "system", "seed", "with", "item", "length")}
        | {name: _short(row[name]) for name in columns}
        for row in read_rows(out / ITEMS)
    ]
    write_csv(folder / ITEMS, items, list(items[0]))
    for name in (SUMMARY, DIFFERENCES, BY_LENGTH, BY_NAME, FIGURE, RUNS):
        if (out / name).is_file():
            _copy(out / name, folder / name)
    if (out / "tuning" / TRIALS).is_file():
        _copy(out / "tuning" / TRIALS, folder / TRIALS)
    write_json(folder / MACHINE, describe_machine())
    return folder


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _short(text: str) -> str:
    return f"{float(text):.4g}" if text else ""
