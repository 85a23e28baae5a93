"""How a command goes over many files."""

import errno
import logging
import os
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
import soundfile

from speechbrain_mamba.cli import files
from speechbrain_mamba.cli.files import Done, Source, Task, run_tasks
from speechbrain_mamba.cli.workers import WorkerPool, as_picklable
from speechbrain_mamba.dataio.audio import UnreadableAudioError
from speechbrain_mamba.dataio.recordings import read_recording
from tests.cli.stand_ins import Upper, fail


def tasks_of(*names, outputs=()):
    return [Task(Source(name, name, name), outputs) for name in names]


def read(task):
    """Work that a bad file makes fail."""
    return Done(read_recording(task.source.path).seconds)


@pytest.fixture
def recordings(tmp_path):
    """Six recordings, the shorter the later, and two that are none; tasks for all of them."""
    for number, samples in enumerate([4000, 3000, 2000, 1000, 500, 250]):
        soundfile.write(tmp_path / f"{number}.wav", np.full(samples, 0.5), 1000)
    (tmp_path / "text.wav").write_text("this is not audio")
    return tasks_of(*(str(tmp_path / f"{name}.wav") for name in (0, "text", 1, 2, "gone", 3, 4, 5)))


def test_one_bad_file_is_named_and_the_others_are_done(recordings, capsys):
    reported = []
    summary = run_tasks(recordings, read, report=reported.append)
    assert [outcome.value for outcome in reported] == [4.0, None, 3.0, 2.0, None, 1.0, 0.5, 0.25]
    assert [outcome.task for outcome in reported] == recordings and summary.outcomes == reported
    assert [type(outcome.error) for outcome in summary.failed] == [UnreadableAudioError, FileNotFoundError]
    assert summary.exit_code == 3
    told = capsys.readouterr().err
    assert told == f"2 of 8 files failed: '{recordings[1].source.name}', '{recordings[4].source.name}'\n"


def test_lines_on_stderr(recordings, capsys, caplog):
    exists = FileExistsError("'1.txt' exists: replace it with --force.")
    tasks = [Task(recordings[0].source, ["x/0.txt", "x/0.srt"]), recordings[1]]
    tasks.append(Task(recordings[2].source, ["1.txt"], exists))
    run_tasks(tasks, lambda task: Done(read(task).value, ["something was odd"]))
    lines = [line for line in capsys.readouterr().err.splitlines() if line != "something was odd"]
    assert lines[0] == f"{tasks[0].source.name}: x/0.txt, x/0.srt"
    assert lines[1].startswith(f"error: The audio file '{tasks[1].source.name}' cannot be read")
    assert lines[2] == f"error: '{tasks[2].source.name}': '1.txt' exists: replace it with --force."
    assert lines[3].startswith("2 of 3 files failed: ") and len(lines) == 4
    assert caplog.messages == ["something was odd"]
    run_tasks(tasks[:2], read, progress=False)
    assert [line[:6] for line in capsys.readouterr().err.splitlines()] == ["error:", "1 of 2"]


def test_exit_codes(recordings, capsys):
    assert run_tasks(recordings[:1], read).exit_code == 0
    assert run_tasks(recordings[1:2], read).exit_code == 1
    assert run_tasks([], read).exit_code == 0
    assert run_tasks([recordings[1], recordings[4]], read).exit_code == 3
    assert "is not audio" not in capsys.readouterr().err


def test_a_fault_of_the_code_is_told_and_shown_if_the_file_is_alone(recordings, caplog):
    def fault(task):
        return 1 / 0

    with caplog.at_level(logging.DEBUG, "speechbrain_mamba"):
        summary = run_tasks(recordings[:2], fault, report=lambda outcome: None)
    assert [outcome.message for outcome in summary.outcomes] == [
        f"'{task.source.name}' failed by a fault of the program (ZeroDivisionError: division by zero): give it alone "
        "to see where." for task in recordings[:2]
    ]  # fmt: skip
    assert "return 1 / 0" in caplog.text
    with pytest.raises(ZeroDivisionError):
        run_tasks(recordings[:1], fault)


def test_a_full_disk_ends_the_work(recordings, capsys):
    worked = []

    def work(task):
        worked.append(task)
        if len(worked) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return Done()

    summary = run_tasks(recordings, work, report=lambda outcome: None)
    assert len(worked) == 2 and len(summary.failed) == 7
    assert all("No space left" in outcome.message for outcome in summary.failed)


class Many:
    """Work that takes several files at a time."""

    def __init__(self):
        self.batches = []

    def __call__(self, task):
        return read(task)

    def many(self, tasks):
        self.batches.append([read(task).value for task in tasks])
        return [Done(value) for value in self.batches[-1]]


def test_batches_are_sorted_by_length_and_results_are_in_order(recordings, monkeypatch):
    work = Many()
    values = [4.0, None, 3.0, 2.0, None, 1.0, 0.5, 0.25]
    summary = run_tasks(recordings, work, batch_size=2, report=lambda outcome: None)
    assert [outcome.value for outcome in summary.outcomes] == values
    assert work.batches == [[0.25, 0.5], [1.0, 2.0], [3.0, 4.0]]
    monkeypatch.setattr(files, "_WINDOW", 2)
    work = Many()
    reported = []
    summary = run_tasks(recordings, work, batch_size=2, report=lambda outcome: reported.append(len(work.batches)))
    assert work.batches == [[2.0, 3.0], [0.25, 0.5]]  # and 4 and 1, whose windows have a file that is none
    assert [outcome.value for outcome in summary.outcomes] == values and reported[0] < reported[-1]


def test_the_files_of_a_batch_that_fails_are_worked_on_alone(recordings, tmp_path):
    signal = np.full(4000, np.nan, np.float32)
    soundfile.write(tmp_path / "nan.wav", signal, 1000, subtype="FLOAT")
    tasks = [recordings[0], *tasks_of(str(tmp_path / "nan.wav")), recordings[2]]
    summary = run_tasks(tasks, Many(), batch_size=3, report=lambda outcome: None)
    assert [outcome.value for outcome in summary.outcomes] == [4.0, None, 3.0]
    assert "nan.wav' holds NaN" in summary.failed[0].message


def test_control_c_ends_the_work(recordings, capsys):
    def work(task):
        if task is recordings[2]:
            raise KeyboardInterrupt
        return Done()

    summary = run_tasks(recordings, work, report=lambda outcome: None)
    assert (summary.exit_code, len(summary.outcomes)) == (130, 2)
    assert capsys.readouterr().err == "interrupted: 2 of 8 files were worked on.\n"


def test_processes(caplog):
    names = ["a", "b", "a fault", "lost", "c", "d", "e"]
    tasks = tasks_of(*names)
    tasks[1] = Task(tasks[1].source, (), FileExistsError("'b.txt' exists."))
    summary = run_tasks(tasks, make_work=Upper, jobs=2, report=lambda outcome: None)
    values = [outcome.value and outcome.value.split()[0] for outcome in summary.outcomes]
    assert values == ["A", None, None, None, "C", "D", "E"]
    pids = {outcome.value.split()[1] for outcome in summary.outcomes if outcome.value}
    assert 1 <= len(pids) <= 3 and str(os.getpid()) not in pids
    assert [outcome.message for outcome in summary.failed] == [
        "'b': 'b.txt' exists.",
        "'a fault' failed by a fault of the program (ZeroDivisionError: no sense): give it alone to see where.",
        "'lost' failed: the process that worked on it died (exit code 9): if memory is short, give fewer --jobs.",
    ]
    assert caplog.messages == [f"notice of {name}" for name in ("a", "c", "d", "e")]


def test_processes_that_cannot_begin_are_an_error():
    with pytest.raises(FileNotFoundError, match="there is no model"):
        run_tasks(tasks_of("a", "b"), make_work=fail, jobs=2, report=lambda outcome: None)
    with pytest.raises(TypeError, match="several jobs need make_work"):
        run_tasks(tasks_of("a", "b"), Upper(), jobs=2)
    with pytest.raises(TypeError, match="give work or make_work"):
        run_tasks(tasks_of("a", "b"))


def test_control_c_ends_the_processes_and_they_clean_up(tmp_path):
    output = str(tmp_path / "out")

    def interrupt():
        for _ in range(1200):
            if any(tmp_path.iterdir()):
                break
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    # what ran the tests, such as nohup, may have it ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    start = time.monotonic()
    try:
        summary = run_tasks(tasks_of("wait", "wait 2", outputs=[output]), make_work=Upper, jobs=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert summary.exit_code == 130 and summary.outcomes == [] and time.monotonic() - start < 55
    assert list(tmp_path.iterdir()) == []


def test_the_processes_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert WorkerPool(fail, 3)._start[1] == 2
    assert WorkerPool(fail, 16)._start[1] == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert WorkerPool(fail, 3)._start[1] is None


class Strange(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def test_errors_reach_other_processes_with_their_words():
    assert str(as_picklable(Strange("this", "that"))) == "Strange: this and that"
    assert type(as_picklable(UnreadableAudioError("words", "reason"))) is UnreadableAudioError
    assert str(as_picklable(ValueError(partial))).startswith("<class")
