"""Let one process at a time make what several want to use."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from speechbrain_mamba.utils.locks import FolderInUseError, FolderLock

logger = logging.getLogger(__name__)

_SECONDS = 1.0  # between two tries


@contextlib.contextmanager
def one_at_a_time(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a lock on a shared folder while it is made; other processes that want to make it wait.

    The lock is a hidden folder beside it, so that the folder itself may be missing or be replaced. It is taken from
    processes that were killed; what these left of the folder, under its temporary names, is removed.

    Arguments
    ---------
    folder : str or Path
        The folder, which need not exist.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "corpus"
    >>> with one_at_a_time(folder):
    ...     folder.mkdir()
    >>> [path.name for path in folder.parent.iterdir()]
    ['corpus']
    """
    place = Path(folder).absolute()
    lock, told = FolderLock(place.with_name(f".{place.name}.making")), False
    while True:
        try:
            lock.acquire()
            break
        except FolderInUseError as error:
            if not told:
                logger.warning("Waiting until another process has made '%s': %s", place, error)
                told = True
        except FileNotFoundError:  # the one before has just removed the folder of the lock
            pass
        time.sleep(_SECONDS)
    try:
        for leftover in place.parent.iterdir():
            if leftover.name.startswith(f".{place.stem}.tmp-"):
                shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):  # if another one holds it already
            lock.folder.rmdir()
