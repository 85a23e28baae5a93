"""How a scan is cut: into blocks of channels for the threads, and chunks of frames that are scanned side by side.

Everything follows from sizes and the number of multiprocessors, so that equal shapes on equal GPUs are cut, and
rounded, alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

WARP = 32
STATES_OF_A_THREAD = 32
"""More are shared by several warps."""
LARGEST_RANK = 32
"""Steps of higher ranks are computed by matrix products, before the kernels."""
SHORTEST_CHUNK, LONGEST_CHUNK = 64, 4096
LONGEST_BACKWARD_CHUNK = 128
"""The states in between are stored, so that longer chunks make fewer programs in the same memory."""
PROGRAMS_OF_A_PROCESSOR = 16
"""Programs of one warp each that keep a multiprocessor busy."""
BACKWARD_PROGRAMS_OF_A_PROCESSOR = 8
"""As many as there is room for with the registers that the walk back takes."""
FORWARD_UNROLL = 2
SUBCHUNK = 4
"""Frames whose states the walk back holds in registers."""
SLAB_BYTES_OF_A_PROCESSOR = 3 << 18
"""Memory for what a slab of the backward pass needs, for each multiprocessor: 99 MiB on an H100, with programs for most
of the room that it has. What fits into three times as much is one slab, for the sake of few launches."""


def round_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def power_of_2(size: int) -> int:
    """The next power of two, of at least 1."""
    return 1 << max(size - 1, 0).bit_length()


@dataclass(frozen=True)
class Slab:
    """What the backward pass goes through at once: whole examples, or some chunks of one.

    Arguments
    ---------
    example, examples : int
        The first example, and their number.
    chunk, chunks : int
        The first chunk, and the number of chunks of each example.
    begin, end : int
        Its frames, counted through all examples.
    """

    example: int
    examples: int
    chunk: int
    chunks: int
    begin: int
    end: int


@dataclass(frozen=True)
class Plan:
    """Sizes of one scan's blocks.

    Arguments
    ---------
    batch, time, channels, directions : int
        Sizes of the scan.
    block_n, block_r : int
        States and ranks of a program, padded to powers of two; no ranks where steps are given.
    padded : bool
        Whether one of them really is.
    warps : int
        Warps of a program.
    chunk, chunks : int
        Frames of a chunk of the forward pass, and chunks of the sequence.
    backward_chunk, backward_chunks : int
        The same of the backward pass.
    slab_chunks : int
        Chunks of all examples that the backward pass goes through at once, at most.

    Example
    -------
    >>> make_plan(132, batch=1, time=4000, channels=64, states=16, ranks=5).block_r
    8
    """

    batch: int
    time: int
    channels: int
    directions: int
    block_n: int
    block_r: int
    padded: bool
    warps: int
    chunk: int
    chunks: int
    backward_chunk: int
    backward_chunks: int
    slab_chunks: int

    @property
    def rows(self) -> bool:
        """Whether tiles of states are loaded row by row, which leaves all states of a channel to one thread."""
        return self.warps == 1

    @property
    def blocks(self) -> int:
        """Blocks of channels of the kernels that walk the way of the scan."""
        return -(-self.channels // WARP)

    @property
    def backward_blocks(self) -> int:
        """Blocks of channels of the kernel that walks back; half a warp of channels, as it holds several frames'
        states."""
        return -(-self.channels // (WARP // 2))

    @cached_property
    def forward(self) -> dict:
        """Constants of the kernels that walk the way of the scan."""
        return {
            "RANK": self.block_r, "BLOCK_N": self.block_n, "BLOCK_C": WARP, "ROWS": self.rows, "PADDED": self.padded,
            "UNROLL": FORWARD_UNROLL, "num_warps": self.warps,
        }  # fmt: skip

    @cached_property
    def outputs(self) -> dict:
        """Constants of the kernel of outputs, which reads a frame ahead instead of unrolling."""
        return self.forward | {"UNROLL": 1}

    @cached_property
    def borders(self) -> dict:
        """Constants of the kernel that stores the states at borders."""
        constants = self.forward | {"SUBCHUNK": SUBCHUNK}
        del constants["UNROLL"]
        return constants

    @cached_property
    def backward(self) -> dict:
        """Constants of the kernel that walks back.

        Left alone, the compiler spills some registers in order to take no more than 168.
        """
        return {
            "BLOCK_N": self.block_n, "BLOCK_C": WARP // 2, "ROWS": self.rows, "SUBCHUNK": SUBCHUNK,
            "num_warps": self.warps, "maxnreg": 255,
        }  # fmt: skip

    @cached_property
    def slabs(self) -> tuple[Slab, ...]:
        """What the backward pass goes through, one after the other."""
        return tuple(self._slabs())

    def _slabs(self) -> Iterator[Slab]:
        chunks = self.backward_chunks
        if self.slab_chunks >= chunks:
            for examples in _steps(self.batch, self.slab_chunks // chunks):
                first, last = examples.start, examples.stop
                yield Slab(first, last - first, 0, chunks, first * self.time, last * self.time)
            return
        for example in range(self.batch):
            for part in _steps(chunks, self.slab_chunks):
                begin, size = example * self.time, self.backward_chunk
                end = begin + min(part.stop * size, self.time)
                yield Slab(example, 1, part.start, len(part), begin + part.start * size, end)

    @property
    def whole(self) -> Slab:
        """Everything as one slab."""
        return Slab(0, self.batch, 0, self.backward_chunks, 0, self.batch * self.time)


def _steps(size: int, largest: int) -> Iterator[range]:
    """Cut a size into the fewest parts, of about equal sizes."""
    parts = -(-size // max(largest, 1))
    step = -(-size // max(parts, 1))
    for begin in range(0, size, max(step, 1)):
        yield range(begin, min(begin + step, size))


@lru_cache
def processors_of(device: torch.device) -> int:
    """Multiprocessors of a GPU; those of an H100 if kernels are only compiled or interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def make_plan(
    processors: int, batch: int, time: int, channels: int, states: int, ranks: int, directions: int = 1
) -> Plan:
    """Sizes of the blocks of a scan.

    Arguments
    ---------
    processors : int
        Multiprocessors of the GPU.
    batch, time, channels, states : int
        Sizes of the scan.
    ranks : int
        Rank of the step's factor that the kernels multiply out, or 0.
    directions : int
        Directions of time.
    """
    block_n, block_r = power_of_2(states), power_of_2(ranks) if ranks else 0
    warps = min(max(1, max(block_n, block_r) // STATES_OF_A_THREAD), 8)
    programs = max(-(-channels // WARP) * batch, 1)
    wanted = power_of_2(-(-processors * PROGRAMS_OF_A_PROCESSOR // programs))
    chunk = min(max(power_of_2(time) // wanted, SHORTEST_CHUNK), LONGEST_CHUNK)
    budget, frame = processors * SLAB_BYTES_OF_A_PROCESSOR, _bytes_of_a_frame(channels, block_n, directions)
    at_once = batch * time * frame <= 3 * budget
    # Shorter chunks make more programs, and the states that pass between them more memory.
    backward_chunk = SHORTEST_CHUNK if at_once else LONGEST_BACKWARD_CHUNK
    chunks, backward_chunks = max(-(-time // chunk), 1), max(-(-time // backward_chunk), 1)
    slab = max(batch * backward_chunks if at_once else budget // (frame * backward_chunk), 1)
    padded = (block_n, block_r) != (states, ranks)
    return Plan(
        batch, time, channels, directions, block_n, block_r, padded, warps, chunk, chunks, backward_chunk,
        backward_chunks, slab,
    )  # fmt: skip


def _bytes_of_a_frame(channels: int, block_n: int, directions: int) -> int:
    """Memory that a frame takes in a slab: states at borders, shares in the gradients of B and C, and steps before
    their softplus; and in half precision the gradients of u and of the steps, and the output."""
    blocks = -(-channels // (WARP // 2))
    maps = blocks * 2 * block_n * 4
    borders = channels * block_n * 4 // SUBCHUNK
    return max(directions * (borders + maps + channels * (4 + 2 + 2)) + 2 * channels, 1)


@lru_cache(maxsize=4096)
def _plan(limits: tuple[int, ...], *sizes: int) -> Plan:
    return make_plan(*sizes)


def plan(
    device: torch.device, batch: int, time: int, channels: int, states: int, ranks: int, directions: int = 1
) -> Plan:
    """Sizes of the blocks of a scan on a device; kept for the next call, as long as the limits above stay the same."""
    limits = (
        SHORTEST_CHUNK, LONGEST_CHUNK, LONGEST_BACKWARD_CHUNK, PROGRAMS_OF_A_PROCESSOR, SLAB_BYTES_OF_A_PROCESSOR
    )  # fmt: skip
    return _plan(limits, processors_of(device), batch, time, channels, states, ranks, directions)
