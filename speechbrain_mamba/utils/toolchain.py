"""The C compiler and Python's headers, with which Triton builds the launcher of each kernel when it first runs."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path


def find_compiler() -> str | None:
    """Path of the C compiler that Triton uses: the one named by ``CC``, or else gcc or clang; None if there is none.

    Example
    -------
    >>> isinstance(find_compiler(), (str, type(None)))
    True
    """
    named = os.environ.get("CC")
    return shutil.which(named) if named else shutil.which("gcc") or shutil.which("clang")


def find_headers() -> Path | None:
    """The folder of ``Python.h`` of the running Python, None if it is not installed.

    Example
    -------
    >>> folder = find_headers()
    >>> folder is None or (folder / "Python.h").is_file()
    True
    """
    scheme = sysconfig.get_default_scheme()
    scheme = "posix_prefix" if scheme == "posix_local" else scheme  # Debian's own, which has no headers
    folder = Path(sysconfig.get_path("include", scheme))
    return folder if (folder / "Python.h").is_file() else None


def missing_tools() -> str | None:
    """A sentence on what Triton lacks to build its launchers, None if it lacks nothing.

    Example
    -------
    >>> isinstance(missing_tools(), (str, type(None)))
    True
    """
    if find_compiler() is None:
        if named := os.environ.get("CC"):
            return f"Triton needs a C compiler at run time, but CC names '{named}', which is not found."
        return "Triton needs a C compiler at run time: install gcc or clang (on Debian and Ubuntu: apt install gcc)."
    if find_headers() is None:
        return "Triton needs Python.h at run time: install it (on Debian and Ubuntu: apt install python3-dev)."
    return None
