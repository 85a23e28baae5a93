"""Text for the terminal."""

from __future__ import annotations

import os
import sys


def show(text: str) -> bool:
    """Print a text, or as much of it as the other end of a pipe takes.

    Returns
    -------
    bool
        Whether somebody still reads. If not, whatever is printed later is dropped.

    Example
    -------
    >>> read = show("ready")
    ready
    >>> read
    True
    """
    try:
        print(text.rstrip("\n"), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more when Python ends
        return False
    return True


def printable(path: str | os.PathLike) -> str:
    """A path with escapes for line breaks, other control characters, and bytes that are not UTF-8.

    Example
    -------
    >>> printable("two\\nlines.wav")
    'two\\\\nlines.wav'
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
