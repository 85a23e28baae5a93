"""Several processes that work through one list of tasks: each does what no other one has begun."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from speechbrain_mamba.utils.locks import FolderInUseError, FolderLock

POLL = 1.0
"""Seconds between two looks at what others are doing."""

Task = TypeVar("Task")


class OutOfTime(Exception):
    """The budget is used up; the same command goes on."""


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Claim a task, so that no other process does it; yields whether this process got it.

    Arguments
    ---------
    folder : Path
        Stands for the task. It is removed at the end, and its parent too if that is empty then.
    """
    lock, ours = FolderLock(folder), True
    try:
        lock.acquire()
    except (FolderInUseError, FileNotFoundError):  # or the process that had it removes the folder now
        ours = False
    try:
        yield ours
    finally:
        if ours:
            lock.release()
        with contextlib.suppress(OSError):  # another process uses it, and will remove it
            folder.rmdir()
            folder.parent.rmdir()


def work_through(
    missing: Callable[[], Sequence[Task]],
    do: Callable[[Task], None],
    claimed: Callable[[Task], Path],
    check_time: Callable[[], None],
) -> None:
    """Do all tasks that are missing, together with other processes; returns when none is missing any more.

    Arguments
    ---------
    missing : callable
        Returns the tasks that are not done, in order.
    do : callable
        Does one task, which is not missing afterwards.
    claimed : callable
        The folder of a task, see :func:`claim`.
    check_time : callable
        Called before each task and while others do what is left: raises :class:`OutOfTime` when the time is over.
    """
    told = False
    while tasks := missing():
        if not any(_do_unclaimed(task, missing, do, claimed, check_time) for task in tasks):
            if not told:
                print("Other processes do what is left: waiting for them.", flush=True)
                told = True
            time.sleep(POLL)


def _do_unclaimed(
    task: Task,
    missing: Callable[[], Sequence[Task]],
    do: Callable[[Task], None],
    claimed: Callable[[Task], Path],
    check_time: Callable[[], None],
) -> bool:
    check_time()
    with claim(claimed(task)) as ours:
        if ours and task in missing():  # it may have been done since
            do(task)
        return ours
