"""How the scripts of recipes end."""

from __future__ import annotations

import errno
import linecache
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from speechbrain_mamba.utils.distributed import leave_processes
from speechbrain_mamba.utils.main_process import is_told_by_main

logger = logging.getLogger(__name__)

MISTAKES = (ValueError, TypeError, RuntimeError, OSError, ImportError)
"""The kinds of errors by which the package tells a user what to do otherwise."""

PACKAGE = Path(__file__).resolve().parents[1]


def run_script(main: Callable[[], None]) -> None:
    """Run a script. A user's mistake ends it with one sentence and exit code 1, anything else with its traceback.

    Arguments
    ---------
    main : callable
        The script. With ``--debug`` on its command line mistakes have tracebacks too, which the log file always has.

    Example
    -------
    In a recipe::

        if __name__ == "__main__":
            run_script(main)
    """
    try:
        main()
    except MISTAKES as error:
        if is_told_by_main(error):
            raise SystemExit(1) from None
        if "--debug" in sys.argv or not is_mistake(error, Path(sys.argv[0]).resolve().parent):
            raise
        logger.debug("%s", error, exc_info=True)
        rank = os.environ.get("RANK", "0")
        advice = ": free some space, and give the same command again." if is_full(error) else ""
        sys.stderr.write(f"error{'' if rank == '0' else f' in process {rank}'}: {error}{advice}\n")
        raise SystemExit(1) from None
    leave_processes()


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


def is_full(error: BaseException) -> bool:
    """Whether a disk, or the share of it that a user has, is full.

    Example
    -------
    >>> is_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    """
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
