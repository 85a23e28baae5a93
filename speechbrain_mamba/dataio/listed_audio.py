"""The audio that manifests list, checked in parallel before the first step of a training."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechbrain_mamba.dataio.audio import AudioInfo, UnreadableAudioError, check_audio
from speechbrain_mamba.dataio.audio_files import NAMED, list_faults
from speechbrain_mamba.dataio.manifests import TRANSCRIBED, ManifestPath, find_line, read_manifest
from speechbrain_mamba.utils.files import write_json
from speechbrain_mamba.utils.parallel import parallel_iter

_SECONDS, _SHARE = 0.1, 0.01
"""A duration may differ from its file by so much and this share of it."""
_LISTED = re.compile(r"wav|mix_wav|s\d+_wav")


def check_listed_audio(
    manifests: Iterable[ManifestPath],
    sample_rate: int | None,
    data_root: str | os.PathLike | None = None,
    columns: Iterable[str] = TRANSCRIBED,
    memory: str | os.PathLike | None = None,
    skip_unusable: bool = False,
) -> None:
    """Check all audio files that some manifests list, in parallel and with a progress bar.

    Each file must be there, usable as far as :func:`~speechbrain_mamba.dataio.audio.check_audio` tells, mono, of the
    sample rate, and as long as its row says; sources must be as long as their mixture. These files are in the columns
    ``wav``, ``mix_wav``, ``s1_wav``, ``s2_wav``, ...

    Arguments
    ---------
    manifests : iterable
        Those of the splits, each as :func:`~speechbrain_mamba.dataio.manifests.read_manifest` reads it, with
        ``data_root`` and ``columns``.
    sample_rate : int or None
        The rate in Hz that all files must have; None for any.
    memory : str or Path, optional
        A JSON file that keeps which manifests were checked. They are not checked again until their size or time, or an
        argument changes.
    skip_unusable : bool
        Whether to pass over files that are there but have no usable audio, for callers that leave these out by name.

    Raises
    ------
    ValueError
        When files cannot be used: the message has the first ten with their lines, and counts them.

    Example
    -------
    >>> import torch
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.zeros(12000), sample_rate=8000)
    >>> _ = (folder / "test.csv").write_text("ID,duration,wav,wrd\\na,1500,a.wav,GOOD MORNING\\n")
    >>> check_listed_audio([folder / "test.csv"], sample_rate=8000)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: The manifest '.../test.csv', line 2: the duration of 'a' is 1500 s, but its audio has 1.5 s: give it in
    seconds, not in milliseconds.
    """
    needed = tuple(columns)
    known = {} if memory is None else _recall(memory)
    files = [
        Path(file) for group in manifests for file in ([group] if isinstance(group, (str, os.PathLike)) else group)
    ]
    for file in dict.fromkeys(files):
        state = _describe(file, sample_rate, data_root, needed, skip_unusable)
        name = str(file.absolute())
        if state is not None and known.get(name) == state:
            continue
        _check(file, read_manifest(file, data_root, needed), sample_rate, skip_unusable)
        if memory is not None:
            known[name] = state
            write_json(memory, known)


def _describe(
    file: Path, sample_rate: int | None, data_root: str | os.PathLike | None, columns: Sequence[str], skips: bool
) -> dict[str, Any] | None:
    """What decides the outcome of a check, except for the audio files."""
    if not file.is_file():
        return None  # the reader tells
    facts = file.stat()
    root = None if data_root is None else str(Path(data_root).absolute())
    settings = {"sample_rate": sample_rate, "data_root": root, "columns": list(columns), "skips": skips}
    return {"bytes": facts.st_size, "modified": facts.st_mtime_ns, **settings}


def _recall(memory: str | os.PathLike) -> dict[str, Any]:
    try:
        content = json.loads(Path(memory).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _check(file: Path, items: Mapping[str, Mapping[str, Any]], sample_rate: int | None, skip_unusable: bool) -> None:
    def examine(row: tuple[str, Mapping[str, Any]]) -> tuple[str, str | None]:
        return row[0], _problem(*row, sample_rate, skip_unusable)

    faults: list[str] = []
    for name, problem in parallel_iter(examine, items.items(), len(items), f"Checking {file.name}", "row"):
        if problem is not None:
            named = len(faults) < NAMED
            faults.append(f"The manifest '{file}', line {find_line(file, name)}: {problem}" if named else "")
    if faults:
        raise ValueError(list_faults(f"{len(faults)} of {len(items)} rows have audio that cannot be used", faults))


def _problem(name: str, item: Mapping[str, Any], sample_rate: int | None, skip_unusable: bool) -> str | None:
    """What is wrong with the audio of a row."""
    found: dict[str, AudioInfo] = {}
    for column, path in item.items():
        if _LISTED.fullmatch(column) and path:
            try:
                found[column] = check_audio(path, sample_rate)
            except (ValueError, FileNotFoundError) as error:
                if skip_unusable and isinstance(error, UnreadableAudioError):
                    return None
                return f"'{name}' cannot be used. {error}"
    lengths = {column: info.samples for column, info in found.items()}
    if "mix_wav" in lengths and len(set(lengths.values())) > 1:
        return f"the files of '{name}' have unequal lengths, in samples {lengths}."
    whole = found.get("wav") or found.get("mix_wav")
    if whole is None:
        return None
    problem = _contradiction(name, item.get("duration"), whole)
    if problem and ("start" in item or "stop" in item):
        return f"{problem} Columns 'start' and 'stop' are not read: cut the files."
    return problem


def _contradiction(name: str, duration: float | None, info: AudioInfo) -> str | None:
    """How the duration of a row differs from its audio."""
    seconds = info.seconds

    def is_close(value: float) -> bool:
        return abs(value - seconds) <= _SECONDS + _SHARE * seconds

    if duration is None or is_close(duration):
        return None
    hint = "correct it."
    for unit, value in {"milliseconds": duration / 1000, "samples": duration / info.sample_rate}.items():
        if abs(value - seconds) <= _SHARE * seconds:
            hint = f"give it in seconds, not in {unit}."
    return f"the duration of '{name}' is {duration:g} s, but its audio has {seconds:g} s: {hint}"
