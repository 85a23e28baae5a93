"""One training of a study, from its start or its last checkpoint to its test."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tune
from quality.clock import CPU, WALL, EpochClock, process_seconds
from speechbrain_mamba.training.record import FINISHED
from speechbrain_mamba.utils.files import write_json

POLL = 0.25
"""Seconds between two looks at a training."""

PATIENCE = 120
"""Seconds that a training has to save a checkpoint when the time is over."""


@dataclass
class Outcome:
    """How a training went."""

    status: str
    """``done``; ``stopped``, so that the same command resumes it; or ``failed``."""

    reason: str = ""
    clock: str = ""
    """What its seconds are: CPU time of the process that trains, or wall time."""

    seconds: list[float] = field(default_factory=list)
    """Of the epochs that were seen from start to end."""

    spent: float = 0.0
    """Of all processes so far, with their start and, if nobody stopped them, the test."""

    seconds_per_epoch: float | None = None
    score_name: str = ""
    score: float | None = None
    """Of the best epoch on validation data."""


def read_outcome(folder: Path) -> Outcome | None:
    """How the training in a folder went, None if it has not been run."""
    path = folder / "outcome.json"
    return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def run_training(
    command: Sequence[str],
    folder: Path,
    epochs: int,
    limit: float,
    on_gpu: bool = False,
    told: Callable[[int, float | None], None] = lambda epoch, seconds: None,
) -> Outcome:
    """Run or resume a training and its test.

    Arguments
    ---------
    command : sequence of str
        The command of the recipe.
    folder : Path
        Its output folder, where the outcome is kept.
    epochs : int
        The epochs of the training.
    limit : float
        Seconds after which it is stopped, with a checkpoint.
    on_gpu : bool
        Whether wall time counts: on a GPU the CPU time says little.
    told : callable
        Called after each epoch with its number and the seconds of an epoch.

    Returns
    -------
    Outcome
        How it went.
    """
    before = read_outcome(folder)
    if before is not None and before.status in ("done", "failed"):
        return before
    folder.mkdir(parents=True, exist_ok=True)
    start, stopped = time.monotonic(), False
    earlier = tune.read_best(folder)
    seen, now = earlier[3] if earlier is not None else 0, 0.0
    with open(folder / "command.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=tune.ROOT)
        try:
            name = CPU if not on_gpu and process_seconds(process.pid) is not None else WALL
            same = before is not None and before.clock == name
            clock, spent = EpochClock(before.seconds if same else [], done=seen), before.spent if same else 0.0
            while process.poll() is None:
                time.sleep(POLL)
                best = tune.read_best(folder)
                now = (process_seconds(process.pid) or now) if name == CPU else time.monotonic() - start
                if best is not None and best[3] != seen:
                    seen = best[3]
                    clock.see(seen, now)
                    told(seen, clock.per_epoch())
                if time.monotonic() - start > limit:
                    stopped = True
                    break
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    best = tune.read_best(folder)
    finished = (folder / FINISHED).is_file() and best is not None and best[3] >= epochs
    outcome = Outcome("done" if finished else "stopped" if stopped else "failed", clock=name, seconds=clock.seconds)
    outcome.spent = spent + now
    outcome.seconds_per_epoch = clock.per_epoch()
    if outcome.seconds_per_epoch is None and best is not None and best[3]:  # no epoch ended while it was watched
        outcome.seconds_per_epoch = outcome.spent / best[3]
    if outcome.status == "failed":
        outcome.reason = tune.last_sentence(folder / "command.txt", process.returncode)
    elif best is not None:
        outcome.score_name, outcome.score = best[0], best[1]
    write_json(folder / "outcome.json", asdict(outcome))
    return outcome
