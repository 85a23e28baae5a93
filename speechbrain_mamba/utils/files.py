"""Atomic file writes."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file or a folder under a temporary name; it gets its own name when it is complete.

    Arguments
    ---------
    path : str or Path
        The file or folder. Missing parent folders are made.

    Yields
    ------
    Path
        An unused name beside it, with the same suffix. What is there when an error ends the context is removed.

    Raises
    ------
    OSError
        When ``path`` cannot be replaced, for instance a folder that is not empty by another folder.

    Example
    -------
    >>> target = getfixture("tmp_path") / "note.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("done")
    >>> target.read_text()
    'done'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:12]}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise


def write_csv(path: str | os.PathLike, rows: Iterable[Mapping], fieldnames: list[str]) -> None:
    """Write a CSV file with a header, atomically.

    Arguments
    ---------
    path : str or Path
        The file.
    rows : iterable of mappings
        The lines, from column to value.
    fieldnames : list of str
        The columns in order.

    Raises
    ------
    ValueError
        When a row has a field that is not a column.

    Example
    -------
    >>> target = getfixture("tmp_path") / "table.csv"
    >>> write_csv(target, [{"ID": "a", "duration": 1.5}], ["ID", "duration"])
    >>> target.read_text().split()
    ['ID,duration', 'a,1.5']
    """
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write a value that :func:`json.dumps` takes as an indented JSON file, atomically.

    Example
    -------
    >>> target = getfixture("tmp_path") / "value.json"
    >>> write_json(target, {"seed": 1})
    >>> json.loads(target.read_text())
    {'seed': 1}
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
