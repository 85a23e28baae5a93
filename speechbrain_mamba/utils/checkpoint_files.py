"""The files of a checkpoint: sealed with sizes and checksums when they are saved, and checked against them later.

Checksums are CRC-32: it reads 3.2 GB/s here, SHA-256 1.5 and BLAKE2b 0.9, and it finds what disks and copies damage. It
does not protect from people who change a file on purpose, which PyTorch's safe loading is for.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import yaml
from speechbrain.utils.checkpoints import METAFNAME, PARAMFILE_EXT

from speechbrain_mamba.utils.files import sync_path, sync_tree

UNFINISHED = f".{METAFNAME}"
"""The name of the meta file of a checkpoint that is being saved."""

_BLOCK = 1 << 22
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # meta files are read often
_SEAL = "# crc32 of the lines above: "


def crc32(path: Path) -> str:
    """The checksum of a file, 8 hexadecimal digits.

    Example
    -------
    >>> path = getfixture("tmp_path") / "note.txt"
    >>> _ = path.write_text("a")
    >>> crc32(path)
    'e8b7be43'
    """
    value, buffer = 0, memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            value = zlib.crc32(buffer[:count], value)
    return f"{value:08x}"


def seal(folder: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Write the meta file of a checkpoint with sizes and checksums of its other files, all of it onto the disk.

    Arguments
    ---------
    folder : Path
        The folder, with all files of the checkpoint.
    meta : mapping
        What the meta file holds besides.

    Returns
    -------
    dict
        What the meta file holds.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (UNFINISHED, METAFNAME))
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "crc32": crc32(path)} for path in paths
    }
    sealed = {**{key: _plain(value) for key, value in meta.items()}, "files": files}
    text = "# yamllint disable\n" + yaml.safe_dump(sealed, sort_keys=True)
    unfinished = folder / UNFINISHED
    unfinished.write_text(f"{text}{_SEAL}{zlib.crc32(text.encode()):08x}\n", encoding="utf-8")
    sync_tree(folder)
    unfinished.replace(folder / METAFNAME)
    sync_path(folder)
    return sealed


def find_fault(folder: Path, thorough: bool) -> str:
    """What is wrong with a checkpoint; empty if it is whole.

    Checkpoints of SpeechBrain's own checkpointer and of version 0.1 have no checksums. Of their files, those written by
    ``torch.save`` are zip archives, which have checksums of their own.

    Arguments
    ---------
    folder : Path
        The folder of the checkpoint.
    thorough : bool
        Whether all files are read; otherwise only the meta file, and the sizes of the others.

    Returns
    -------
    str
        The fault in a few words.
    """
    if not (folder / METAFNAME).is_file():
        return f"{METAFNAME} is missing"
    meta = _read_meta(folder / METAFNAME)
    if isinstance(meta, str):
        return meta
    listed: dict[str, dict] = meta.get("files", [path.name for path in folder.glob(f"*{PARAMFILE_EXT}")])
    if not isinstance(listed, dict):  # names only
        listed = {name: {} for name in listed}
    for name, facts in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != facts.get("bytes", size):
            return f"{name} has {size} bytes instead of {facts['bytes']}"
        if facts and thorough and crc32(path) != facts["crc32"]:
            return f"{name} was changed: its checksum differs"
        if not facts and not _is_sound(path, thorough):
            return f"{name} is empty or cut short"
    return ""


def _read_meta(path: Path) -> dict[str, Any] | str:
    """The content of a meta file, or what is wrong with it."""
    data = path.read_bytes()
    try:
        text = data.decode()
        meta = yaml.load(text, Loader=_LOADER)
    except (UnicodeDecodeError, yaml.YAMLError):
        return f"{path.name} is not YAML"
    if not data.strip():
        return f"{path.name} is empty"
    if not isinstance(meta, dict) or not isinstance(meta.get("unixtime"), Real) or "end-of-epoch" not in meta:
        return f"{path.name} is cut short"
    body, mark, checksum = text.partition(_SEAL)
    if isinstance(meta.get("files"), dict) and not mark:
        return f"{path.name} is cut short"
    if mark and checksum != f"{zlib.crc32(body.encode()):08x}\n":
        return f"{path.name} was changed: its checksum differs"
    return meta


def _is_sound(path: Path, thorough: bool) -> bool:
    """Whether a file without a checksum can be read, as far as its format tells."""
    with open(path, "rb") as file:
        head = file.read(4)
    if head != b"PK\x03\x04":
        return bool(head)
    try:
        with zipfile.ZipFile(path) as archive:
            return not thorough or archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _plain(value: Any) -> Any:
    """A number of NumPy or PyTorch as one of Python, which YAML can write."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)
