"""How Mamba-2's scan is cut into chunks, blocks of frames, and programs.

Everything follows from sizes and the number of multiprocessors, so that equal shapes on equal GPUs are cut, and
rounded, alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from speechbrain_mamba.ops.backends.triton import plan
from speechbrain_mamba.ops.backends.triton.plan import power_of_2, processors_of, round_up

SMALLEST_TILE = 16
"""Rows and columns of the smallest matrix that tensor cores multiply."""
LARGEST_HEAD = 256
"""Channels of a head."""
LARGEST_TILE = 2**14
"""Numbers of a head's state, padded to powers of two; more do not fit into a program's registers."""
BLOCK, BACKWARD_BLOCK = 32, 16
"""Frames of a block in the kernels that walk the way of the scan, and in the walk back; larger ones spill registers."""
PROGRAMS_OF_A_PROCESSOR = 4
"""Programs that keep a multiprocessor busy."""
BACKWARD_PROGRAMS_OF_A_PROCESSOR = 2
"""As many as there is room for with the registers that the walk back takes."""
FLOAT_REGISTERS = 255
"""Registers of a thread in float32, where products take three passes: all that there are. Left to itself, the assembler
gives kernels that spill registers so few (32 on sm_80, 40 on sm_89) that half of their instructions move spills."""
LONGEST_CHUNK = 4096
"""Frames of a chunk of the forward pass; within it, offsets fit into 32 bits."""
MOST_BLOCKS = 64
"""Blocks of the longest chunk of the walk back."""


@dataclass(frozen=True)
class SsdPlan:
    """Sizes of one scan's blocks.

    Arguments
    ---------
    block_p, block_n : int
        Channels and states of a head, padded to powers of two.
    block_t, backward_block_t : int
        Frames of a block in the kernels that walk the way of the scan, and in the walk back.
    warps : int
        Warps of a program.
    chunk, chunks : int
        Frames of a chunk of the forward pass, and chunks of the sequence.
    backward_chunk, backward_chunks : int
        The same of the backward pass.
    parts : int
        Parts into which the walk back splits the heads of a group. A program goes through the heads of a part, and
        stores what all of them contribute to the gradients of B and C.
    programs : int
        Programs of the walk back; each takes one part of one chunk after another, and has its own scratch memory.

    Example
    -------
    >>> make_ssd_plan(132, batch=1, time=4000, heads=8, groups=1, channels=64, states=16).chunk
    64
    """

    block_p: int
    block_n: int
    block_t: int
    backward_block_t: int
    warps: int
    chunk: int
    chunks: int
    backward_chunk: int
    backward_chunks: int
    parts: int
    programs: int

    def constants(self, backward: bool = False) -> dict:
        """Constants of the kernels; those of the walk back keep smaller blocks."""
        return {
            "BLOCK_T": self.backward_block_t if backward else self.block_t, "BLOCK_P": self.block_p,
            "BLOCK_N": self.block_n, "num_warps": self.warps,
            # Each stage more would keep another block in shared memory, of which smaller GPUs have 99 KB.
            "num_stages": 1,
        }  # fmt: skip

    @property
    def scratch(self) -> int:
        """Elements of a program's memory in the walk back: the states before the blocks of its chunk."""
        return self.backward_chunk // self.backward_block_t * self.block_p * self.block_n


def make_ssd_plan(
    processors: int, batch: int, time: int, heads: int, groups: int, channels: int, states: int, itemsize: int = 2,
    directions: int = 1, gated: bool = True,
) -> SsdPlan:  # fmt: skip
    """Sizes of the blocks of a scan.

    Arguments
    ---------
    processors : int
        Multiprocessors of the GPU.
    batch, time, heads, groups, channels, states : int
        Sizes of the scan.
    itemsize : int
        Bytes of an element of the input.
    directions : int
        Directions of time, 1 or 2. A program of the outputs has both, and one of the walk back has one.
    gated : bool
        Whether there is a gate, which counts as an input.
    """
    block_p, block_n = (max(power_of_2(size), SMALLEST_TILE) for size in (channels, states))
    warps = 8 if block_p * block_n > 2**12 else 4
    wanted = max(processors * PROGRAMS_OF_A_PROCESSOR // max(batch * heads, 1), 1)
    chunk = round_up(min(max(-(-time // wanted), 1), LONGEST_CHUNK), BLOCK)
    frame = directions * (heads * channels + 2 * groups * states + heads) + gated * heads * channels
    inputs = batch * time * frame * itemsize
    backward = _walk_back(
        processors, directions * batch, time, heads, groups, channels, states, inputs, BACKWARD_BLOCK,
        block_p * block_n,
    )  # fmt: skip
    return SsdPlan(
        block_p, block_n, BLOCK, BACKWARD_BLOCK, warps, chunk, max(-(-time // chunk), 1), *backward
    )  # fmt: skip


def _walk_back(
    processors: int, batch: int, time: int, heads: int, groups: int, channels: int, states: int, inputs: int,
    block_t: int, tile: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Chunk, chunks, parts and programs of the walk back; examples count once for each direction. ``inputs`` are the
    bytes of the inputs over time, or of their gradients.

    These are the ones that take the fewest steps, as long as there is memory. Short chunks and many parts make many
    programs, but short chunks take memory for the states that pass between them, and parts for their shares in the
    gradients of B and C.
    """
    room, rows, per_group = max(int(processors * BACKWARD_PROGRAMS_OF_A_PROCESSOR), 1), batch * time, heads // groups
    allowed = max((plan.LARGEST_BACKWARD - 1) * inputs, plan.SMALL_BACKWARD_BYTES)
    choices = []
    for blocks in [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if n <= MOST_BLOCKS]:
        chunk = blocks * block_t
        chunks = max(-(-time // chunk), 1)
        for parts in {-(-per_group // size) for size in range(1, per_group + 1)}:
            units = batch * chunks * groups * parts
            programs = max(min(units, room), 1)
            # The walk there is a fifth of the products, and is left out for the last block of a chunk.
            steps = -(-units // programs) * -(-per_group // parts) * (5 * blocks + blocks - 1)
            memory = 4 * (
                2 * batch * chunks * heads * channels * states
                + parts * rows * groups * 2 * states
                + programs * blocks * tile
            )
            choices.append((max(memory - allowed, 0), steps, memory, chunk, chunks, parts, programs))
    return min(choices)[3:]  # type: ignore[return-value]


_plan = lru_cache(maxsize=4096)(make_ssd_plan)


def forget() -> None:
    """Forget all plans, for those who change what decides on them."""
    _plan.cache_clear()


def ssd_plan(
    device: torch.device, batch: int, time: int, heads: int, groups: int, channels: int, states: int, itemsize: int = 2,
    directions: int = 1, gated: bool = True,
) -> SsdPlan:  # fmt: skip
    """Sizes of the blocks of a scan on a device; kept for the next call."""
    return _plan(processors_of(device), batch, time, heads, groups, channels, states, itemsize, directions, gated)
