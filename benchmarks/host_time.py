#!/usr/bin/env python3
"""Time that Python takes for a layer on the Triton backend, without a GPU.

    python benchmarks/host_time.py --out results/host_time.csv

A bidirectional layer in bfloat16 goes over one frame on the CPU, so that its products take next to nothing, and its
kernels are not launched: what is left is the work of Python and PyTorch's dispatcher. A launch by the driver, some
microseconds for each kernel, is not in it. The unit is microseconds of the process' own time, which other processes do
not lengthen much; the median of rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from triton.runtime.jit import JITFunction

from memory_account import layer_tensors
from speechbrain_mamba.ops import Direction
from speechbrain_mamba.ops.backends.triton import launch
from speechbrain_mamba.ops.backends.triton.layer_launch import layer_backward, layer_forward
from speechbrain_mamba.ops.kernel_backend import LayerShared
from speechbrain_mamba.utils import _compat
from speechbrain_mamba.utils.files import write_csv

CHANNELS = (32, 64)
"""Few, so that the products take next to nothing; the path is the same up to 1024 channels."""
FRAMES = 1


class Idle:
    """Stands in for a compiled kernel, and launches nothing."""

    function = packed_metadata = None

    def run(self, *arguments: Any) -> None:
        """Launch nothing."""

    def __getitem__(self, programs: tuple[int, int, int]) -> Callable[..., None]:
        return self.run


@contextlib.contextmanager
def idle_kernels() -> Iterator[None]:
    """Launch no kernel, as on a GPU where all are compiled."""
    with (
        mock.patch.object(launch, "_compiles", lambda tensor: True),
        mock.patch.object(launch, "_compiled", {}),
        mock.patch.object(torch.cuda, "current_device", lambda: 0),
        mock.patch.object(_compat, "_raw_stream", lambda device: 0),
        mock.patch.object(JITFunction, "run", lambda *arguments, **constants: Idle()),
    ):
        yield


def microseconds(function: Callable[[], Any], rounds: int, calls: int = 50) -> list[float]:
    """The process' own time of a call, for each round of calls."""
    function()
    found = []
    for _ in range(rounds):
        start = time.thread_time()
        for _ in range(calls):
            function()
        found.append((time.thread_time() - start) / calls * 1e6)
    return found


def time_layer(channels: int, rounds: int) -> list[dict[str, Any]]:
    """Time a layer's forward pass without gradients, the one that a training makes, and the backward pass."""
    directions, shared = layer_tensors(1, FRAMES, channels)
    needs = [Direction(*(True,) * 7)] * 2, LayerShared(True, True, False, False)  # type: ignore[arg-type]
    output, kept = layer_forward(directions, shared, True)
    passes: dict[str, Callable[[], Any]] = {
        "forward": lambda: layer_forward(directions, shared, False),
        "forward of a training": lambda: layer_forward(directions, shared, True),
        "backward": lambda: layer_backward(directions, shared, kept, torch.ones_like(output), needs=needs),
    }
    rows = []
    for name, function in passes.items():
        found = microseconds(function, rounds)
        rows.append({"channels": channels, "pass": name, "us": round(statistics.median(found), 1),
                     "least_us": round(min(found), 1), "rounds": rounds})  # fmt: skip
    return rows


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of 50 calls")
    parser.add_argument("--out", help="a CSV file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad(), idle_kernels():
        rows = [row for channels in CHANNELS for row in time_layer(channels, options.rounds)]
    for row in rows:
        print(f"{row['channels']:5} channels  {row['pass']:22} {row['us']:7.1f} us (least {row['least_us']:.1f})")
    if options.out:
        write_csv(options.out, rows, list(rows[0]))


if __name__ == "__main__":
    main()
