"""Memory of a layer on the Triton backend, by account: no GPU is needed.

    python benchmarks/gpu_memory.py --csv results/gpu_memory.csv

The unit is the layer's input, the output of its input projection, which is there before and not counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from memory_account import account_layer
from timing import write_table

SHAPES = {
    "d_model 256, batch 1, 4000 frames": (1, 4000, 512),
    "d_model 512, batch 1, 4000 frames": (1, 4000, 1024),
    "d_model 256, batch 8, 4000 frames": (8, 4000, 512),
    "d_model 512, batch 8, 4000 frames": (8, 4000, 1024),
    "512 channels, batch 1, 64000 frames": (1, 64_000, 512),
    "512 channels, batch 8, 64000 frames": (8, 64_000, 512),
    "2048 channels, batch 32, 2000 frames": (32, 2000, 2048),
}
"""Batch, frames and channels by name."""


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="where to write the table")
    arguments = parser.parse_args()
    write_table([row(name, *shape) for name, shape in SHAPES.items()], arguments.csv)


def row(name: str, *shape: int) -> dict:
    """Peak memory of the forward and the backward pass of a layer, in MiB and in units of its input."""
    forward, backward, size, kept = account_layer(*shape)
    return {
        "shape": name, "input_MiB": size / 2**20, "kept_MiB": kept / 2**20,
        "forward_MiB": forward.peak / 2**20, "backward_MiB": backward.peak / 2**20,
        "forward_inputs": forward.peak / size, "backward_inputs": backward.peak / size,
        "forward_launches": len(forward.launched), "backward_launches": len(backward.launched),
    }  # fmt: skip


if __name__ == "__main__":
    main()
