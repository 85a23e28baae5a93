"""The last step: the tests that need a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from contact.context import Context, Skip, step

ROOT = Path(__file__).parents[2]


@step("GPU tests", seconds=420)
def gpu_tests(context: Context) -> dict[str, Any]:
    """The tests that need a GPU, up to 16 at a time, since their kernels compile for seconds each."""
    context.need_gpu()
    if not (ROOT / "tests").is_dir():
        raise Skip("the tests are in a checkout only")
    workers = str(min(16, len(os.sched_getaffinity(0))))
    command = [sys.executable, "-m", "pytest", "tests", "-m", "gpu", "-n", workers, "--tb=short", "-rf", "-v"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        raise ValueError("\n".join(lines[-30:]))
    return {"summary": lines[-1]}
