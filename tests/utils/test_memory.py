"""Memory kept by the process."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import subprocess
import sys

import pytest

from speechbrain_mamba.utils.memory import (
    KERNELS,
    collect_as_usual,
    collect_rarely,
    keep_freed_memory,
    limit_kernels,
    settle_memory,
)

SCRIPT = """
import resource, torch
from speechbrain_mamba.utils.memory import KERNELS, keep_freed_memory, limit_kernels, settle_memory
kept = keep_freed_memory()
def work():
    for _ in range(20):
        a, b = torch.ones(4_000_000), torch.ones(3_000_000)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> tuple[str, int]:
    """What the script says of the setting, and how many pages the system mapped for its second round of work."""
    command = [sys.executable, "-c", SCRIPT]
    kept, count = subprocess.run(
        command, env=os.environ | environment, check=True, capture_output=True, text=True
    ).stdout.split()
    return kept, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this malloc is not glibc's")
def test_freed_memory_is_used_again_unless_the_user_set_malloc():
    (kept, count), (kept_of_user, count_of_user) = faults(), faults(MALLOC_MMAP_THRESHOLD_="131072")
    assert (kept, kept_of_user) == ("True", "False")
    assert count < count_of_user / 10  # not 0: the heap may grow a little in the second round


@pytest.fixture
def told(monkeypatch):
    """What glibc is told, by number of the parameter in its malloc.h."""
    told, answers = {}, {}

    class Glibc:
        def __init__(self, name):
            assert name is None  # the process's own

        def mallopt(self, parameter, value):
            told[parameter] = value
            return answers.get(parameter, 1)

    monkeypatch.setattr(ctypes, "CDLL", Glibc)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    return told, answers


def test_thresholds_of_glibc(told):
    """Large tensors come from the heap too, whose end is kept up to a limit and grows in large steps."""
    settings, _ = told
    assert keep_freed_memory() is True
    trim, top_pad, mmap = (settings.pop(parameter) for parameter in (-1, -2, -3))
    assert not settings
    assert mmap == 2**25  # the most that glibc takes
    assert 2**20 < top_pad < trim < 2**31  # an int
    assert (top_pad, trim) == (2**26, 2**30)


@pytest.mark.parametrize("refused", [-1, -2, -3])
def test_a_setting_that_glibc_refuses(told, refused):
    settings, answers = told
    answers[refused] = 0
    assert keep_freed_memory() is False
    assert len(settings) == 3


def test_other_libraries_are_left_alone(told, monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
    assert not told[0]


@pytest.mark.parametrize(
    ("name", "kept"), [("MALLOC_ARENA_MAX", False), ("MALLOC_TOP_PAD_", False), ("MALLOCATE", True)]
)
def test_a_variable_of_the_user_holds(told, monkeypatch, name, kept):
    monkeypatch.setenv(name, "4")
    assert keep_freed_memory() is kept
    assert bool(told[0]) is kept


NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY")


def test_programs_settle_both(told, monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "1")  # to be restored
        monkeypatch.delenv(name)
    settle_memory()
    assert told[0]
    assert os.environ[NAMES[0]] == str(KERNELS)
    assert limit_kernels() is False  # it is set now


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_of_kernels_that_the_user_wants_holds(monkeypatch, name):
    for other in NAMES:
        monkeypatch.setenv(other, "1")
        monkeypatch.delenv(other)
    monkeypatch.setenv(name, "7")
    assert limit_kernels() is False
    assert [os.environ.get(other) for other in NAMES] == ["7" if other == name else None for other in NAMES]


@pytest.fixture
def usual():
    """The thresholds of Python's collector, which are put back."""
    usual = gc.get_threshold()
    yield usual
    gc.set_threshold(*usual)


@pytest.mark.parametrize("settle", [collect_as_usual, settle_memory])
def test_garbage_is_looked_for_rarely_until_a_program_works(usual, settle, told, monkeypatch):
    monkeypatch.setenv(NAMES[0], "7")
    collect_rarely()
    assert gc.get_threshold()[0] > 10 * usual[0]
    settle()
    assert gc.get_threshold() == usual


def test_thresholds_of_the_user_stay(usual):
    gc.set_threshold(50, 5, 5)
    for change in (collect_rarely, collect_as_usual):
        change()
        assert gc.get_threshold() == (50, 5, 5)


CONVOLUTIONS = """
import sys, torch
from speechbrain_mamba.utils.memory import limit_kernels
if sys.argv[1] == "limited":
    limit_kernels()
torch.set_num_threads(1)
layer = torch.nn.Conv1d(32, 32, 8)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4
with torch.no_grad():
    for length in range(1000, 1300):
        layer(torch.zeros(1, 32, length))
    before = resident()
    for length in range(1300, 1700):
        layer(torch.zeros(1, 32, length))
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="this system does not tell the memory of a process")
def test_memory_does_not_grow_with_the_lengths_that_came():
    plain = {name: value for name, value in os.environ.items() if not name.endswith("PRIMITIVE_CACHE_CAPACITY")}
    grown = {
        which: int(
            subprocess.run(
                [sys.executable, "-c", CONVOLUTIONS, which], capture_output=True, check=True, env=plain
            ).stdout
        )
        for which in ("limited", "as it is")
    }
    assert grown["limited"] < 0.7 * grown["as it is"]  # other parts of torch keep some memory too
