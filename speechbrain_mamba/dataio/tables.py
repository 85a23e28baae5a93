"""Manifests that are too large for memory: rows are read from the files when they are asked for.

A manifest of 10 million rows as dictionaries takes several GB, in each process and each worker of a loader. Here a
process maps the files and an index of them: where each row begins, its duration, and a hash of its id. What several
processes on a machine read is in memory once.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_mamba.dataio.manifest_rows import csv_rows, fault, parse_row
from speechbrain_mamba.utils.files import atomic_path

logger = logging.getLogger(__name__)

LARGE_BYTES = 256 * 2**20
"""CSV manifests from this size on, together, are not read into memory: a million rows or so."""

_VERSION = 1

ParsedRow = dict[str, Any]


class ManifestTable(Mapping[str, ParsedRow]):
    """A read-only mapping from id to row of large CSV manifests, in their order; made by :func:`open_table`.

    Rows are parsed when they are asked for, so that each is a new dictionary. An id is found by its hash; ids, rows and
    durations can be had by place too, which is faster.

    Arguments
    ---------
    files : list of Path
        The CSV files.
    index : Path
        The folder of their index.
    parse : callable
        From the texts of a row, its line or None, and its file to an item.
    rows : numpy.ndarray, optional
        Places of the rows to have, in ascending order; all by default.
    """

    def __init__(
        self,
        files: Sequence[Path],
        index: Path,
        parse: Callable[..., ParsedRow],
        rows: np.ndarray | None = None,
    ) -> None:
        self.files, self.index, self.parse = list(files), index, parse
        self._load()
        self._rows = np.arange(len(self._offsets), dtype=np.int32) if rows is None else rows

    def _load(self) -> None:
        names = ("offsets", "files", "durations", "hashes", "order")
        self._offsets, self._files, self._durations, self._hashes, self._order = (
            np.load(self.index / f"{name}.npy", mmap_mode="r") for name in names
        )
        self._columns: list[list[str]] = json.loads((self.index / "facts.json").read_text(encoding="utf-8"))["columns"]
        self._texts = [_map_file(path) for path in self.files]

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("files", "index", "parse", "_rows")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return (self.id_at(place) for place in range(len(self)))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def __getitem__(self, name: str) -> ParsedRow:
        row = self._find(name)
        if row is None:
            raise KeyError(name)
        return self._parse(row)

    def items(self) -> ItemsView[str, ParsedRow]:
        """Ids and rows, read once each."""
        return _Items(self)

    def values(self) -> ValuesView[ParsedRow]:
        """Rows, read once each."""
        return _Values(self)

    def id_at(self, place: int) -> str:
        """The id of the row at a place, from 0."""
        return self._texts_of(int(self._rows[place]))["ID"]

    def item_at(self, place: int) -> tuple[str, ParsedRow]:
        """The id and the row at a place, from 0."""
        row = int(self._rows[place])
        texts = self._texts_of(row)
        return texts["ID"], self.parse(texts, None, file=self.files[self._files[row]])

    def place_of(self, row: int) -> tuple[Path, int]:
        """The file of a row, and its line."""
        file, first = self.files[self._files[row]], self._offsets[row]
        return file, next(line for line, start in _offsets_of_lines(file) if start == first)

    @property
    def durations(self) -> np.ndarray:
        """The durations in seconds, (rows,), NaN without that column."""
        return self._durations if len(self) == len(self._durations) else self._durations[self._rows]

    def select(self, keep: Iterable[bool]) -> ManifestTable:
        """The table of some rows: those for which ``keep``, in the order of the rows, is true."""
        chosen = np.fromiter(keep, dtype=bool, count=len(self))
        return ManifestTable(self.files, self.index, self.parse, self._rows[chosen])

    def _texts_of(self, row: int) -> dict[str, str]:
        number = int(self._files[row])
        text, first = self._texts[number], int(self._offsets[row])
        end = text.find(b"\n", first)
        return _split_row(text[first : len(text) if end < 0 else end], self._columns[number])

    def _parse(self, row: int) -> ParsedRow:
        return self.parse(self._texts_of(row), None, file=self.files[self._files[row]])

    def _find(self, name: str) -> int | None:
        """The row of an id in the files, None if this table does not have it."""
        wanted = np.uint64(_hash(name))  # another type would copy all hashes
        for place in range(int(np.searchsorted(self._hashes, wanted)), len(self._hashes)):
            if self._hashes[place] != wanted:
                return None
            row = int(self._order[place])
            if self._texts_of(row)["ID"] == name:
                position = int(np.searchsorted(self._rows, row))
                return row if position < len(self) and self._rows[position] == row else None
        return None


class _Items(ItemsView[str, ParsedRow]):
    _mapping: ManifestTable

    def __iter__(self) -> Iterator[tuple[str, ParsedRow]]:
        return (self._mapping.item_at(place) for place in range(len(self._mapping)))


class _Values(ValuesView[ParsedRow]):
    _mapping: ManifestTable

    def __iter__(self) -> Iterator[ParsedRow]:
        return (self._mapping.item_at(place)[1] for place in range(len(self._mapping)))


class _Ids(Sequence[str]):
    """The ids of a table by place, which SpeechBrain's datasets keep as a list."""

    def __init__(self, table: ManifestTable) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self.table.id_at(i) for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self.table.id_at(place % len(self))


class TableDataset(DynamicItemDataset):
    """SpeechBrain's dataset over a :class:`ManifestTable`, without a list of all ids."""

    def __init__(self, table: ManifestTable) -> None:
        name, item = table.item_at(0)
        super().__init__({name: item})  # makes the pipeline for its columns
        self.data, self.data_ids = table, _Ids(table)

    def __getitem__(self, index: int) -> Any:
        name, item = self.data.item_at(index)
        return self.pipeline.compute_outputs({"id": name, **item})


def item_dataset(items: Mapping[str, Mapping[str, Any]]) -> DynamicItemDataset:
    """SpeechBrain's dataset of items by id, which may be a :class:`ManifestTable`.

    Example
    -------
    >>> dataset = item_dataset({"a": {"duration": 1.5}})
    >>> dataset.set_output_keys(["id", "duration"])
    >>> dataset[0]
    {'id': 'a', 'duration': 1.5}
    """
    return TableDataset(items) if isinstance(items, ManifestTable) else DynamicItemDataset(items)


def keep_items(items: Mapping[str, ParsedRow], is_kept: Callable[[str, ParsedRow], bool]) -> Mapping[str, ParsedRow]:
    """The items that a function of id and item is true for; a :class:`ManifestTable` stays one.

    Example
    -------
    >>> keep_items({"a": {"duration": 1.5}, "b": {"duration": 0.1}}, lambda name, item: item["duration"] > 1)
    {'a': {'duration': 1.5}}
    """
    if isinstance(items, ManifestTable):
        return items.select(is_kept(name, item) for name, item in items.items())
    return {name: item for name, item in items.items() if is_kept(name, item)}


def is_large(files: Iterable[str | os.PathLike]) -> bool:
    """Whether manifests are CSV files, and too large together to be read into memory."""
    paths = [Path(file) for file in files]
    return all(path.suffix.lower() == ".csv" and path.is_file() for path in paths) and (
        sum(path.stat().st_size for path in paths) >= LARGE_BYTES
    )


def open_table(
    files: Sequence[str | os.PathLike], data_root: str | os.PathLike | None = None, needed: Sequence[str] = ()
) -> ManifestTable:
    """Open CSV manifests as one table. The first time, all rows are checked and the index is written.

    The index is a hidden folder beside the first file, or in the user's cache if that cannot be written. It is used
    again as long as the files are the same, by size and time of change.

    Arguments
    ---------
    files : sequence of str or Path
        CSV files with the same kind of rows.
    data_root, needed
        As for :func:`~speechbrain_mamba.dataio.manifests.read_manifest`, whose errors are raised too.

    Returns
    -------
    ManifestTable
        The table.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> _ = path.write_text("ID,duration,wav\\na,1.5,$data_root/a.wav\\nb,2,$data_root/b.wav\\n")
    >>> table = open_table([path], data_root="speech")
    >>> len(table), table["b"], table.durations.tolist()
    (2, {'duration': 2.0, 'wav': 'speech/b.wav'}, [1.5, 2.0])
    """
    paths = [Path(file) for file in files]
    parse = partial(parse_row, data_root=data_root, needed=tuple(needed))
    stats = [path.stat() for path in paths]
    facts: dict[str, Any] = {
        "version": _VERSION,
        "files": [[str(path.absolute()), stat.st_size, stat.st_mtime_ns] for path, stat in zip(paths, stats)],
        "needed": list(needed),
        "data_root": data_root is not None,
    }
    name = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
    index = _index_folder(paths[0]) / name
    if not (index / "facts.json").is_file():
        index.parent.mkdir(parents=True, exist_ok=True)
        with open(index.with_suffix(".lock"), "w") as lock:  # the others wait for the first process
            with contextlib.suppress(OSError):  # no locks, as on some network file systems: each writes the same index
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not (index / "facts.json").is_file():
                logger.info("Indexing %d rows or more of %s, once.", sum(s.st_size for s in stats) // 300, paths[0])
                _write_index(index, paths, facts, parse)
                _remove_stale(index, facts["files"])
    return ManifestTable(paths, index, parse)


def _index_folder(path: Path) -> Path:
    folder = path.absolute().parent / ".manifest_index"
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "speechbrain_mamba" / "manifest_index"


def _write_index(index: Path, paths: Sequence[Path], facts: dict[str, Any], parse: Callable[..., ParsedRow]) -> None:
    offsets, numbers, durations, hashes = array("q"), array("H"), array("d"), array("Q")
    columns = []
    for number, path in enumerate(paths):
        names: list[str] = []
        lines = _offsets_of_lines(path)
        for line, texts in csv_rows(path, tuple(facts["needed"])):
            _, first = next(pair for pair in lines if pair[0] == line)
            item = parse(texts, line, file=path)
            names = names or list(texts)
            offsets.append(first)
            numbers.append(number)
            durations.append(item.get("duration", float("nan")))
            hashes.append(_hash(texts["ID"]))
        if not names:
            raise fault(path, "it lists nothing: prepare the data again.")
        columns.append(names)
    keys = np.frombuffer(hashes, dtype=np.uint64)
    order = np.argsort(keys, kind="stable").astype(np.uint32)
    ordered = keys[order]
    arrays = {"offsets": offsets, "files": numbers, "durations": durations}
    with atomic_path(index) as temporary:
        temporary.mkdir()
        for name, values in arrays.items():
            np.save(temporary / f"{name}.npy", np.asarray(values))
        np.save(temporary / "hashes.npy", ordered)
        np.save(temporary / "order.npy", order)
        (temporary / "facts.json").write_text(json.dumps({**facts, "columns": columns}), encoding="utf-8")
        _check_unique(ManifestTable(paths, temporary, parse), ordered, order)


def _remove_stale(index: Path, files: list[list[Any]]) -> None:
    """Remove the indexes of earlier states of these files; a process that has mapped one keeps it until it ends."""
    names = [name for name, *_ in files]
    for facts in index.parent.glob("*/facts.json"):
        old = json.loads(facts.read_text(encoding="utf-8"))["files"]
        if [name for name, *_ in old] == names and old != files:
            shutil.rmtree(facts.parent, ignore_errors=True)
            facts.parent.with_suffix(".lock").unlink(missing_ok=True)


def _check_unique(table: ManifestTable, ordered: np.ndarray, order: np.ndarray) -> None:
    """Compare the ids of rows whose hashes are equal."""
    seen: dict[str, int] = {}
    for place in np.flatnonzero(ordered[1:] == ordered[:-1]):
        for row in sorted(int(order[place + i]) for i in (0, 1)):
            name = table.id_at(row)
            first = seen.setdefault(name, row)
            if first != row:
                (file, line), (other, before) = table.place_of(row), table.place_of(first)
                text = f"the id '{name}' occurs twice, first in line {before} of '{other}': ids must be unique."
                raise fault(file, text, line, "ID")


def _offsets_of_lines(path: Path) -> Iterator[tuple[int, int]]:
    """The number and the first byte of each line."""
    first = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            yield number, first
            first += len(line)
    raise fault(path, "its lines end in a carriage return alone: save it with line feeds.")


def _map_file(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _split_row(data: bytes, columns: Sequence[str]) -> dict[str, str]:
    texts = dict(zip(columns, next(csv.reader([data.decode("utf-8")], skipinitialspace=True))))
    texts["ID"] = texts["ID"].strip()
    return texts


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest(), "little")
