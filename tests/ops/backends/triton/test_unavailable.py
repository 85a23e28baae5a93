"""Where Triton is missing or lacks something, the backend says so and the others work."""

from __future__ import annotations

import pytest

SCRIPT = """
import sys
{}
import torch
from speechbrain_mamba import ops
print(ops.unavailable_backends()["triton"])
print(ops.causal_conv1d(torch.ones(1, 2, 1), torch.ones(1, 2)).flatten().tolist())
"""


@pytest.mark.parametrize(
    "damage, reason",
    [
        ("import triton; del triton.knobs", "the installed triton does not fit, 3.4 of PyTorch 2.8 or newer is needed"),
        ("import triton; del triton.cdiv, triton.jit", "the installed triton does not fit"),
        ("import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'triton' else f(n, *a)",
         "the package triton, which comes with PyTorch for Linux, is not installed"),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_triton_that_lacks_something_is_named_and_left_alone(forked_with_torch, tmp_path, damage, reason):
    pytest.importorskip("triton")
    (tmp_path / "script.py").write_text(SCRIPT.format(damage))
    done = forked_with_torch.start([tmp_path / "script.py"], tmp_path / "said.txt", CUDA_VISIBLE_DEVICES="")
    assert done.wait() == 0, done.said()
    said, result = done.said().splitlines()
    assert reason in said
    assert result == "[1.0, 2.0]"
