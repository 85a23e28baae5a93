"""Processes that each hold a model and work on one file after another."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

_GRACE = 10.0  # seconds in which a process that is told to end removes its temporary files

Worker = Callable[[Any], Any]


class Failure:
    """What a process answers if its work fails to begin."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class WorkerPool:
    """Processes that each make their own function, which loads a model, and apply it to items.

    A context manager: when an error or Ctrl-C ends it, the processes end too, and have time to clean up.

    Arguments
    ---------
    make_worker : callable
        Called in each process; returns the function. It must be picklable.
    jobs : int
        How many processes.
    threads : int, optional
        Threads of torch in each of them. By default they share the CPU's cores, or OMP_NUM_THREADS decides.
    """

    def __init__(self, make_worker: Callable[[], Worker], jobs: int, threads: int | None = None) -> None:
        if threads is None and "OMP_NUM_THREADS" not in os.environ:
            threads = max(1, len(os.sched_getaffinity(0)) // jobs) if hasattr(os, "sched_getaffinity") else 1
        level = logging.getLogger("speechbrain_mamba").level
        self._start = (make_worker, threads, level)
        self._jobs = jobs
        self._context = multiprocessing.get_context("spawn")  # forked threads and GPUs do not work
        self._workers: dict[Connection, Any] = {}

    def __enter__(self) -> WorkerPool:
        return self

    def _begin(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, *self._start), daemon=True)
        process.start()
        theirs.close()
        self._workers[ours] = process
        return ours

    def map(self, items: Sequence[Any], lost: Callable[[Any, int], Any]) -> Iterator[tuple[int, Any]]:
        """Yield the place of each item and what the function returned for it, as they are done.

        Arguments
        ---------
        items : sequence
            They and the answers are pickled.
        lost : callable
            Gets an item whose process died, and the exit code of that, and returns the answer in its stead.

        Raises
        ------
        Exception
            What ``make_worker`` raised.
        """
        waiting = list(range(len(items)))[::-1]
        busy: dict[Connection, int] = {}

        def give(connection: Connection) -> None:
            if waiting:
                busy[connection] = waiting.pop()
                with contextlib.suppress(BrokenPipeError, ConnectionError):  # it died: seen below
                    connection.send(items[busy[connection]])

        for _ in range(min(self._jobs, len(items))):
            give(self._begin())
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                place = busy.pop(connection)
                try:
                    answer = connection.recv()
                except (EOFError, ConnectionError):
                    process = self._workers.pop(connection)
                    process.join(_GRACE)
                    yield place, lost(items[place], process.exitcode or 0)
                    if waiting:
                        give(self._begin())
                    continue
                if isinstance(answer, Failure):
                    raise answer.error
                give(connection)
                yield place, answer

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for connection, process in self._workers.items():
            if kind is None:
                with contextlib.suppress(BrokenPipeError, ConnectionError):
                    connection.send(None)
            else:
                process.terminate()
        for connection, process in self._workers.items():
            process.join(_GRACE)
            if process.is_alive():
                process.kill()
                process.join()
            connection.close()
        self._workers.clear()


def _serve(
    connection: Connection, make_worker: Callable[[], Worker], threads: int | None, level: int
) -> None:  # pragma: no cover
    """What a process does: answer one item after another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one tells the others
    signal.signal(signal.SIGTERM, _interrupt)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("speechbrain_mamba").setLevel(level)
    with contextlib.suppress(KeyboardInterrupt, EOFError, ConnectionError):
        try:
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
            worker = make_worker()
        except Exception as error:
            connection.recv()
            connection.send(Failure(as_picklable(error)))
            return
        while (item := connection.recv()) is not None:
            connection.send(worker(item))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def as_picklable(error: Exception) -> Exception:
    """The error, or a RuntimeError with its words if it cannot be sent to another process.

    Example
    -------
    >>> as_picklable(ValueError("too long"))
    ValueError('too long')
    """
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error if str(copy) == str(error) else RuntimeError(str(error))
