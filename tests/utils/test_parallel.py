"""Work that waits for the disk."""

import threading
import time

import pytest

from speechbrain_mamba.utils.parallel import parallel_iter, parallel_map


def test_results_come_in_the_order_of_the_items():
    delays = [0.02, 0.0, 0.01]
    assert parallel_map(lambda delay: time.sleep(delay) or delay, delays, "Waiting", "nap") == delays
    assert parallel_map(len, [], "Waiting", "nap") == []
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda value: 1 / value, [1, 0, 2], "Dividing", "number")


def test_items_wait_for_the_disk_together_and_are_counted(monkeypatch, capsys):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    both = threading.Barrier(2, timeout=60)
    parallel_map(lambda _: both.wait(), [1, 2], "Waiting", "nap")
    shown = capsys.readouterr().err
    assert "Waiting: 100%" in shown and "2/2" in shown and "nap" in shown


def test_after_an_error_nothing_more_is_begun():
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.005)
        if item == 0:
            raise KeyError(item)

    with pytest.raises(KeyError):
        parallel_map(work, list(range(500)), "Working", "item")
    assert len(begun) < 100


def test_items_are_taken_only_as_results_are():
    taken = []
    results = parallel_iter(abs, (taken.append(item) or item for item in range(10000)), 10000, "Taking", "item")
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) < 1000
    results.close()
    assert len(taken) < 1000
