"""Where the Triton kernels' tests run: on CUDA, or in Triton's interpreter, which takes milliseconds per frame.

There the sequences, and the chunks that they are cut into, are short.
"""

from __future__ import annotations

import torch

from speechbrain_mamba.ops.backends.triton import INTERPRETED, conv_launch, plan
from tests.ops.backends.triton.interpreter import repair

DEVICE = "cpu" if INTERPRETED else "cuda"
RUNS = INTERPRETED or torch.cuda.is_available()
LONGEST, WIDEST, MOST_STATES = (18, 36, 8) if INTERPRETED else (700, 300, 100)

if INTERPRETED:
    repair()


def shorten_chunks(monkeypatch) -> None:
    """Several chunks, slabs of chunks and tiles for a few frames."""
    if INTERPRETED:
        monkeypatch.setattr(plan, "SHORTEST_CHUNK", 8)
        monkeypatch.setattr(plan, "LONGEST_BACKWARD_CHUNK", 8)
        monkeypatch.setattr(plan, "PROGRAMS_OF_A_PROCESSOR", 64)
        monkeypatch.setattr(plan, "SLAB_BYTES_OF_A_PROCESSOR", 1)
        monkeypatch.setattr(conv_launch, "_TILE", (8, 16))
        monkeypatch.setattr(conv_launch, "_BACKWARD_TILE", (8, 16))
