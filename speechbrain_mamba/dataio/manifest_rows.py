"""The rows of manifests: how CSV and JSON files are read, and what a row must hold. Every fault is told with its file,
line and column."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PLACEHOLDERS = ("$data_root", "{data_root}")
MAX_ID = 200
"""Bytes of an id, since files of results are called after it."""

_TEXTS = ("wrd", "spk_id", "language")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # line breaks and others, but not the tab


def fault(file: str | os.PathLike, text: str, line: int | None = None, column: str | None = None) -> ValueError:
    """An error that begins with the file, line and column, as far as they are known."""
    place = f"The manifest '{file}'"
    place += "" if line is None else f", line {line}"
    place += "" if column is None else f", column '{column}'"
    return ValueError(f"{place}: {text}")


def is_path(column: str) -> bool:
    """Whether a column holds paths of audio files: ``wav``, or one that ends in ``_wav``."""
    return column == "wav" or column.endswith("_wav")


def parse_row(
    row: Mapping[Any, Any],
    line: int | None,
    *,
    file: Path,
    data_root: str | os.PathLike | None,
    needed: Sequence[str],
) -> dict[str, Any]:
    """Check and convert one row of a manifest, from column to value, with its ``ID``.

    Arguments
    ---------
    row : mapping
        Texts of a CSV file, or values of a JSON file.
    line : int or None
        Where the row begins, from 1, for errors.
    file, data_root, needed
        The manifest, what its placeholders stand for, and the columns that must have a value.

    Returns
    -------
    dict
        The row without ``ID``. ``duration`` is a float, and paths are complete.

    Raises
    ------
    ValueError
        When a value is missing, has another type, or cannot be used.

    Example
    -------
    >>> row = {"ID": "a", "duration": "1.5", "wav": "audio/a.wav"}
    >>> parse_row(row, 2, file=Path("lists/train.csv"), data_root=None, needed=["wav"])
    {'duration': 1.5, 'wav': 'lists/audio/a.wav'}
    >>> parse_row({**row, "duration": "-1"}, 2, file=Path("lists/train.csv"), data_root=None, needed=["wav"])
    Traceback (most recent call last):
        ...
    ValueError: The manifest 'lists/train.csv', line 2, column 'duration': '-1' must be a number of seconds above 0.
    """
    item = dict(row)
    name = item.pop("ID")
    if problem := _problem_of_id(name):
        raise fault(file, problem, line, "ID")
    if None in item:
        raise fault(
            file, f"'{name}' has more values than there are columns: put texts with commas in quotation marks.", line
        )
    for column in needed:
        if item.get(column) is None:
            raise fault(file, f"'{name}' has no value for it: needed are {', '.join(needed)}.", line, column)
    for column, value in item.items():
        if isinstance(value, str) and not value.isprintable() and _CONTROL.search(value):
            raise fault(file, f"the value of '{name}' {_describe_control(value)}: remove that.", line, column)
        if value is None:
            continue
        if column == "duration":
            item[column] = _seconds(value, line, file)
        elif is_path(column):
            item[column] = _resolve(value, line, column, file, data_root, column in needed)
        elif column in _TEXTS and not isinstance(value, str):
            raise fault(file, f"{_shown(value)} for '{name}' must be text: put it in quotation marks.", line, column)
    return item


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _describe_control(value: str) -> str:
    if "\n" in value or "\r" in value:
        return "has a line break (is a quotation mark not closed?)"
    return "has half a character" if any("\ud800" <= char <= "\udfff" for char in value) else "has a control character"


def _problem_of_id(name: Any) -> str | None:
    if not isinstance(name, str) or not name.strip():
        return "the id is empty: give each row an id of its own."
    if not name.isprintable() and (_CONTROL.search(name) or "\t" in name):
        return f"the id {_shown(name)} {_describe_control(name)}: remove that."
    if len(name) * 4 > MAX_ID and len(name.encode()) > MAX_ID:
        return f"the id {_shown(name)} has more than {MAX_ID} bytes, but files are called after it: shorten it."
    if name.startswith("/") or (".." in name and ".." in name.split("/")):
        return f"the id '{name}' must not begin with '/' or contain '..', since files are called after it."
    return None


def _seconds(value: Any, line: int | None, file: Path) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or "_" in str(value):
            raise ValueError
        seconds = float(value)
    except (ValueError, OverflowError):
        raise fault(file, f"{_shown(value)} must be a number of seconds.", line, "duration") from None
    if not 0 < seconds < math.inf:
        raise fault(file, f"{_shown(value)} must be a number of seconds above 0.", line, "duration")
    return seconds


def _resolve(
    wav: Any, line: int | None, column: str, file: Path, data_root: str | os.PathLike | None, is_needed: bool
) -> str:
    if isinstance(wav, os.PathLike):  # of a row that is written
        wav = os.fspath(wav)
    if not isinstance(wav, str):
        raise fault(file, f"{_shown(wav)} must be the path of an audio file.", line, column)
    if not wav.strip():
        if is_needed:
            raise fault(file, "the path is empty: give an audio file.", line, column)
        return wav
    found = False
    for placeholder in PLACEHOLDERS:
        if placeholder in wav:
            if data_root is None:
                raise fault(file, f"the path has {placeholder}: set data_root to that folder.", line, column)
            wav, found = wav.replace(placeholder, str(data_root)), True
    return wav if found or os.path.isabs(wav) else str(file.parent / wav)


def csv_rows(file: Path, needed: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, each with the number of the line where it begins. Empty lines are left out."""
    with open(file, newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(_lines(stream, file), skipinitialspace=True)
        line, columns = 1, list[str]()
        try:
            for values in reader:
                if values and not columns:
                    columns = _check_header([value.strip() for value in values], needed, line, file)
                elif values:
                    if reader.line_num > line:
                        _refuse_line_break(values, columns, line, file)
                    yield line, _named(values, columns, line, file)
                line = reader.line_num + 1
        except csv.Error as error:  # a field as long as a file
            raise fault(file, f"{error} (is a quotation mark not closed?).", line) from error
        except UnicodeDecodeError as error:
            raise _encoding_fault(file) from error


def _lines(stream: Iterator[str], file: Path) -> Iterator[str]:
    for number, text in enumerate(stream, 1):
        if "\0" in text:
            raise fault(file, "there is a NUL character: write the file again, as text.", number)
        yield text


def _check_header(columns: list[str], needed: Sequence[str], line: int, file: Path) -> list[str]:
    if "ID" not in columns or not set(needed) <= set(columns):
        for name, delimiter in {"tabs": "\t", "semicolons": ";", "|": "|"}.items():
            if any(delimiter in column for column in columns):
                raise fault(file, f"the columns are separated by {name}, but must be separated by commas.", line)
    for column in ("ID", *needed):
        if column not in columns:
            found = ", ".join(columns)
            raise fault(
                file, f"there is no column '{column}': it has {found}, but needs {', '.join(['ID', *needed])}.", line
            )
    if "" in columns:
        raise fault(file, f"column {columns.index('') + 1} has no name: name it, or remove it.", line)
    twice = [column for number, column in enumerate(columns) if column in columns[:number]]
    if twice:
        raise fault(file, "there are two such columns: remove one.", line, twice[0])
    return columns


def _named(values: list[str], columns: list[str], line: int, file: Path) -> dict[str, str]:
    row = dict(zip(columns, values))
    if len(values) > len(columns):
        text = f"'{row['ID']}' has more values ({len(values)}) than there are columns ({len(columns)})"
        raise fault(file, f"{text}: put texts with commas in quotation marks.", line)
    if len(values) < len(columns):
        missing = columns[len(values)]
        text = f"the row has {len(values)} values, but there are {len(columns)} columns."
        raise fault(file, text, line, missing)
    row["ID"] = row["ID"].strip()
    return row


def _refuse_line_break(values: list[str], columns: list[str], line: int, file: Path) -> None:
    for column, value in zip(columns, values):
        if "\n" in value or "\r" in value:
            raise fault(file, f"the value {_shown(value)} {_describe_control(value)}: remove that.", line, column)


def _encoding_fault(file: Path) -> ValueError:
    """The first byte of a file that is not UTF-8, and where it is."""
    columns: list[str] = []  # of a CSV file
    with open(file, "rb") as stream:
        for number, data in enumerate(stream, 1):
            if number == 1 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
                return fault(file, "it is encoded as UTF-16: save it as UTF-8.", number)
            try:
                text = data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                before = _split(data[: error.start].decode("latin-1"))
                column = columns[len(before) - 1] if 0 < len(before) <= len(columns) else None
                text = f"the byte 0x{data[error.start]:02X} is not UTF-8: save the file as UTF-8."
                return fault(file, text, number, column)
            if number == 1 and file.suffix.lower() == ".csv":
                columns = _split(text.strip())
    return fault(file, "it is not UTF-8: save it as UTF-8.")


def _split(line: str) -> list[str]:
    return next(csv.reader([line], skipinitialspace=True), [])


class _Pairs(list):
    """An object of a JSON file, with keys that may occur twice."""


def json_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON file that maps each id to a mapping from column to value."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        items = json.loads(text, object_pairs_hook=_Pairs)
    except UnicodeDecodeError as error:
        raise _encoding_fault(file) from error
    except RecursionError as error:
        raise fault(file, "it is not valid JSON: it is nested too deeply.", 1) from error
    except ValueError as error:  # also of a number with thousands of digits
        raise fault(file, f"it is not valid JSON: {error}.", getattr(error, "lineno", None)) from error
    if not isinstance(items, _Pairs):
        raise fault(file, "it must map each id to a mapping from column to value.", 1)
    seen = set()
    for name, pairs in items:
        if name in seen:
            raise fault(file, f"the id '{name}' occurs twice.", json_line(file, name, occurrence=2), "ID")
        seen.add(name)
        if not isinstance(pairs, _Pairs):
            text = f"{_shown(pairs)} for '{name}' must be a mapping from column to value."
            raise fault(file, text, json_line(file, name))
        row = {key: _plain(value) for key, value in pairs}
        if len(row) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for number, key in enumerate(keys) if key in keys[:number])
            raise fault(file, f"'{name}' has it twice.", json_line(file, name), twice)
        yield {**row, "ID": name}


def _plain(value: Any) -> Any:
    """A value with dictionaries in place of pairs."""
    if isinstance(value, _Pairs):
        return {key: _plain(inner) for key, inner in value}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


_KEY = re.compile(r'("(?:[^"\\]|\\.)*")\s*:')


def json_line(file: Path, name: str, occurrence: int = 1) -> int | None:
    """The line of a key in a JSON file."""
    text = file.read_text(encoding="utf-8-sig")
    for match in _KEY.finditer(text):
        if json.loads(match[1], strict=False) == name:
            occurrence -= 1
            if not occurrence:
                return text.count("\n", 0, match.start()) + 1
    return None
