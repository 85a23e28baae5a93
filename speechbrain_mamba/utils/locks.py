"""One process per folder: a lock that tells who holds it, and that a killed process does not hold forever.

The lock is a file that says which process wrote it. Whether that process is alive is looked up if it ran on this
machine: its number, and when it started. On another machine it is alive as long as it touches the file, every
``HEARTBEAT`` seconds; ages are measured by the clock of the file system, not by those of the machines.

The file is made by a hard link, which is atomic on local file systems and on NFS, or without links by exclusive
creation. The kernel's own locks are no help here: some cluster file systems have none, and processes that load data
inherit them and keep them when the one they work for is killed.

What it cannot do: a process on another machine that was stopped for longer than ``STALE_AFTER`` seconds, or cut off
from the file system, loses its lock. It finds out when it goes on, at its next heartbeat and before each checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

NAME = ".lock"
GUARD = f"{NAME}.takeover"
"""The second lock, of the process that takes the first one from a dead one."""

RECORD = "hyperparams.yaml"
"""The file in the output folder of a training run that says what made it."""

HEARTBEAT = 30.0
"""Seconds between two signs of life."""

STALE_AFTER = 600.0
"""Seconds without a sign of life after which a process on another machine counts as dead. Caches of NFS take up to a
minute, and a process may be busy for some."""


class FolderInUseError(RuntimeError):
    """Another process uses the folder."""


class FolderLock:
    """Keep other processes out of a folder.

    Arguments
    ---------
    folder : str or Path
        The folder, which is made if it is missing.

    Raises
    ------
    FolderInUseError
        By :meth:`acquire` and as a context, if another process holds the lock; the message names it.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with FolderLock(folder):
    ...     (folder / ".lock").exists()
    True
    >>> (folder / ".lock").exists()
    False
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.path = self.folder / NAME
        self.owner = {**_this_process(), "token": uuid.uuid4().hex}
        self._released = threading.Event()
        self._lost = False

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, also from a process that is dead."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._create(self.path):
            self._take_over()
        self._remove_leftovers()
        self._released.clear()
        threading.Thread(target=self._beat, name=f"heartbeat of {self.path}", daemon=True).start()

    def release(self) -> None:
        """Give the lock back, unless another process has taken it over."""
        self._released.set()
        if self._is_mine():
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Make sure that no other process has taken the lock over.

        Raises
        ------
        FolderInUseError
            When one has: it holds this process for dead, and both would write to the folder.
        """
        if self._lost or not self._is_mine():
            other = _describe(_read(self.path))
            raise FolderInUseError(
                f"'{self.folder}' was taken over by {other}, since this process gave no sign of life for "
                f"{STALE_AFTER:.0f} seconds: it stops, so that only one of both writes there."
            )

    def _is_mine(self) -> bool:
        return _read(self.path).get("token") == self.owner["token"]

    def _create(self, path: Path) -> bool:
        """Create a lock file with this process in it, unless there is one."""
        content = json.dumps(self.owner)
        draft = path.with_name(f"{path.name}.{self.owner['token']}")
        draft.write_text(content, encoding="utf-8")
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
                file.write(content)
                return True
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _take_over(self) -> None:
        """Take the lock from a dead process, if it is one. One process at a time tries: it holds a second lock."""
        guard = self.path.with_name(GUARD)
        if not self._create(guard):
            if not _is_dead(guard):
                raise FolderInUseError(_refusal(self.folder, _read(guard)))
            guard.unlink(missing_ok=True)
            if not self._create(guard):
                raise FolderInUseError(_refusal(self.folder, _read(guard)))
        try:
            other = _read(self.path)
            if self.path.exists():
                if not _is_dead(self.path):
                    raise FolderInUseError(_refusal(self.folder, other))
                self.path.unlink(missing_ok=True)
                logger.warning("Took '%s' over from %s, which does not run any more.", self.folder, _describe(other))
            if not self._create(self.path):
                raise FolderInUseError(_refusal(self.folder, _read(self.path)))
        finally:
            guard.unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        """Remove drafts and probes of processes that were killed while they tried to get the lock. One of a process
        that is alive is not missed: it finds out without it that the lock is taken."""
        guard = self.path.with_name(GUARD)
        for path in self.folder.glob(f"{NAME}.*"):
            if path != guard or _is_dead(guard):
                path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # a file system that does not answer now may do so next time
                if not self._is_mine() and not self._released.is_set():
                    self._lost = True
                    logger.error("Another process has taken over '%s'.", self.folder)
                    return
                os.utime(self.path)


@contextlib.contextmanager
def alone_in_run(path: str | os.PathLike) -> Iterator[None]:
    """Keep other commands out of the run in whose output folder something is written.

    Arguments
    ---------
    path : str or Path
        A folder, such as ``test`` or ``save`` of a run. If it is not in the output folder of a run, which has
        ``hyperparams.yaml``, nothing is locked: it may be a copy, or hold data alone.

    Raises
    ------
    FolderInUseError
        If another process works in the run.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "hyperparams.yaml").touch()
    >>> with alone_in_run(folder / "test"):
    ...     (folder / ".lock").exists()
    True
    """
    here = Path(path).resolve()
    run = next((folder for folder in (here, *here.parents) if (folder / RECORD).is_file()), None)
    with contextlib.nullcontext() if run is None else FolderLock(run):
        yield


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "machine": _text("/etc/machine-id"),
        "process started": _start_time(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "command": shlex.join(sys.argv),
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _boot() -> str:
    """What processes that see each other's numbers have in common: a boot of a machine, and a container on it."""
    try:
        container = os.readlink("/proc/self/ns/pid")
    except OSError:
        container = ""
    return f"{_text('/proc/sys/kernel/random/boot_id')} {container}".strip()


def _start_time(pid: int) -> str:
    """When a process was started, empty if it is not running or if the system does not tell."""
    state, *fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split() or [""]
    return "" if state in ("", "Z", "X") else fields[18]


def _read(path: Path) -> dict[str, Any]:
    """The content of a lock file, empty if it has none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_dead(path: Path) -> bool:
    """Whether the process that wrote a lock file has ended."""
    owner, me = _read(path), _this_process()
    if owner.get("boot") == me["boot"] and owner.get("host") == me["host"]:
        if me["process started"]:
            return _start_time(int(owner["pid"])) != owner["process started"]
        try:  # a system without /proc
            os.kill(int(owner["pid"]), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
    same_machine = me["machine"] and (owner.get("machine"), owner.get("host")) == (me["machine"], me["host"])
    if same_machine and owner["boot"].split()[0] != me["boot"].split()[0]:
        return True  # this machine was started again
    return _age(path) > STALE_AFTER


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of its file system."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _describe(owner: dict[str, Any]) -> str:
    if not owner:
        return "a process that wrote no name"
    return f"process {owner['pid']} on '{owner['host']}' since {owner['since']} ({owner['command']})"


def _refusal(folder: Path, owner: dict[str, Any]) -> str:
    return (
        f"'{folder}' is in use by {_describe(owner)}. Wait for it or end it, or choose another --output_folder. If it "
        f"does not run any more, remove '{folder / NAME}'; after {STALE_AFTER / 60:.0f} minutes without a sign of life "
        "this is not needed."
    )
