"""Checkpoints that others trained: with the authors' recipes, or with other recipes of SpeechBrain.

Their files are those of SpeechBrain's checkpointer, as here, but their scores have other names: accuracies where the
recipes here keep error rates, for instance.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import METAFNAME

_DEPTH = 4
"""How many folders deep an unpacked archive is looked into."""

_EQUIVALENTS = {
    "TER": (("ACC", lambda accuracy: 100 * (1 - accuracy)), ("WER", float), ("loss", float)),
    "greedy_WER": (("WER", float), ("loss", float)),
    "si-snr": (("loss", float),),
}
"""By the score of a recipe here, what others keep in its place, and how it is turned into a score of which lower is
better. SpeechBrain's accuracies are fractions."""


def equivalent_score(meta: Mapping[str, Any], score: str) -> float | None:
    """The score of a checkpoint, or what the one who trained it kept in its place.

    Arguments
    ---------
    meta : mapping
        What the meta file of the checkpoint holds.
    score : str
        The score of the recipe here; lower is better.

    Returns
    -------
    float, optional
        The score; None if there is neither.

    Example
    -------
    >>> equivalent_score({"ACC": 0.75, "epoch": 3}, "TER")
    25.0
    """
    for name, turn in ((score, float), *_EQUIVALENTS.get(score, ())):
        value = meta.get(name)
        if isinstance(value, (int, float)) and math.isfinite(value):
            return turn(value)
    return None


def find_inside(folder: str | os.PathLike) -> list[Path]:
    """Find the folders of runs below a folder, such as an unpacked archive: those with checkpoints, or with a folder
    ``save`` of checkpoints.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "model" / "save" / "CKPT+1").mkdir(parents=True)
    >>> _ = (folder / "model" / "save" / "CKPT+1" / "CKPT.yaml").write_text("")
    >>> [path.name for path in find_inside(folder)]
    ['model']
    """
    found: dict[Path, None] = {}
    for meta in _meta_files(Path(folder), _DEPTH):
        save = meta.parent.parent
        found[save.parent if save.name == "save" and save != Path(folder) else save] = None
    return list(found)


def _meta_files(folder: Path, depth: int) -> Iterator[Path]:
    """The meta files of checkpoints below a folder; links to folders are not followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and depth:
            yield from _meta_files(Path(entry.path), depth - 1)
        elif entry.name == METAFNAME:
            yield Path(entry.path)


def find_tokenizer(folder: str | os.PathLike) -> Path | None:
    """The SentencePiece model that SpeechBrain trained into a folder, such as ``31_char.model``; None unless there is
    exactly one.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "31_char.model").write_bytes(b"")
    >>> find_tokenizer(folder).name
    '31_char.model'
    """
    found = sorted(Path(folder).glob("[0-9]*_*.model"))
    return found[0] if len(found) == 1 else None
