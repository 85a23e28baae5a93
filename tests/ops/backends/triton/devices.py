"""Where the Triton kernels' tests run: on CUDA, or in Triton's interpreter, which takes milliseconds per frame.

There the sequences, and the chunks that they are cut into, are short.
"""

from __future__ import annotations

import torch

from speechbrain_mamba.ops.backends.triton import INTERPRETED, conv_launch, plan, ssd_plan
from tests.ops.backends.triton.interpreter import repair

DEVICE = "cpu" if INTERPRETED else "cuda"
RUNS = INTERPRETED or torch.cuda.is_available()
LONGEST, WIDEST, MOST_STATES = (18, 36, 8) if INTERPRETED else (700, 300, 100)

if INTERPRETED:
    repair()


def change_plans(monkeypatch, **sizes: float) -> None:
    """Make plans of other sizes, which conftest.py forgets after the test."""
    for name, value in sizes.items():
        monkeypatch.setattr(plan, name, value)
    plan.forget()


def change_ssd_plans(monkeypatch, **sizes: float) -> None:
    """The same for the scan of Mamba-2."""
    for name, value in sizes.items():
        monkeypatch.setattr(ssd_plan, name, value)
    ssd_plan.forget()


def shorten_chunks(monkeypatch) -> None:
    """Several chunks and tiles for a few frames, and in the walk back several chunks for a program."""
    if INTERPRETED:
        change_plans(monkeypatch, SHORTEST_CHUNK=8, LONGEST_BACKWARD_CHUNK=8, PROGRAMS_OF_A_PROCESSOR=64,
                     BACKWARD_PROGRAMS_OF_A_PROCESSOR=3 / 132)  # fmt: skip
        change_ssd_plans(monkeypatch, BLOCK=16, PROGRAMS_OF_A_PROCESSOR=1, MOST_BLOCKS=2,
                         BACKWARD_PROGRAMS_OF_A_PROCESSOR=3 / 132)  # fmt: skip
        monkeypatch.setattr(conv_launch, "_TILE", (8, 16))
        monkeypatch.setattr(conv_launch, "_WIDE_TILE", (8, 16))
        monkeypatch.setattr(conv_launch, "_BACKWARD_TILE", (8, 16))
