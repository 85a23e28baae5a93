"""Runs the kernels' tests without a GPU, in Triton's interpreter, to be chosen before kernels are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[4]


@pytest.mark.slow
def test_kernels_in_the_interpreter():
    files = [
        f"tests/ops/backends/triton/test_{name}.py"
        for name in ("kernels", "random", "ssd_kernels", "lengths", "on_gpu")
    ]
    command = [sys.executable, "-m", "pytest", "--tb=short", "-x", *files]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
