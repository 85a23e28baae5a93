"""Which errors are mistakes of the user, told in a sentence, and which are faults of the code, with a traceback."""

from __future__ import annotations

import errno
import linecache
import os
import traceback
from pathlib import Path

from speechbrain_mamba.utils.terminal import printable

MISTAKES = (ValueError, TypeError, RuntimeError, OSError, ImportError)
"""The kinds of errors by which the package tells a user what to do otherwise."""

PACKAGE = Path(__file__).resolve().parents[1]


def is_mistake(error: BaseException, *folders: Path) -> bool:
    """Whether an error was raised on purpose by this package or a recipe, with a sentence for the user.

    Arguments
    ---------
    error : BaseException
        An error that was caught.
    *folders : Path
        Folders of code whose ``raise`` statements count beside those of the package.

    Returns
    -------
    bool
        Whether the statement that raised it is a ``raise`` of the package or in one of the folders. A file that is not
        there or cannot be read is a mistake whoever names it, and so is a full disk.
    """
    if isinstance(error, OSError) and (error.filename is not None or is_full(error)):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not str(error):
        return False
    path, line = Path(frames[-1].filename).resolve(), frames[-1].lineno or 0
    known = any(path.is_relative_to(folder) for folder in (PACKAGE, *folders))
    return known and linecache.getline(str(path), line).lstrip().startswith("raise ")


def words_of(error: BaseException) -> str:
    """What an error says; the number of an error of the operating system is left out, and its file comes first.

    Example
    -------
    >>> words_of(PermissionError(errno.EACCES, "Permission denied", "notes.txt"))
    "'notes.txt': Permission denied"
    >>> words_of(ValueError("too long"))
    'too long'
    """
    if not isinstance(error, OSError) or not error.strerror or not str(error).startswith("["):
        return str(error)
    file = "" if error.filename is None else f"'{printable(os.fsdecode(error.filename))}': "
    return f"{file}{error.strerror}"


def is_full(error: BaseException) -> bool:
    """Whether a disk, or the share of it that a user has, is full.

    Example
    -------
    >>> is_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    """
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
