"""Whether a run that was killed has left what an uninterrupted one leaves."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import torch
import yaml

CLOCK = {"seconds", "rtf", "unixtime"}
"""Keys of what the clock says."""
NOT_COMPARED = {"log.txt", "env.log", "train_log.txt"}
"""Files that a resumed run continues: they tell of the kills."""


def compare_runs(expected: Path, found: Path) -> list[str]:
    """Compare the output folders of two runs of the same command.

    Parameters and all else in the checkpoints, ``training.csv`` (but the seconds), results, what was exported and what
    was prepared must be equal, bit for bit. A run that was killed may keep more checkpoints: those that it would have
    deleted next.

    Arguments
    ---------
    expected, found : Path
        The folder of the uninterrupted run, and that of the other one.

    Returns
    -------
    list of str
        The differences in words; empty if there are none.
    """
    files, others = list_files(expected), list_files(found)
    differences = [f"{name} is missing" for name in sorted(files.keys() - others.keys())]
    more = {name for name in others.keys() - files.keys() if not re.match(r"save/epoch \d+/", name)}
    differences += [f"{name} is left over" for name in sorted(more)]
    for name in sorted(files.keys() & others.keys()):
        ours, theirs = read_file(files[name], expected), read_file(others[name], found)
        place = difference(ours, theirs)
        if place is not None:
            differences.append(f"{name} differs{place}")
    return differences


def list_files(folder: Path) -> dict[str, Path]:
    """The files of a run by a name that does not tell when it was made. Those with a temporary name are left out, and
    checkpoints within an epoch, which the next end of an epoch deletes."""
    checkpoints = {}
    for path in folder.glob("save/CKPT*/CKPT.yaml"):
        epoch = yaml.safe_load(path.read_text()).get("epoch")
        checkpoints[path.parent.name] = ".within" if epoch is None else f"epoch {epoch}"
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = [checkpoints.get(part, part) for part in path.relative_to(folder).parts]
        if path.is_file() and path.name not in NOT_COMPARED and not any(part.startswith(".") for part in parts):
            found["/".join(parts)] = path
    return found


def list_temporary(folder: Path) -> list[str]:
    """Files and folders with a temporary name, which a killed process has left."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob(".*"))


def read_file(path: Path, folder: Path) -> Any:
    """The content of a file in a form that can be compared: what the clock says, and the folder's name, are gone."""
    if path.suffix == ".ckpt":
        try:
            return without_clock(torch.load(path, weights_only=False, map_location="cpu"))
        except Exception:  # it is no file of PyTorch's
            pass
    data = path.read_bytes().replace(str(folder).encode(), b"FOLDER")
    try:
        if path.suffix == ".json":
            return without_clock(json.loads(data))
        if path.suffix in (".yaml", ".ckpt"):
            tree = without_clock(yaml.safe_load(data))
            # Checksums of files are those of what the clock says too.
            return {key: value for key, value in tree.items() if key != "files"} if path.name == "CKPT.yaml" else tree
        if path.suffix == ".csv":
            return without_clock(list(csv.DictReader(data.decode().splitlines())))
    except (ValueError, yaml.YAMLError):
        pass
    return data


def without_clock(tree: Any) -> Any:
    """A tree of dicts and lists without what the clock says."""
    if isinstance(tree, dict):
        return {key: without_clock(value) for key, value in tree.items() if key not in CLOCK}
    if isinstance(tree, (list, tuple)):
        return [without_clock(value) for value in tree]
    return tree


def difference(ours: Any, theirs: Any) -> str | None:
    """Where two trees differ first, in words; None if they do not."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            return f" in its keys {sorted(map(str, ours.keys() ^ theirs.keys()))}"
        pairs = [(key, ours[key], theirs[key]) for key in ours]
    elif isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return f" in length: {len(ours)} and {len(theirs)}"
        pairs = [(i, *pair) for i, pair in enumerate(zip(ours, theirs))]
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if same and torch.equal(torch.nan_to_num(ours), torch.nan_to_num(theirs)):
            return None
        return f" by up to {float((ours - theirs).abs().max()):.3g}" if same else " in its shape"
    else:
        same = ours == theirs or (ours != ours and theirs != theirs)
        return None if same else f": {str(ours)[:60]!r} and {str(theirs)[:60]!r}"
    for key, first, second in pairs:
        inner = difference(first, second)
        if inner is not None:
            return f" at {key}{inner}"
    return None
