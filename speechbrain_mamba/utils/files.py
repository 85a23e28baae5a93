"""File writes that are atomic, and that a power cut does not undo."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from speechbrain_mamba.utils.mistakes import is_full
from speechbrain_mamba.utils.terminal import printable

_TEMPORARY = re.compile(r"^\..*\.tmp-[0-9a-f]{12}(\.[^.]*)?$")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, durable: bool = True) -> Iterator[Path]:
    """Write a file or a folder under a temporary name; it gets its own name when it is complete.

    Arguments
    ---------
    path : str or Path
        The file or folder. Missing parent folders are made.
    durable : bool
        Whether it is on the disk when the context ends, so that a power cut does not leave an empty file under the
        name. This takes milliseconds per file; False is for files that are made again without loss, and for many at a
        time, after which :func:`flush_disks` is called once.

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
    temporary = temporary_name(target)
    try:
        yield temporary
        if durable:
            sync_tree(temporary)
        os.replace(temporary, target)
        if durable:
            sync_path(target.parent)
    except BaseException:
        _remove(temporary)
        raise


def check_writable(folder: str | os.PathLike) -> None:
    """Check that files can be written to a folder, which need not exist yet, before what is to be written is computed.

    Raises
    ------
    OSError
        When they cannot: in a sentence that says which folder, and why.

    Example
    -------
    >>> check_writable(getfixture("tmp_path") / "new" / "folder")
    >>> list(getfixture("tmp_path").iterdir())
    []
    """
    home = next(parent for parent in (Path(folder) / "any").absolute().parents if parent.exists())
    name = printable(folder if str(folder) != "." else home)
    if not home.is_dir():
        raise NotADirectoryError(f"'{printable(home)}' is a file: nothing can be written below it.")
    try:
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        if is_full(error):
            raise
        raise OSError(f"Nothing can be written to '{name}' ({error.strerror}): choose another folder.") from error


def temporary_name(path: str | os.PathLike) -> Path:
    """An unused hidden name beside a file or folder, with the same suffix, which :func:`remove_temporaries` knows.

    Example
    -------
    >>> name = temporary_name("folder/note.txt")
    >>> name.parent.name, name.name[:10], name.suffix
    ('folder', '.note.tmp-', '.txt')
    """
    target = Path(path)
    stem = target.stem[:40]  # a name has at most 255 bytes
    return target.with_name(f".{stem}.tmp-{uuid.uuid4().hex[:12]}{target.suffix}")


def remove_temporaries(folder: str | os.PathLike) -> list[Path]:
    """Remove what :func:`atomic_path` left behind in a folder and below it when its process was killed.

    Arguments
    ---------
    folder : str or Path
        A folder that no other process writes to now.

    Returns
    -------
    list of Path
        What was removed.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / ".note.tmp-0123456789ab.txt").write_text("ha"), (folder / ".note.txt").write_text("mine")
    >>> [path.name for path in remove_temporaries(folder)]
    ['.note.tmp-0123456789ab.txt']
    """
    found = []
    for parent, folders, files in os.walk(os.fspath(folder)):
        names = [name for name in (*folders, *files) if _TEMPORARY.match(name)]
        folders[:] = [name for name in folders if name not in names]
        found += [Path(parent, name) for name in names]
    for path in found:
        _remove(path)
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_path(path: str | os.PathLike) -> None:
    """Wait until the content of a file, or the list of the names in a folder, is on the disk.

    Raises
    ------
    OSError
        When the disk is full or fails. File systems that cannot sync folders are left alone.
    """
    if os.name == "nt" and os.path.isdir(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: str | os.PathLike) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk."""
    for parent, _, files in os.walk(os.fspath(path)):
        for name in files:
            sync_path(os.path.join(parent, name))
        sync_path(parent)
    if not os.path.isdir(path):
        sync_path(path)


def flush_disks() -> None:
    """Wait until all that was written so far, by any process, is on the disks: once after many files."""
    if hasattr(os, "sync"):
        os.sync()


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
