"""Manifests: CSV or JSON files that list utterances or mixtures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechbrain_mamba.dataio.manifest_rows import csv_rows, fault, json_line, json_rows, parse_row
from speechbrain_mamba.dataio.tables import is_large, open_table
from speechbrain_mamba.utils.files import write_csv

SPLITS = ("train", "valid", "test")
TRANSCRIBED = ("duration", "wav", "wrd")
"""Columns of every manifest of transcribed speech."""

ManifestPath = str | os.PathLike | Sequence[str | os.PathLike]
"""A manifest, or several that are read as one."""


def write_manifest(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a manifest as a CSV file, atomically.

    Arguments
    ---------
    path : str or Path
        The file.
    rows : iterable of mapping
        Utterances or mixtures, from column to value, all with the columns of the first: ``ID`` and, for transcribed
        speech, ``duration`` (seconds), ``wav`` (path), ``wrd`` (words) and ``spk_id``.

    Raises
    ------
    ValueError
        When there are no rows, a row has a column that the first one lacks, an id occurs twice, or a value cannot be
        read again: an empty id, a line break, a duration of 0.
    """
    lines = [
        {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in row.items()}
        for row in rows
    ]
    seen = set()
    if not lines:
        raise ValueError(f"There is nothing to list in the manifest '{path}'.")
    for number, row in enumerate(lines, 2):
        parse_row(row, number, file=Path(path), data_root="", needed=())
        if row["ID"] in seen:
            raise fault(path, f"the id '{row['ID']}' occurs twice: ids must be unique.", number, "ID")
        seen.add(row["ID"])
    write_csv(path, lines, list(lines[0]))


def read_manifest(
    path: ManifestPath, data_root: str | os.PathLike | None = None, columns: Iterable[str] = TRANSCRIBED
) -> Mapping[str, dict[str, Any]]:
    """Read a manifest, or several as one: your own, or one that a preparation wrote.

    A CSV file has a first line of column names and is separated by commas; texts with commas are in quotation marks. A
    JSON file maps each id to a mapping from column to value. Both are UTF-8, with or without a byte order mark.

    Arguments
    ---------
    path : str, Path or sequence of these
        A CSV file with the column ``ID`` and others, or a JSON file that maps each id to the others.
    data_root : str or Path, optional
        The folder to put in place of ``$data_root`` or ``{data_root}`` in the paths, which are the columns ``wav`` and
        ``*_wav``. Other relative paths are relative to the manifest's folder.
    columns : iterable of str
        Columns that the manifest must have: by default those of transcribed speech, ``duration`` (seconds), ``wav``
        (path) and ``wrd`` (words). It may have more.

    Returns
    -------
    mapping
        From id to a mapping from column to value, in the order of the file. ``duration`` is a float; what else a CSV
        file has is text. It is a dictionary, or for large CSV files a
        :class:`~speechbrain_mamba.dataio.tables.ManifestTable`, which reads a row each time that it is asked for.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is not a CSV or JSON file in UTF-8, lists nothing, lacks a column or value, has a value of another type,
        an id that is empty or occurs twice, a duration that is not a number of seconds above 0, or paths that need
        ``data_root``. The message names the file, the line and the column.

    Example
    -------
    >>> path = getfixture("tmp_path") / "test.csv"
    >>> row = {"ID": "a", "duration": 1.5, "wav": "$data_root/a.wav", "wrd": "GOOD MORNING", "spk_id": "anna"}
    >>> write_manifest(path, [row])
    >>> read_manifest(path, data_root="speech")
    {'a': {'duration': 1.5, 'wav': 'speech/a.wav', 'wrd': 'GOOD MORNING', 'spk_id': 'anna'}}
    """
    listed = [path] if isinstance(path, (str, os.PathLike)) else path
    if listed and is_large(listed):
        return open_table(listed, data_root, tuple(columns))
    if isinstance(path, (str, os.PathLike)):
        return _read_one(Path(path), data_root, tuple(columns))
    needed, origin, items = tuple(columns), dict[str, Path](), dict[str, dict[str, Any]]()
    if not path:
        raise ValueError("There is no manifest to read: name at least one file.")
    for file in map(Path, path):
        for name, item in _read_one(file, data_root, needed).items():
            if name in items:
                raise ValueError(
                    f"The id '{name}' is in the manifest '{origin[name]}' (line {find_line(origin[name], name)}) and "
                    f"in '{file}' (line {find_line(file, name)}): files of one split must not share ids."
                )
            items[name], origin[name] = item, file
    return items


def _read_one(file: Path, data_root: str | os.PathLike | None, needed: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    items: dict[str, dict[str, Any]] = {}
    for line, row in _rows(file, needed):
        name = row["ID"]
        try:
            item = parse_row(row, line, file=file, data_root=data_root, needed=needed)
        except ValueError:
            if line is None:  # of JSON, where it is looked for only if it is wanted
                parse_row(row, find_line(file, name), file=file, data_root=data_root, needed=needed)
            raise
        if name in items:
            text = f"the id '{name}' occurs twice, first in line {find_line(file, name)}: ids must be unique."
            raise fault(file, text, line, "ID")
        items[name] = item
    if not items:
        raise fault(file, "it lists nothing: prepare the data again.")
    return items


def _rows(file: Path, needed: Sequence[str] = ()) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """The rows of a manifest with their lines, as far as these are known."""
    if not file.is_file():
        raise FileNotFoundError(f"The manifest '{file}' does not exist: prepare the data first.")
    if file.suffix.lower() not in (".csv", ".json"):
        raise ValueError(f"The manifest '{file}' must be a .csv or .json file.")
    try:
        if file.suffix.lower() == ".csv":
            yield from csv_rows(file, needed)
        else:
            yield from ((None, row) for row in json_rows(file))
    except OSError as error:
        raise fault(file, f"it cannot be read ({error.strerror}).") from error


def find_line(path: str | os.PathLike, name: str) -> int | None:
    """The line of a manifest where an id first stands, from 1."""
    file = Path(path)
    if file.suffix.lower() == ".csv":
        return next((line for line, row in csv_rows(file) if row["ID"] == name), None)
    return json_line(file, name)


def find_manifests(folder: str | os.PathLike, splits: Iterable[str] = SPLITS) -> dict[str, Path]:
    """The manifest of each split in a folder: ``SPLIT.csv``, or else ``SPLIT.json``.

    Raises a FileNotFoundError when a split has none.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "test.json").write_text("{}")
    >>> find_manifests(folder, ["test"])["test"].name
    'test.json'
    """
    manifests = {}
    for split in splits:
        found = [path for suffix in (".csv", ".json") if (path := Path(folder) / f"{split}{suffix}").is_file()]
        if not found:
            raise FileNotFoundError(f"'{folder}' has no {split}.csv and no {split}.json: give the folder of manifests.")
        manifests[split] = found[0]
    return manifests
