"""The audio files of a folder: found, read, and those that cannot be used named, counted and left out."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from speechbrain_mamba.dataio.audio import AudioInfo, UnreadableAudioError, check_audio
from speechbrain_mamba.utils.files import write_csv
from speechbrain_mamba.utils.parallel import parallel_map
from speechbrain_mamba.utils.terminal import printable

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac")
NAMED = 10
"""Files that a message names; it counts the others."""


class SkippedFiles:
    """The files that a preparation leaves out, each with a reason of a few words.

    Example
    -------
    >>> skipped = SkippedFiles()
    >>> skipped.add("anna/1.wav", "cut short")
    >>> skipped.add("anna/2.wav", "empty file")
    >>> skipped.add("ben/1.wav", "cut short")
    >>> skipped.counts()
    {'cut short': 2, 'empty file': 1}
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def add(self, path: str | os.PathLike, reason: str, message: str = "") -> None:
        """Note a file. A warning gives the message, or the path and reason, of the first ones."""
        self.reasons[printable(path)] = reason
        if len(self.reasons) <= NAMED:
            logger.warning("Skipped: %s", message or f"'{printable(path)}' ({reason}).")

    def __len__(self) -> int:
        return len(self.reasons)

    def counts(self) -> dict[str, int]:
        """How many files were left out for each reason, the most frequent first."""
        return dict(Counter(self.reasons.values()).most_common())

    def summary(self) -> str:
        """The counts in words, such as ``2 cut short, 1 empty file``."""
        return ", ".join(f"{count} {reason}" for reason, count in self.counts().items())

    def write(self, path: str | os.PathLike) -> None:
        """Write a CSV file with the columns ``path`` and ``reason``, or remove an earlier one if nothing was left
        out."""
        if not self.reasons:
            Path(path).unlink(missing_ok=True)
            return
        rows = [{"path": name, "reason": reason} for name, reason in sorted(self.reasons.items())]
        write_csv(path, rows, ["path", "reason"])
        logger.warning("%d files were skipped (%s): '%s' lists them.", len(self), self.summary(), path)


def unusable_name(path: str | os.PathLike) -> str | None:
    """Why a path cannot stand in a manifest; None if it can."""
    try:
        text = os.fspath(path)
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "name is not UTF-8"
    return "control character in name" if any(ord(char) < 32 or ord(char) == 127 for char in text) else None


def find_files(folder: str | os.PathLike, is_wanted: Callable[[str], bool]) -> list[Path]:
    """All files below a folder whose name is wanted, sorted and relative to it.

    Links to folders are followed, but not back into a folder that they lie in. Hidden files and folders are left out.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    ValueError
        When a folder in it cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"The data folder '{root}' does not exist.")

    def refuse(error: OSError) -> None:
        raise ValueError(f"The folder '{error.filename}' cannot be read ({error.strerror}): change that.") from error

    found = []
    for place, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        inside = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in inside if not _leads_back(os.path.join(place, name))]
        found += [
            Path(place).relative_to(root) / name for name in names if not name.startswith(".") and is_wanted(name)
        ]
    return sorted(found)


def _leads_back(folder: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    if not os.path.islink(folder):
        return False
    target = os.path.realpath(folder)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(folder))]) == target


def find_audio(folder: str | os.PathLike) -> list[Path]:
    """All WAV and FLAC files below a folder, as returned by :func:`find_files`."""
    return find_files(folder, lambda name: name.lower().endswith(AUDIO_SUFFIXES))


def scan_audio(
    paths: Sequence[Path], sample_rate: int, skipped: SkippedFiles, description: str, whole: bool = True
) -> dict[Path, AudioInfo]:
    """Check some files in parallel, with a progress bar, and return the facts of the usable ones.

    Arguments
    ---------
    paths : sequence of Path
        Files that are there, or links that may lead nowhere.
    sample_rate : int
        The rate in Hz that all must have.
    skipped : SkippedFiles
        Gets those that are unreadable, empty, cut short, not finite, absurdly loud, or whose link leads nowhere.
    description : str
        What the progress bar says.
    whole : bool
        Whether to read them completely, see :func:`~speechbrain_mamba.dataio.audio.check_audio`.

    Raises
    ------
    ValueError
        When files have another sample rate or more than one channel: it names the first ones and counts them.
    """

    def examine(path: Path) -> AudioInfo | Exception:
        if reason := unusable_name(path):
            name = printable(path)
            return UnreadableAudioError(f"The file '{name}' cannot be listed in a manifest: rename it.", reason)
        try:
            return check_audio(path, sample_rate, whole)
        except (ValueError, FileNotFoundError) as error:
            return error

    found, wrong = {}, []
    for path, result in zip(paths, parallel_map(examine, paths, description, "file")):
        if isinstance(result, AudioInfo):
            found[path] = result
        elif reason := skip_reason(result):
            skipped.add(path, reason, str(result))
        else:
            wrong.append(str(result))
    if len(found) + len(wrong) < len(paths):
        count = len(paths) - len(found) - len(wrong)
        logger.warning("Skipped %d of %d files (%s).", count, len(paths), skipped.summary())
    if wrong:
        raise ValueError(list_faults(f"{len(wrong)} of {len(paths)} audio files have the wrong format", wrong))
    return found


def skip_reason(error: Exception) -> str:
    """Why a preparation leaves a file out, by the error that it gave; empty if the error must stop it."""
    if isinstance(error, UnreadableAudioError):
        return error.reason
    if isinstance(error, FileNotFoundError):
        return "dangling link" if "is a link to" in str(error) else "missing"
    return ""


def list_faults(heading: str, faults: Sequence[str]) -> str:
    """A message with one fault, or with a heading and the first ones."""
    if len(faults) == 1:
        return faults[0]
    more = [f"... and {len(faults) - NAMED} more."] if len(faults) > NAMED else []
    return "\n  ".join([f"{heading}:", *faults[:NAMED], *more])
