"""How a scan is cut: into blocks of channels for the threads, and chunks of frames that are scanned side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton

WARP = 32
STATES_OF_A_THREAD = 32
"""More are shared by several warps."""
SHORTEST_CHUNK, LONGEST_CHUNK = 64, 4096
PROGRAMS_OF_A_PROCESSOR = 16
"""Programs of one warp each that keep a multiprocessor busy."""
FORWARD_UNROLL = 2
SUBCHUNK = 2
"""Frames whose states the walk back holds in registers. With 4 it spills 8 bytes on compute capability 9.0."""
BORDER_BYTES = 64 << 20
"""Memory for the states at the borders of subchunks, about as much as stays in the cache of a large GPU."""


@dataclass(frozen=True)
class Plan:
    """Sizes of one scan's blocks.

    Arguments
    ---------
    block_n, block_r : int
        States and ranks of a program, padded to powers of two.
    padded : bool
        Whether one of them really is.
    warps : int
        Warps of a program.
    chunk, chunks : int
        Frames of a chunk, and chunks of the sequence.
    slab : int
        Chunks that the backward pass goes through at once.

    Example
    -------
    >>> plan(torch.device("cpu"), batch=1, time=4000, channels=64, states=16, ranks=5).block_r
    8
    """

    block_n: int
    block_r: int
    padded: bool
    warps: int
    chunk: int
    chunks: int
    slab: int

    @property
    def rows(self) -> bool:
        """Whether tiles of states are loaded row by row, which leaves all states of a channel to one thread."""
        return self.warps == 1

    def forward(self) -> dict:
        """Constants of the kernels that walk the way of the scan."""
        return self._constants() | {"BLOCK_C": WARP, "UNROLL": FORWARD_UNROLL}

    def backward(self) -> dict:
        """Constants of the kernel that walks back; half a warp of channels, as it holds several frames' states."""
        return self._constants() | {"BLOCK_C": WARP // 2, "SUBCHUNK": SUBCHUNK}

    def _constants(self) -> dict:
        return {
            "RANK": self.block_r, "BLOCK_N": self.block_n, "PADDED": self.padded, "ROWS": self.rows,
            "num_warps": self.warps,
        }  # fmt: skip


@cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; those of an H100 if kernels are only compiled or interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def plan(device: torch.device, batch: int, time: int, channels: int, states: int, ranks: int) -> Plan:
    """Sizes of the blocks of a scan; equal shapes on equal devices get equal plans, and equal rounding."""
    block_n = triton.next_power_of_2(max(states, 1))
    block_r = triton.next_power_of_2(ranks) if ranks else 0
    warps = min(max(1, max(block_n, block_r) // STATES_OF_A_THREAD), 8)
    programs = max(triton.cdiv(channels, WARP) * batch, 1)
    wanted = triton.cdiv(_processors(device) * PROGRAMS_OF_A_PROCESSOR, programs)
    chunk = triton.next_power_of_2(max(time, 1)) // triton.next_power_of_2(wanted)
    chunk = min(max(chunk, SHORTEST_CHUNK), LONGEST_CHUNK)
    chunks = max(triton.cdiv(time, chunk), 1)
    chunk_bytes = 2 * batch * channels * states * 4 * (chunk // SUBCHUNK)
    slab = min(max(BORDER_BYTES // max(chunk_bytes, 1), 1), chunks)
    padded = (block_n, block_r) != (states, ranks)
    return Plan(block_n, block_r, padded, warps, chunk, chunks, slab)
