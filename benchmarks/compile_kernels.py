"""Registers, spills and instructions of the models' Triton kernels, compiled for GPUs that need not be there.

    python benchmarks/compile_kernels.py --csv results/kernels.csv

Shapes are those of the hparams: layers of 256 to 2048 channels with 16 states in bfloat16 and float32, trained and
used, in both directions (one operation for the layer) and in one (decoders); and scans of Mamba-2.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from kernel_resources import ARCHITECTURES, launches_of, resources
from speechbrain_mamba.ops import Direction
from speechbrain_mamba.ops.backends import triton as backend
from timing import write_table

FRAMES = 4000


def layer(channels: int, dtype: torch.dtype) -> None:
    """Forward and backward pass of a bidirectional layer; dt_rank is a thirty-second of the channels."""
    states, rank = 16, channels // 32

    def direction() -> Direction:
        sizes = (
            (channels, 4), (channels,), (rank + 2 * states, channels), (channels, rank), (channels,),
            (channels, states), (channels,),
        )  # fmt: skip
        return Direction(*(torch.zeros(size, requires_grad=True) for size in sizes))

    xz = torch.zeros(1, FRAMES, 2 * channels, dtype=dtype)
    out = torch.zeros(channels // 2, channels)
    for lengths in (None, torch.tensor([FRAMES])):
        backend.bidirectional_mamba_inner(xz, direction(), direction(), out, None, lengths).sum().backward()


def causal(channels: int, dtype: torch.dtype) -> None:
    """Forward and backward pass of a causal layer's operations, and one step with its states."""
    states = 16
    x, z = torch.zeros(1, FRAMES, 2 * channels, dtype=dtype, requires_grad=True).chunk(2, -1)
    maps = torch.zeros(1, FRAMES, channels // 32 + 2 * states, dtype=dtype)
    B, C = maps[..., channels // 32 :].chunk(2, -1)
    weight, vector, A = torch.zeros(channels, 4), torch.zeros(channels), torch.zeros(channels, states)
    u, conv_state = backend.causal_conv1d(x, weight, vector, "silu", return_final_state=True)
    y, state = backend.selective_scan(u, x, A, B, C, vector, z, vector, True, return_last_state=True)
    y.sum().backward()
    with torch.no_grad():
        frame = x[:, 0]
        backend.causal_conv1d_update(frame, conv_state, weight, vector, "silu")
        backend.selective_state_update(state, frame, frame, A, B[:, 0], C[:, 0], vector, z[:, 0], vector, True)


def mamba2(channels: int, dtype: torch.dtype) -> None:
    """Forward and backward pass of the scan of Mamba-2 with states, and one step; heads of 64 channels, 16 and 128
    states."""
    heads, limit = channels // 64, (0.0, float("inf"))
    x, z = torch.zeros(2, 1, FRAMES, heads, 64, dtype=dtype, requires_grad=True)
    delta, vector = torch.zeros(1, FRAMES, heads, dtype=dtype), torch.zeros(heads)
    for states in (16, 128):
        maps, lengths = torch.zeros(1, FRAMES, 1, states, dtype=dtype), torch.tensor([FRAMES])
        initial = torch.zeros(1, heads, 64, states, requires_grad=True)
        y, state = backend.ssd(x, delta, vector, maps, maps, vector, z, vector, True, limit, lengths=lengths,
                               initial_state=initial, return_last_state=True)  # fmt: skip
        (y.sum() + state.sum()).backward()
        with torch.no_grad():
            one, step, B, gate = (t[:, 0] for t in (x, delta, maps, z))
            backend.ssd_update(state, one, step, vector, B, B, vector, gate, vector, True, limit)


CASES: dict[str, Callable] = {"layer": layer, "causal": causal, "mamba2": mamba2}


def main() -> None:
    """Compile and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[256, 288, 512, 1024, 2048])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--architectures", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--csv", type=Path, help="where to write the table")
    arguments = parser.parse_args()
    rows: list[dict] = []
    try:
        for row in tqdm(compile_cases(arguments), desc="Compiling", unit="kernel"):
            rows.append(row)
    finally:  # what is known is kept, whatever stops it
        if rows:
            write_table(rows, arguments.csv)


def compile_cases(arguments: argparse.Namespace) -> Iterator[dict]:
    """A row per kernel that the cases launch, each compiled once per architecture."""
    seen = []
    for case, channels, dtype in itertools.product(arguments.cases, arguments.channels, arguments.dtypes):
        for launch in launches_of(partial(CASES[case], channels, getattr(torch, dtype))):
            if launch in seen:
                continue
            seen.append(launch)
            for architecture in arguments.architectures:
                start = time.perf_counter()
                used = resources(launch, architecture)
                row = {"case": case, "channels": channels, "dtype": dtype, "kernel": launch.name}
                seconds = time.perf_counter() - start
                yield row | {"architecture": f"sm_{architecture}"} | used | {"seconds": seconds}


if __name__ == "__main__":
    main()
