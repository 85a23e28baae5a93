"""Which recordings a command line names, and what the files that are made of them are called."""

from __future__ import annotations

import glob
import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechbrain_mamba.utils.files import check_writable
from speechbrain_mamba.utils.terminal import printable

STANDARD = "-"
"""Standard input as a source, standard output as an output."""

RECORDING_SUFFIXES = (
    *(".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
    *(".w64", ".rf64", ".sph", ".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac", ".webm", ".mka", ".mkv", ".wma", ".amr"),
)
"""Files that are taken from a folder. A file that is named may have any suffix."""

_TEXT_SUFFIXES = (".txt", ".json", ".srt", ".vtt")
_NAME_BYTES = 255  # of a file, on all usual file systems


@dataclass(frozen=True)
class Source:
    """A recording that a command line names.

    Arguments
    ---------
    path : str
        Its path, ``-`` for standard input.
    name : str
        The same for messages, without line breaks and other characters that are not shown.
    place : str
        What its outputs are called below the folder that they are written to, still with the suffix of the source.
    error : Exception, optional
        Why there is no recording.
    """

    path: str
    name: str
    place: str
    error: Exception | None = None


@dataclass(frozen=True)
class Task:
    """A recording with the files that are to be made of it.

    Arguments
    ---------
    source : Source
        The recording.
    outputs : sequence of str
        The paths of the files, ``-`` for standard output; as many as the endings that
        :func:`plan_outputs` was given.
    error : Exception, optional
        Why nothing can be done.
    """

    source: Source
    outputs: Sequence[str] = ()
    error: Exception | None = None


def find_sources(given: Sequence[str], out: str | None = None) -> list[Source]:
    """Find the recordings that a command line names, each one once.

    Arguments
    ---------
    given : sequence of str
        Files; folders, of which all audio files are taken, in folders below too, but no hidden ones; patterns such as
        ``'calls/**/*.wav'``, which the shell has not replaced; or ``-`` alone, standard input.
    out : str, optional
        A folder for sounds that are made of them. What is in it is not taken from a folder or a pattern above it, so
        that the same command can be given again.

    Returns
    -------
    list of Source
        In the order given, those of a folder or a pattern sorted. What is not there, or holds no audio, is a source
        with an error, so that the others can be worked on.

    Raises
    ------
    ValueError
        If standard input is given together with others.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.wav", "a.flac", "notes.txt"):
    ...     _ = (folder / name).write_bytes(b"")
    >>> [source.place for source in find_sources([str(folder), str(folder / "*.wav")])]
    ['a.flac', 'b.wav']
    """
    if STANDARD in given:
        if len(given) > 1:
            raise ValueError("'-' is standard input, which cannot be given together with other files.")
        return [Source(STANDARD, "standard input", "stdin")]
    found: dict[str, Source] = {}

    def add(path: str, place: str, error: Exception | None = None) -> None:
        found.setdefault(os.path.abspath(path), Source(path, printable(path), place, error))

    def add_found(path: str, place: str, error: Exception | None = None) -> None:
        if out is None or not _is_below(path, out) or _is_below(base, out):
            add(path, place, error)

    for argument in given:
        base = argument
        if os.path.lexists(argument):
            _add_path(argument, "", add_found if os.path.isdir(argument) else add)
        elif glob.has_magic(argument):
            base = _fixed_folder(argument) or "."
            matches = sorted(glob.glob(argument, recursive=True))
            for match in matches:
                _add_path(match, base, add_found)
            if not matches:
                add(argument, argument, FileNotFoundError(f"No file matches '{printable(argument)}'."))
        else:
            told = FileNotFoundError(f"The audio file '{printable(argument)}' does not exist.")
            add(argument, os.path.basename(argument), told)
    return list(found.values())


def _is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder, or in it."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _fixed_folder(pattern: str) -> str:
    """The folder of a pattern above its first part with a placeholder."""
    parts = pattern.split(os.sep)
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return os.sep.join(parts[:first])


def _add_path(path: str, base: str, add) -> None:  # type: ignore[no-untyped-def]
    """Add a file, or the audio files of a folder. Outputs keep the folders between it and the base of a pattern."""
    from speechbrain_mamba.dataio.audio_files import find_files

    place = os.path.relpath(path, base) if base else os.path.basename(path)
    if not os.path.isdir(path):
        add(path, place)
        return
    inside = place if base else ""
    try:
        names = find_files(path, lambda name: name.lower().endswith(RECORDING_SUFFIXES))
    except (ValueError, OSError) as error:
        add(path, place, error)
        return
    for name in names:
        add(os.path.join(path, name), os.path.join(inside, name))
    if not names and not base:
        told = f"The folder '{printable(path)}' holds no audio files (WAV, FLAC, MP3, M4A and others)."
        add(path, place, ValueError(told))


def plan_outputs(
    sources: Sequence[Source], out: str | None, endings: Sequence[str], *, force: bool = False, default: str = "."
) -> list[Task]:
    """Choose the files that are made of recordings: two recordings never share one, and no recording is replaced.

    Outputs of a folder are in the same folders below the output folder. Recordings of one name from different folders
    get the names of these too, and those that differ in the suffix keep it.

    Arguments
    ---------
    sources : sequence of Source
        The recordings.
    out : str, optional
        A folder, which need not exist; for a single recording, the name of a file, to whose stem several endings are
        added; or ``-``, standard output, for a single recording and a single ending.
    endings : sequence of str
        What follows the name of the recording, one for each file: ``.txt``, or ``_speaker1.wav`` and ``_speaker2.wav``.
        The suffix of a file ``out`` replaces that of audio.
    force : bool
        Whether files may be replaced.
    default : str
        The folder if ``out`` is None.

    Returns
    -------
    list of Task
        In the order of the sources. One whose output exists has an error.

    Raises
    ------
    ValueError
        If ``out`` does not fit the number of recordings, or their outputs.
    OSError
        If nothing can be written there.

    Example
    -------
    >>> sources = [Source("x/a.wav", "x/a.wav", "a.wav"), Source("y/a.wav", "y/a.wav", "a.wav")]
    >>> [task.outputs for task in plan_outputs(sources, "texts", [".txt"])]
    [['texts/x/a.txt'], ['texts/y/a.txt']]
    """
    names, folder = _file_names(sources, out, endings), None
    if names is None:
        folder = Path(default if out is None else out)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"--out '{printable(folder)}' is a file, but must be a folder.")
        longest = max(len(os.fsencode(ending)) for ending in endings)
        stems = [_shortened(stem, longest) for stem in _unique_stems(sources)]
        names = [[str(folder / f"{stem}{ending}") for ending in endings] for stem in stems]
    if out != STANDARD:
        check_writable(Path(names[0][0]).parent if folder is None else folder)
    read = {os.path.realpath(source.path) for source in sources if source.path != STANDARD}
    taken: set[str] = set()
    tasks = []
    for source, outputs in zip(sources, names):
        tasks.append(Task(source, outputs, source.error or _fault(outputs, read, taken, force)))
        taken.update(_key(output) for output in outputs)
    return tasks


def _file_names(sources: Sequence[Source], out: str | None, endings: Sequence[str]) -> list[list[str]] | None:
    """The outputs if ``out`` is a file or standard output, None if it is a folder."""
    if out is None:
        return None
    if out == STANDARD:
        if len(sources) > 1 or len(endings) > 1:
            raise ValueError(
                f"--out - writes one file to standard output, but there are {len(sources)} recordings with "
                f"{len(endings)} outputs each: give a folder."
            )
        return [[STANDARD]]
    stem, suffix = os.path.splitext(out)
    parts = [ending.rpartition(".") for ending in endings]
    kinds = {f".{kind}" for _, _, kind in parts}
    if suffix.lower() not in (*RECORDING_SUFFIXES, *_TEXT_SUFFIXES, *kinds) or os.path.isdir(out):
        return None
    if len(sources) > 1:
        raise ValueError(
            f"--out '{printable(out)}' is the name of one file, but there are {len(sources)} recordings: give a folder."
        )
    audio = kinds <= set(RECORDING_SUFFIXES)
    if suffix.lower() not in (RECORDING_SUFFIXES if audio else kinds):
        raise ValueError(
            f"--out '{printable(out)}' is the name of another kind of file than {', '.join(sorted(kinds))}."
        )
    if len(endings) == 1:
        return [[out]]
    return [[stem + (begin + suffix if audio else ending) for ending, (begin, _, _) in zip(endings, parts)]]


def _unique_stems(sources: Sequence[Source]) -> list[str]:
    """Names of outputs without an ending, all different: as short as possible, then with folders, then with suffix."""
    paths = [os.path.abspath(source.path) for source in sources]
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    choices = []
    for source, path in zip(sources, paths):
        long = os.path.relpath(path, common) if source.path != STANDARD else source.place
        choices.append([os.path.splitext(source.place)[0], os.path.splitext(long)[0], long])
    level = [0] * len(sources)
    while True:
        groups = defaultdict(list)
        for place, (choice, chosen) in enumerate(zip(choices, level)):
            groups[_key(choice[chosen])].append(place)
        moved = [place for group in groups.values() if len(group) > 1 for place in group if level[place] < 2]
        if not moved:
            break
        for place in moved:
            level[place] += 1
    stems, seen = [], set()
    for choice, chosen in zip(choices, level):
        stem, number = choice[chosen], 2
        while _key(stem) in seen:  # names that differ only in case, say
            stem, number = f"{choice[chosen]}-{number}", number + 1
        seen.add(_key(stem))
        stems.append(stem)
    return stems


def _key(path: str) -> str:
    """Equal for names that some file system takes for the same one."""
    return unicodedata.normalize("NFC", os.path.normpath(path)).casefold()


def _shortened(stem: str, ending: int) -> str:
    """A stem whose last part leaves room for an ending of some bytes."""
    folder, name = os.path.split(stem)
    room = _NAME_BYTES - ending
    if len(os.fsencode(name)) <= room:
        return stem
    mark = "-" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
    cut = os.fsencode(name)[: room - len(mark)].decode("utf-8", "ignore")
    return os.path.join(folder, cut + mark)


def _fault(outputs: Sequence[str], read: set[str], taken: set[str], force: bool) -> Exception | None:
    """Why some outputs must not be written."""
    for output in outputs:
        if output == STANDARD:
            continue
        name = printable(output)
        if os.path.realpath(output) in read:
            return ValueError(f"'{name}' would be written, but is one of the recordings: choose another --out.")
        if _key(output) in taken:
            return ValueError(f"'{name}' would be written for two recordings: give each of them its own --out.")
        if os.path.isdir(output):
            return IsADirectoryError(f"'{name}' would be written, but is a folder: choose another --out.")
        if os.path.lexists(output) and not force:
            return FileExistsError(f"'{name}' exists: choose another --out, or replace it with --force.")
    return None
