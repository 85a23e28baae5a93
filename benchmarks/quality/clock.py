"""How much computing a training took, whatever else ran on the machine."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

CPU, WALL = "CPU time", "wall time"


def process_seconds(pid: int) -> float | None:
    """CPU seconds that a running process has used so far, in its own threads; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class EpochClock:
    """Seconds of each epoch of a training that is watched from outside.

    What a process needs up to the first epoch that is seen is left out if there are others: imports and the start
    are in it.

    Arguments
    ---------
    seconds : sequence of float
        Of the epochs that were seen in earlier processes of the training.
    done : int
        The epochs that the training had ended before the process started.
    """

    def __init__(self, seconds: Sequence[float] = (), done: int = 0) -> None:
        self.seconds = list(seconds)
        self._done = done
        self._first: float | None = None
        self._last = 0.0
        self._epoch: int | None = None

    def see(self, epoch: int, now: float) -> None:
        """Note that a process has ended an epoch when its clock said ``now``."""
        if self._epoch is not None and epoch > self._epoch:
            self.seconds += [(now - self._last) / (epoch - self._epoch)] * (epoch - self._epoch)
        elif self._epoch is None:
            self._first = now / max(1, epoch - self._done)
        self._epoch, self._last = epoch, now

    def per_epoch(self) -> float | None:
        """The median, or None before an epoch has ended."""
        return statistics.median(self.seconds) if self.seconds else self._first
