"""Memory of a layer on the Triton backend, by account: no GPU is needed.

    python benchmarks/gpu_memory.py --csv results/gpu_memory.csv

The unit is the layer's input, the output of its input projection, which is there before and not counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from memory_account import Account, account_layer, account_ssd
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
"""Batch, frames and channels of a layer by name."""
MAMBA2 = {
    "Mamba-2, 8 heads of 64, 16 states, batch 1, 4000 frames": (1, 4000, 8, 64, 16),
    "Mamba-2, 16 heads of 64, 128 states, batch 1, 4000 frames": (1, 4000, 16, 64, 128),
    "Mamba-2, 16 heads of 64, 128 states, batch 8, 64000 frames": (8, 64_000, 16, 64, 128),
}
"""Batch, frames, heads, channels of a head and states of the scan of Mamba-2 by name."""


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="where to write the table")
    arguments = parser.parse_args()
    layers = [row(name, account_layer(*shape)) for name, shape in SHAPES.items()]
    scans = [row(name, account_ssd(*shape)) for name, shape in MAMBA2.items()]
    write_table(layers + scans, arguments.csv)


def row(name: str, account: Account) -> dict:
    """Peak memory of the forward and the backward pass, in MiB and in units of the input."""
    forward, backward, size, kept = account
    return {
        "shape": name, "input_MiB": size / 2**20, "kept_MiB": kept / 2**20,
        "forward_MiB": forward.peak / 2**20, "backward_MiB": backward.peak / 2**20,
        "forward_inputs": forward.peak / size, "backward_inputs": backward.peak / size,
        "forward_launches": len(forward.launched), "backward_launches": len(backward.launched),
    }  # fmt: skip


if __name__ == "__main__":
    main()
