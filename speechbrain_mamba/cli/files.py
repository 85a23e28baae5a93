"""How a command goes over many files: one after another, in batches or by several processes; a bad one is named, and
the others are done."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from speechbrain_mamba.cli.sources import RECORDING_SUFFIXES, Source, Task, find_sources, plan_outputs
from speechbrain_mamba.cli.workers import WorkerPool, as_picklable
from speechbrain_mamba.utils.mistakes import is_full, is_mistake, words_of
from speechbrain_mamba.utils.terminal import printable

__all__ = [
    "RECORDING_SUFFIXES", "Done", "Outcome", "Source", "Summary", "Task", "find_sources", "plan_outputs", "run_tasks"
]  # fmt: skip

logger = logging.getLogger(__name__)

_WINDOW = 16  # batches whose files are sorted together: results come in order, and do not wait for the whole folder
_NAMED = 10
INTERRUPTED = 130


@dataclass(frozen=True)
class Done:
    """What was made of a file: a value, such as a text to print, and notices for the user."""

    value: Any = None
    notices: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a file: the value and notices of its :class:`Done`, or an error; and the seconds that it took."""

    task: Task
    value: Any = None
    notices: Sequence[str] = ()
    error: Exception | None = None
    seconds: float = 0.0

    @property
    def message(self) -> str:
        """The error in a sentence that names the file; empty if there is none."""
        if self.error is None:
            return ""
        name, said = self.task.source.name, words_of(self.error)
        return said if f"'{name}'" in said else f"'{name}': {said}"


@dataclass
class Summary:
    """What became of all files, in the order of the tasks. Those that Ctrl-C left have no outcome."""

    total: int
    outcomes: list[Outcome] = field(default_factory=list)
    interrupted: bool = False

    @property
    def failed(self) -> list[Outcome]:
        """The files with an error."""
        return [outcome for outcome in self.outcomes if outcome.error is not None]

    @property
    def exit_code(self) -> int:
        """0 if all is well, 1 if the only file failed, 3 if some of many did, 130 after Ctrl-C."""
        if self.interrupted:
            return INTERRUPTED
        return 0 if not self.failed else 1 if self.total == 1 else 3

    def __str__(self) -> str:
        if self.interrupted:
            return f"interrupted: {len(self.outcomes)} of {self.total} files were worked on."
        names = [f"'{outcome.task.source.name}'" for outcome in self.failed[:_NAMED]]
        more = ["..."] if len(self.failed) > _NAMED else []
        return f"{len(self.failed)} of {self.total} files failed: {', '.join(names + more)}"


def run_tasks(
    tasks: Sequence[Task],
    work: Callable[[Task], Done] | None = None,
    *,
    make_work: Callable[[], Callable[[Task], Done]] | None = None,
    jobs: int = 1,
    batch_size: int = 1,
    report: Callable[[Outcome], None] | None = None,
    progress: bool = True,
    description: str = "Working",
) -> Summary:
    """Work on files. One that fails is told, and the next one is worked on.

    Arguments
    ---------
    tasks : sequence of Task
        The files; those with an error are told in their turn.
    work : callable
        Works on one file and returns a :class:`Done`. If it has a method ``many``, this gets several tasks and returns
        as many of them, the same as of each alone.
    make_work : callable, optional
        Makes ``work``; needed, and picklable, if there are several processes, each of which loads its own model.
    jobs : int
        How many processes work.
    batch_size : int
        How many files of similar length are given to ``work.many``. If it fails, they are worked on one by one.
    report : callable, optional
        Called with each outcome, in the order of the tasks, as soon as it can be. By default a line on stderr says
        which files were made.
    progress : bool
        Whether to show a bar, if stderr is a terminal, and lines of what was made.
    description : str
        What the bar says.

    Returns
    -------
    Summary
        The outcomes, and the exit code of the command.

    Raises
    ------
    Exception
        A fault of the code, not of the file, when there is only one file: with many it is an error of its file.

    Example
    -------
    >>> tasks = [Task(Source(name, name, name)) for name in ("a.wav", "b.wav")]
    >>> summary = run_tasks(tasks, lambda task: Done(task.source.name.upper()), report=lambda outcome: None)
    >>> [outcome.value for outcome in summary.outcomes], summary.exit_code
    (['A.WAV', 'B.WAV'], 0)
    """
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    if work is None and make_work is None:
        raise TypeError("run_tasks: give work or make_work.")
    summary = Summary(len(tasks))
    tell = partial(_tell, shown=progress) if report is None else report
    hidden = True if not progress or len(tasks) < 2 else None  # None: shown on a terminal
    units = _units(tasks, batch_size)
    with tqdm(total=len(tasks), desc=description, unit="file", disable=hidden) as bar, logging_redirect_tqdm():
        ready: dict[int, Outcome] = {}
        try:
            with contextlib.closing(_results(tasks, units, work, make_work, jobs)) as results:
                for outcomes in results:
                    ready.update(outcomes)
                    bar.update(len(outcomes))
                    while len(summary.outcomes) in ready:
                        outcome = ready.pop(len(summary.outcomes))
                        summary.outcomes.append(outcome)
                        for notice in outcome.notices:
                            logger.warning("%s", notice)
                        with tqdm.external_write_mode(file=sys.stderr):
                            tell(outcome)
        except KeyboardInterrupt:
            summary.interrupted = True
    if summary.interrupted or (summary.failed and summary.total > 1):
        print(summary, file=sys.stderr)
    return summary


def _tell(outcome: Outcome, shown: bool) -> None:
    """Say in a line what became of a file."""
    if outcome.error is not None:
        print(f"error: {outcome.message}", file=sys.stderr)
    elif shown and outcome.task.outputs:
        made = ", ".join(map(printable, outcome.task.outputs))
        print(f"{outcome.task.source.name}: {made}", file=sys.stderr)


def _units(tasks: Sequence[Task], batch_size: int) -> list[list[int]]:
    """Places of the tasks that are worked on together: files of similar length, never far from one another."""
    if batch_size == 1 or len(tasks) < 2:
        return [[place] for place in range(len(tasks))]
    units = []
    for start in range(0, len(tasks), _WINDOW * batch_size):
        window = range(start, min(start + _WINDOW * batch_size, len(tasks)))
        lengths = {place: _seconds(tasks[place]) for place in window}
        known = sorted((length, place) for place, length in lengths.items() if length is not None)
        ordered = [place for _, place in known]
        units += [ordered[first : first + batch_size] for first in range(0, len(ordered), batch_size)]
        units += [[place] for place, length in lengths.items() if length is None]
    return units


def _seconds(task: Task) -> float | None:
    """The duration of a recording by its header; None if that does not say, or it cannot be read."""
    from speechbrain_mamba.dataio.recordings import header_seconds

    return None if task.error is not None or task.source.path == "-" else header_seconds(task.source.path)


def _results(
    tasks: Sequence[Task],
    units: Sequence[Sequence[int]],
    work: Callable[[Task], Done] | None,
    make_work: Callable[[], Callable[[Task], Done]] | None,
    jobs: int,
) -> Generator[dict[int, Outcome], None, None]:
    """Places and outcomes of the tasks, unit by unit."""
    faulty = {place: Outcome(task, error=task.error) for place, task in enumerate(tasks) if task.error is not None}
    if faulty:
        yield faulty
    units = [[place for place in unit if place not in faulty] for unit in units]
    units = [unit for unit in units if unit]
    if jobs > 1 and len(units) > 1:
        if make_work is None:
            raise TypeError("run_tasks: several jobs need make_work.")
        with WorkerPool(partial(_make_worker, make_work), min(jobs, len(units))) as pool:
            for place, outcomes in pool.map([[tasks[place] for place in unit] for unit in units], _lost):
                yield dict(zip(units[place], outcomes))
        return
    if work is None:
        assert make_work is not None
        work = make_work() if units else None
    full: Exception | None = None
    for unit in units:
        given = [tasks[place] for place in unit]
        if full is not None:
            outcomes = [Outcome(task, error=full) for task in given]
        else:
            assert work is not None
            outcomes = _work_on(given, work, alone=len(tasks) == 1)
            full = next((outcome.error for outcome in outcomes if outcome.error and is_full(outcome.error)), None)
        yield dict(zip(unit, outcomes))


def _make_worker(make_work: Callable[[], Callable[[Task], Done]]) -> Callable[[Sequence[Task]], list[Outcome]]:
    return partial(_work_on, work=make_work())


def _work_on(tasks: Sequence[Task], work: Callable[[Task], Done], alone: bool = False) -> list[Outcome]:
    """The outcomes of tasks that are worked on together."""
    many = getattr(work, "many", None)
    if len(tasks) > 1 and many is not None:
        start = time.perf_counter()
        try:
            done = many(list(tasks))
            seconds = (time.perf_counter() - start) / len(tasks)
            return [Outcome(task, made.value, made.notices, None, seconds) for task, made in zip(tasks, done)]
        except Exception as error:  # of one of them, which is found out now
            logger.debug("A batch failed, its files are worked on one by one: %s", error)
    return [_attempt(task, work, alone) for task in tasks]


def _attempt(task: Task, work: Callable[[Task], Done], alone: bool) -> Outcome:
    """The outcome of a task."""
    start = time.perf_counter()
    try:
        made = work(task)
        return Outcome(task, made.value, made.notices, None, time.perf_counter() - start)
    except Exception as error:
        if not is_mistake(error):
            if alone:
                raise
            logger.debug("'%s' failed:", task.source.name, exc_info=True)
            said = str(error).strip().splitlines() or ["no message"]
            told: Exception = RuntimeError(
                f"'{task.source.name}' failed by a fault of the program ({type(error).__name__}: {said[0]}): give it "
                "alone to see where."
            )
        else:
            told = as_picklable(error)
        return Outcome(task, error=told, seconds=time.perf_counter() - start)


def _lost(tasks: Sequence[Task], code: int) -> list[Outcome]:
    """The outcomes of tasks whose process died."""
    why = f"signal {-code}" if code < 0 else f"exit code {code}"
    told = f"the process that worked on it died ({why}): if memory is short, give fewer --jobs."
    return [Outcome(task, error=RuntimeError(f"'{task.source.name}' failed: {told}")) for task in tasks]
