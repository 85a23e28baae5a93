"""Memory kept by the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from speechbrain_mamba.utils.memory import keep_freed_memory
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
def test_freed_memory_is_used_again():
    kept, count = faults()
    assert kept == "True"
    assert count < 1000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this malloc is not glibc's")
def test_settings_of_the_user_hold():
    kept, count = faults(MALLOC_MMAP_THRESHOLD_="131072")
    assert kept == "False"
    assert count > 1000
