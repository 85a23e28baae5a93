"""Commands that are told to end clean up as after Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What a scheduler sends, and a terminal that is closed."""


@contextmanager
def interrupted_by_signals() -> Iterator[list[int]]:
    """A context in which signals that would end the process at once raise KeyboardInterrupt, as Ctrl-C does, so that
    nothing half-written stays behind. A second one is ignored while the first is cleaned up after.

    Signals that are ignored, as those of ``nohup``, or handled by others stay so.

    Yields
    ------
    list of int
        Gets the number of the signal that came.

    Example
    -------
    >>> with interrupted_by_signals() as received:
    ...     received
    []
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not received:
            received.append(number)
            raise KeyboardInterrupt

    taken = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, interrupt)
    except ValueError:  # not in the main thread, where signals arrive
        taken = []
    try:
        yield received
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
