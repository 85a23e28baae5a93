"""One process per folder."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from speechbrain_mamba.utils import locks
from speechbrain_mamba.utils.locks import FolderInUseError, FolderLock

HOLD = """
import sys, time
from speechbrain_mamba.utils.locks import FolderLock
lock = FolderLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_process_is_named_and_a_killed_one_is_not_waited_for(tmp_path, holder, caplog):
    named = rf"'{re.escape(str(tmp_path))}' is in use by process {holder.pid} on '.+' since \d.* \(-c .*--output_folder"
    for _ in range(2):
        with pytest.raises(FolderInUseError, match=named):
            FolderLock(tmp_path).acquire()
    holder.send_signal(signal.SIGSTOP)  # it is not dead
    with pytest.raises(FolderInUseError):
        FolderLock(tmp_path).acquire()
    holder.kill()
    holder.wait()
    with FolderLock(tmp_path):
        assert f"from process {holder.pid} on" in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ended_but_was_not_waited_for_is_dead(tmp_path, holder):
    holder.kill()
    while locks._start_time(holder.pid):
        time.sleep(0.01)
    FolderLock(tmp_path).acquire()


def test_the_same_process_holds_a_folder_once(tmp_path):
    with FolderLock(tmp_path / "new"), pytest.raises(FolderInUseError):
        FolderLock(tmp_path / "new").acquire()
    with FolderLock(tmp_path / "new"), FolderLock(tmp_path / "other"):
        pass


def test_what_processes_left_that_were_killed_while_they_took_it_is_removed(tmp_path):
    dead = json.dumps({**locks._this_process(), "process started": "1"})
    for name in (f".lock.{'0a' * 16}", ".lock.takeover", f".lock.takeover.{'1b' * 16}", ".lockers"):
        (tmp_path / name).write_text(dead)
    with FolderLock(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", ".lockers"}


def test_the_second_lock_of_a_living_process_stays(tmp_path):
    FolderLock(tmp_path)._create(tmp_path / locks.GUARD)
    with FolderLock(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", locks.GUARD}


def write(folder, **changes):
    """Write the lock of another process."""
    owner = {**locks._this_process(), "token": "other", **changes}
    (folder / ".lock").write_text(json.dumps(owner))


def test_a_number_that_is_used_again_is_another_process(tmp_path):
    write(tmp_path)
    with pytest.raises(FolderInUseError):
        FolderLock(tmp_path).acquire()
    write(tmp_path, **{"process started": "1"})
    FolderLock(tmp_path).acquire()


def age(path, seconds):
    now = time.time()
    os.utime(path, (now - seconds, now - seconds))


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "far", "boot": "other pid:[1]", "machine": "other"},
        {"boot": "other pid:[1]", "machine": "other"},  # another machine of the same name
        {"boot": locks._boot().split()[0] + " pid:[1]"},  # another container
    ],
    ids=["host", "name", "container"],
)
def test_on_another_machine_signs_of_life_count(tmp_path, changes):
    write(tmp_path, pid=1, **changes)
    for seconds in (0, locks.STALE_AFTER - 60):
        age(tmp_path / ".lock", seconds)
        with pytest.raises(FolderInUseError):
            FolderLock(tmp_path).acquire()
    age(tmp_path / ".lock", locks.STALE_AFTER + 60)
    FolderLock(tmp_path).acquire()


def test_a_machine_that_was_started_again_runs_nothing_of_before(tmp_path):
    write(tmp_path, boot="other pid:[1]")
    FolderLock(tmp_path).acquire()


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_lock_without_a_name_ages(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with pytest.raises(FolderInUseError, match="a process that wrote no name"):
        FolderLock(tmp_path).acquire()
    age(tmp_path / ".lock", locks.STALE_AFTER + 60)
    FolderLock(tmp_path).acquire()


def test_without_proc_and_links_it_locks_too(tmp_path, monkeypatch):
    def link(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(locks, "_text", lambda path: "")
    lock = FolderLock(tmp_path)
    lock.acquire()
    with pytest.raises(FolderInUseError):
        FolderLock(tmp_path).acquire()
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    write(tmp_path, pid=process.pid)
    FolderLock(tmp_path).acquire()
    monkeypatch.setattr(os, "kill", lambda *_: (_ for _ in ()).throw(PermissionError))  # of another user
    with pytest.raises(FolderInUseError):
        FolderLock(tmp_path).acquire()


def test_signs_of_life_go_on_until_it_is_released(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    lock = FolderLock(tmp_path)
    lock.acquire()
    age(lock.path, 1000)
    while locks._age(lock.path) > 500:
        time.sleep(0.005)
    lock.check()
    write(tmp_path)
    while not lock._lost:
        time.sleep(0.005)
    with pytest.raises(FolderInUseError, match="was taken over by process"):
        lock.check()
    lock.release()
    assert lock.path.exists()  # of the other process


def take(folder, start, results):
    """Try to take a folder at the same time as others."""
    start.wait()
    lock = FolderLock(folder)
    try:
        lock.acquire()
    except FolderInUseError:
        return
    results.put(os.getpid())
    time.sleep(0.5)


def test_of_many_processes_one_takes_a_folder_over(tmp_path):
    context = multiprocessing.get_context("fork")
    write(tmp_path, **{"process started": "1"})
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=take, args=(tmp_path, start, results)) for _ in range(8)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    results.get(timeout=60)
    assert results.empty()
