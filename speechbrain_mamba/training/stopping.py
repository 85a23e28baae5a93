"""A run that is told to end: by a job scheduler with SIGTERM, or by Ctrl-C with SIGINT."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_SIGNAL = 2.0
"""Seconds within which signals to one of several processes are one: the scheduler sends it, and torchrun again."""


class Stop:
    """A request to end the run.

    In training a request waits: the Brain asks :meth:`is_requested` after each batch, saves a checkpoint and calls
    :meth:`end`. Otherwise the process ends at once, by SystemExit, so that what it was writing is cleaned up. A second
    signal ends it in any case, as if none were caught.

    Example
    -------
    >>> stop = Stop()
    >>> stop.is_requested()
    False
    """

    def __init__(self) -> None:
        self.number = 0
        self._since, self._waits, self._process = 0.0, False, os.getpid()

    def is_requested(self) -> bool:
        """Whether this process was told to end."""
        return self.number != 0

    def wait(self, waits: bool) -> None:
        """Let requests wait for :meth:`is_requested`, or not any more: then one that waits ends the process now."""
        self._waits = waits
        if not waits and self.is_requested():
            self.end()

    def end(self, number: int = 0) -> None:
        """End the process with the exit code of its signal, or of another one that only another process received.

        Raises
        ------
        SystemExit
            With 128 and the signal's number: 143 for SIGTERM, 130 for SIGINT.
        """
        self._waits = False
        raise SystemExit(128 + (self.number or number or signal.SIGTERM))

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """A context in which signals make requests. Signals that are ignored, as those of ``nohup``, stay so."""
        before: dict[signal.Signals, Any] = {}
        try:
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, self._handle)
        except ValueError:  # not in the main thread, where signals arrive
            before = {}
        try:
            yield self
        finally:
            for caught, handler in before.items():
                signal.signal(caught, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a process that loads data: it ends with the one that trains
        now = time.monotonic()
        if not self.is_requested():
            self.number, self._since = number, now
            name, rank = signal.Signals(number).name, os.environ.get("RANK", "0")
            if not self._waits:
                self._say(f"{name}: this run ends.", rank)
                self.end()
            self._say(f"{name}: a checkpoint is saved, then this run ends. A second signal ends it at once.", rank)
        elif "RANK" not in os.environ or now - self._since > SAME_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @staticmethod
    def _say(text: str, rank: str) -> None:
        """Write to the terminal as a signal handler may: what it interrupted may be writing there itself."""
        if rank == "0":
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())


def ignore_signals(*_: Any) -> None:
    """For processes that load data: schedulers signal them too, and the one that trains needs their data until it ends.

    A ``worker_init_fn`` of data loaders.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
