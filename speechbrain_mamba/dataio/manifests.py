"""Manifests: CSV or JSON files that list utterances or mixtures."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechbrain_mamba.utils.files import write_csv

SPLITS = ("train", "valid", "test")
_TRANSCRIBED = ("duration", "wav", "wrd")


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
        When there are no rows, or a row has a column that the first one lacks.
    """
    lines = list(rows)
    if not lines:
        raise ValueError(f"There is nothing to list in the manifest '{path}'.")
    write_csv(path, lines, list(lines[0]))


def read_manifest(
    path: str | os.PathLike, data_root: str | os.PathLike | None = None, columns: Iterable[str] = _TRANSCRIBED
) -> dict[str, dict[str, Any]]:
    """Read a manifest: your own, or one that a preparation wrote.

    Arguments
    ---------
    path : str or Path
        A CSV file with the column ``ID`` and others, or a JSON file that maps each id to the others.
    data_root : str or Path, optional
        The folder to put in place of ``$data_root`` or ``{data_root}`` in the paths, which are the columns ``wav`` and
        ``*_wav``.
    columns : iterable of str
        Columns that the manifest must have: by default those of transcribed speech, ``duration`` (seconds), ``wav``
        (path) and ``wrd`` (words). It may have more.

    Returns
    -------
    dict
        From id to a mapping from column to value, in the order of the file. ``duration`` is a float; what else a CSV
        file has is text.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is not a CSV or JSON file, lists nothing, lacks a column, has an id twice, a duration that is not a
        number, or paths that need ``data_root``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "test.csv"
    >>> row = {"ID": "a", "duration": 1.5, "wav": "$data_root/a.wav", "wrd": "GOOD MORNING", "spk_id": "anna"}
    >>> write_manifest(path, [row])
    >>> read_manifest(path, data_root="speech")
    {'a': {'duration': 1.5, 'wav': 'speech/a.wav', 'wrd': 'GOOD MORNING', 'spk_id': 'anna'}}
    """
    file, needed = Path(path), tuple(columns)
    if not file.is_file():
        raise FileNotFoundError(f"The manifest '{file}' does not exist: prepare the data first.")
    if file.suffix not in (".csv", ".json"):
        raise ValueError(f"The manifest '{file}' must be a .csv or .json file.")
    items = _read_csv(file) if file.suffix == ".csv" else _read_json(file)
    if not items:
        raise ValueError(f"The manifest '{file}' lists nothing: prepare the data again.")
    for name, item in items.items():
        missing = [column for column in needed if item.get(column) is None]
        if missing:
            raise ValueError(f"The manifest '{file}' has no '{missing[0]}' for '{name}': it needs {', '.join(needed)}.")
        if "duration" in item:
            item["duration"] = _seconds(item["duration"], name, file)
        for column in item:
            if column == "wav" or column.endswith("_wav"):
                item[column] = _resolve(item[column], file, data_root)
    return items


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


def _read_csv(path: Path) -> dict[str, dict[str, Any]]:
    items: dict[str, dict[str, Any]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, skipinitialspace=True):
            name = row.pop("ID", None)
            if name is None:
                raise ValueError(f"The manifest '{path}' has no column 'ID'.")
            if name in items:
                raise ValueError(f"The manifest '{path}' has the id '{name}' twice.")
            if None in row:
                raise ValueError(f"The manifest '{path}' has more values than columns for '{name}'.")
            items[name] = row
    return items


def _read_json(path: Path) -> dict[str, dict[str, Any]]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"The manifest '{path}' is not valid JSON: {error}.") from error
    if not isinstance(items, dict) or not all(isinstance(item, dict) for item in items.values()):
        raise ValueError(f"The manifest '{path}' must map each id to a mapping from column to value.")
    return items


def _seconds(duration: Any, name: str, path: Path) -> float:
    try:
        return float(duration)
    except (TypeError, ValueError):
        raise ValueError(
            f"The manifest '{path}' has the duration '{duration}' for '{name}', but must have it in seconds."
        ) from None


def _resolve(wav: Any, path: Path, data_root: str | os.PathLike | None) -> Any:
    for placeholder in ("$data_root", "{data_root}"):
        if isinstance(wav, str) and placeholder in wav:
            if data_root is None:
                raise ValueError(
                    f"The paths in the manifest '{path}' have {placeholder}: set data_root to that folder."
                )
            wav = wav.replace(placeholder, str(data_root))
    return wav
