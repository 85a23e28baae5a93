"""The record of a training run in its output folder."""

from __future__ import annotations

import csv
import json
import logging
import os
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hyperpyyaml import resolve_references

from speechbrain_mamba import __version__
from speechbrain_mamba.utils.checkpoints import DAMAGED, AtomicCheckpointer
from speechbrain_mamba.utils.files import atomic_path, write_csv, write_json
from speechbrain_mamba.utils.hparams_comparison import MISSING, Difference, find_differences
from speechbrain_mamba.utils.locks import RECORD
from speechbrain_mamba.utils.plots import plot_curves

logger = logging.getLogger(__name__)

HYPERPARAMS, CHANGES, FINISHED = RECORD, "changes.csv", "finished.json"
"""The files in an output folder: the settings of the run, changes of settings while it was trained, and, of a run that
is trained, tested and exported, a note of its epochs."""

MAY_CHANGE = frozenset(
    {
        "number_of_epochs", "lr", "lr_final_ratio", "n_warmup_steps", "n_total_steps",
        "grad_accumulation_factor",  # with the number of processes: checkpoints know the product of both, and warn
        "num_workers", "skip_prep", "ckpt_interval_minutes",
        "tensorboard", "wandb", "train_logger", "n_examples", "avg_checkpoints", "avg_tolerance",
    }
)  # fmt: skip
"""Settings that a command may change in a run that is there: they are taken over and logged. Brains name others."""

NAMES = frozenset({"output_folder", "save_folder", "train_log", "experiment_name", "task", "data_prep_only"})
"""Settings that say where a run is, what it is called and how far a command goes: they are not compared."""


class Comparison(NamedTuple):
    """What a command asks of the run that is in its output folder."""

    refused: list[Difference]
    """Settings that a run keeps."""

    allowed: list[Difference]
    """Settings that may change."""

    unknown: list[Difference]
    """Settings that only one of both versions of this package has."""


class RunFolder:
    """An output folder, and the run that may be in it.

    Arguments
    ---------
    folder : str or Path
        The output folder.
    save_folder : str or Path
        The folder of the checkpoints.

    Example
    -------
    >>> run = RunFolder(getfixture("tmp_path"), getfixture("tmp_path") / "save")
    >>> run.has_run(), run.last_epoch(), run.tested_epochs()
    (False, 0, 0)
    """

    def __init__(self, folder: str | os.PathLike, save_folder: str | os.PathLike) -> None:
        self.folder, self.save_folder = Path(folder), Path(save_folder)

    def has_run(self) -> bool:
        """Whether something was trained, so that there is a record to keep."""
        files = any((self.folder / name).exists() for name in (FINISHED, "training.csv"))
        return files or any(any(self.save_folder.glob(f"{prefix}*/*.ckpt")) for prefix in ("CKPT", DAMAGED))

    def last_epoch(self) -> int:
        """The last epoch that was trained to its end and has a checkpoint, 0 for none."""
        if not self.save_folder.is_dir():
            return 0
        checkpoint = AtomicCheckpointer(self.save_folder).find_checkpoint(max_key="epoch")
        return checkpoint.meta["epoch"] if checkpoint else 0

    def tested_epochs(self) -> int:
        """The epochs that were trained before the run was tested and exported, 0 if it was not."""
        path = self.folder / FINISHED
        return min(json.loads(path.read_text(encoding="utf-8"))["epochs"], self.last_epoch()) if path.is_file() else 0

    def finish(self) -> None:
        """Note that the run is trained, tested and exported."""
        write_json(self.folder / FINISHED, {"epochs": self.last_epoch()})

    def begin(self) -> None:
        """Take the note back: what follows is trained or tested again."""
        (self.folder / FINISHED).unlink(missing_ok=True)

    def compare(self, text: str, may_change: Collection[str] = (), given: Collection[str] = ()) -> Comparison:
        """Compare the settings of the run with those of a command.

        Settings that only one of both has are differences if this version of the package wrote the record. An older
        one may not have known them: they are logged, and are a difference only if the command gives them.

        Arguments
        ---------
        text : str
            The hyper-parameters of the command in HyperPyYAML.
        may_change : collection of str
            Settings that may change beside ``MAY_CHANGE``.
        given : collection of str
            Settings that stand on the command line.

        Returns
        -------
        Comparison
            The differences; none if nothing was trained or no record was kept.
        """
        found, path = Comparison([], [], []), self.folder / HYPERPARAMS
        if not self.has_run() or not path.is_file():
            return found
        record = path.read_text(encoding="utf-8")
        same_version = record.startswith(_heading())
        for difference in find_differences(record, text):
            key = difference.name.partition(".")[0].partition("[")[0]
            if key.startswith("__") or key in NAMES:
                continue
            one_sided = MISSING in (difference.before, difference.now)
            if {key, difference.name} & (MAY_CHANGE | set(may_change)):
                found.allowed.append(difference)
            elif one_sided and not same_version and key not in given:
                found.unknown.append(difference)
            else:
                found.refused.append(difference)
        return found

    def record_settings(self, text: str) -> None:
        """Write the hyper-parameters of the run."""
        save_hparams(self.folder, text)

    def record_changes(self, changes: Iterable[Difference]) -> None:
        """Add changes of settings to the table of changes, with the last epoch before them."""
        path, rows = self.folder / CHANGES, []
        if path.exists():
            with open(path, newline="", encoding="utf-8") as table:
                rows = list(csv.DictReader(table))
        facts = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "after_epoch": self.last_epoch()}
        new: list[dict[str, Any]] = [
            {**facts, "setting": change.name, "before": change.before, "now": change.now} for change in changes
        ]
        if new:
            write_csv(path, [*rows, *new], list(new[0]))


def _heading() -> str:
    return f"# speechbrain_mamba {__version__}\n"


def save_hparams(folder: str | os.PathLike, text: str) -> None:
    """Write down the hyper-parameters of a run, references resolved, as ``hyperparams.yaml``.

    Arguments
    ---------
    folder : str or Path
        The run's output folder.
    text : str
        The hyper-parameters in HyperPyYAML.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> save_hparams(folder, "lr: 0.1")
    >>> (folder / "hyperparams.yaml").read_text()  # doctest: +ELLIPSIS
    '# speechbrain_mamba ...\\nlr: 0.1\\n'
    """
    with atomic_path(Path(folder) / HYPERPARAMS) as temporary:
        temporary.write_text(_heading() + resolve_references(text).getvalue(), encoding="utf-8")


def record_epoch(folder: str | os.PathLike, row: dict, panels: dict[str, list[str]]) -> None:
    """Add an epoch to ``training.csv``, and draw the run so far as ``training.png``.

    A picture that cannot be drawn is a warning, not an error.

    Arguments
    ---------
    folder : str or Path
        The run's output folder. Rows of this epoch and later ones, from before the run was resumed, are replaced.
    row : dict
        ``epoch``, and numbers by name.
    panels : dict of str to list of str
        For each panel of the picture, by the label of its vertical axis, the columns to draw.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for epoch in (1, 2, 2):
    ...     record_epoch(folder, {"epoch": epoch, "loss": 0.5}, {"loss": ["loss"]})
    >>> (folder / "training.csv").read_text().split()
    ['epoch,loss', '1,0.5', '2,0.5']
    """
    rows = [old for old in _read_epochs(folder) if old["epoch"] < row["epoch"]] + [row]
    columns = dict.fromkeys(key for one in [row, *rows] for key in one)  # an earlier version may have had others
    write_csv(Path(folder) / "training.csv", rows, list(columns))
    try:
        plot_curves(Path(folder) / "training.png", rows, "epoch", panels)
    except Exception as error:  # whatever it is: the training goes on
        logger.warning("training.png could not be drawn: %s", error)


def has_epoch(folder: str | os.PathLike, epoch: int) -> bool:
    """Whether ``training.csv`` in the run's output folder has an epoch, and ``training.png`` is no older.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> record_epoch(folder, {"epoch": 1, "loss": 0.5}, {"loss": ["loss"]})
    >>> has_epoch(folder, 1), has_epoch(folder, 2)
    (True, False)
    """
    table, picture = (Path(folder) / name for name in ("training.csv", "training.png"))
    drawn = picture.exists() and picture.stat().st_mtime_ns >= table.stat().st_mtime_ns
    return drawn and any(row["epoch"] == epoch for row in _read_epochs(folder))


def _read_epochs(folder: str | os.PathLike) -> list[dict[str, float]]:
    path = Path(folder) / "training.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as table:
        return [{key: _number(value) for key, value in old.items()} for old in csv.DictReader(table)]


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text or "nan")
