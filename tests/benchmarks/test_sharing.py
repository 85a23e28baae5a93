"""Processes that share tasks: each is done once, also when one of them is stopped or another one waits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

import sharing
from sharing import OutOfTime, claim, work_through


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(sharing, "POLL", 0.01)


class Board:
    """Tasks by number, and who did them."""

    def __init__(self, folder, count):
        self.folder, self.count, self.done = folder, count, []

    def missing(self):
        return [task for task in range(self.count) if task not in [number for number, _ in self.done]]

    def work(self, name, seconds=0.02, check_time=lambda: None):
        def do(task):
            time.sleep(seconds)
            self.done.append((task, name))

        work_through(self.missing, do, lambda task: self.folder / "claims" / str(task), check_time)


def test_each_task_is_done_once_and_all_wait_for_the_last(tmp_path):
    board = Board(tmp_path, 12)
    workers = [threading.Thread(target=board.work, args=(name,)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert not worker.is_alive() and not board.missing()
    assert sorted(task for task, _ in board.done) == list(range(12))
    assert len({name for _, name in board.done}) > 1
    assert not list(tmp_path.iterdir())


def test_a_task_that_fails_is_free_again(tmp_path):
    def fail(task):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        work_through(lambda: [1], fail, lambda task: tmp_path / "claims" / "1", lambda: None)
    with claim(tmp_path / "claims" / "1") as ours:
        assert ours
        with claim(tmp_path / "claims" / "1") as again:
            assert not again


def test_the_time_ends_while_others_are_at_work(tmp_path, capsys):
    board, end = Board(tmp_path, 1), time.monotonic() + 0.2

    def check_time():
        if time.monotonic() > end:
            raise OutOfTime

    with claim(tmp_path / "claims" / "0"), pytest.raises(OutOfTime):
        board.work("late", check_time=check_time)
    assert capsys.readouterr().out.count("waiting") == 1
    board.work("next")
    assert board.done == [(0, "next")]


def test_a_killed_process_keeps_nothing(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(sharing.__file__)!r})
from pathlib import Path
from sharing import claim
with claim(Path({str(tmp_path)!r}) / "claims" / "0") as ours:
    os._exit(7 if ours else 1)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
    board = Board(tmp_path, 1)
    board.work("heir")
    assert board.done == [(0, "heir")]
