"""The record of a training run in its output folder."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path

from hyperpyyaml import resolve_references

from speechbrain_mamba.utils.files import atomic_path, write_csv
from speechbrain_mamba.utils.plots import plot_curves

logger = logging.getLogger(__name__)


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
    >>> (folder / "hyperparams.yaml").read_text()
    'lr: 0.1\\n'
    """
    with atomic_path(Path(folder) / "hyperparams.yaml") as temporary:
        temporary.write_text(resolve_references(text).getvalue(), encoding="utf-8")


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
    path, rows = Path(folder) / "training.csv", []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as table:
            rows = [{key: _number(value) for key, value in old.items()} for old in csv.DictReader(table)]
    rows = [old for old in rows if old["epoch"] < row["epoch"]] + [row]
    write_csv(path, rows, list(row))
    try:
        plot_curves(Path(folder) / "training.png", rows, "epoch", panels)
    except Exception as error:  # whatever it is: the training goes on
        logger.warning("training.png could not be drawn: %s", error)


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text or "nan")
