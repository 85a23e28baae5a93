"""How a scan is cut: into blocks of channels for the threads, and chunks of frames that are scanned side by side.

Everything follows from sizes and the number of multiprocessors, so that equal shapes on equal GPUs are cut, and
rounded, alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

WARP = 32
STATES_OF_A_THREAD = 32
"""More are shared by several warps."""
FORWARD_CHANNELS = WARP
"""Channels of a block of the kernels that walk the way of the scan."""
LARGEST_RANK = 32
"""Steps of higher ranks are computed by matrix products, before the kernels."""
SHORTEST_CHUNK, LONGEST_CHUNK = 64, 4096
LONGEST_BACKWARD_CHUNK = 256
PROGRAMS_OF_A_PROCESSOR = 16
"""Programs of one warp each that keep a multiprocessor busy."""
BACKWARD_PROGRAMS_OF_A_PROCESSOR = 12
"""As many as there is room for with the registers that the walk back takes."""
FORWARD_UNROLL = 2
SUMS_REGISTERS = 128
"""Of a thread of the kernel of chunks' sums: on an H200 it takes 12 % less time for long inputs than with up to 255,
although some weights are then read again in each frame."""
KEEP_DECAYS = False
"""Whether the walk back holds also the decays of a subchunk, rather than computing them twice."""
BACKWARD_REGISTERS = 168
"""Of a thread of the walk back."""
SEGMENT = 8
"""Frames of the walk back whose steps, gates and gradients are computed at once."""
SUBCHUNK = 4
"""Frames whose states the walk back holds in registers."""
BACKWARD_CHANNELS = WARP // 2
"""Channels of a block of the walk back, which holds several frames' states."""
LARGEST_BACKWARD = 4
"""Memory of a layer's backward pass, in sizes of its input, ..."""
SMALL_BACKWARD_BYTES = 640 << 20
"""... or this, where it is more."""


def round_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def power_of_2(size: int) -> int:
    """The next power of two, of at least 1."""
    return 1 << max(size - 1, 0).bit_length()


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
    groups : int
        Groups of a chunk's blocks of channels in the walk back. A program goes through the blocks of a group, and
        stores what all of them contribute to the gradients of B and C.
    programs : int
        Programs of the walk back; each takes one group of one chunk after another, and has its own scratch memory.

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
    groups: int
    programs: int

    @property
    def rows(self) -> bool:
        """Whether tiles of states are loaded row by row, which leaves all states of a channel to one thread."""
        return self.warps == 1

    @property
    def blocks(self) -> int:
        """Blocks of channels of the kernels that walk the way of the scan."""
        return -(-self.channels // FORWARD_CHANNELS)

    @property
    def backward_blocks(self) -> int:
        """Blocks of channels of the walk back."""
        return -(-self.channels // BACKWARD_CHANNELS)

    @property
    def scratch(self) -> int:
        """Elements of a program's memory in the walk back."""
        return scratch_of(self.backward_chunk, self.block_n)

    @cached_property
    def forward(self) -> dict:
        """Constants of the kernels that walk the way of the scan."""
        return {
            "RANK": self.block_r, "BLOCK_N": self.block_n, "BLOCK_C": FORWARD_CHANNELS, "ROWS": self.rows,
            "PADDED": self.padded, "UNROLL": FORWARD_UNROLL, "num_warps": self.warps,
        }  # fmt: skip

    @cached_property
    def outputs(self) -> dict:
        """Constants of the kernel of outputs, which reads a frame ahead instead of unrolling."""
        return self.forward | {"UNROLL": 1}

    @cached_property
    def sums(self) -> dict:
        """Constants of the kernel of chunks' sums."""
        return self.forward | {"maxnreg": SUMS_REGISTERS}

    @cached_property
    def backward(self) -> dict:
        """Constants of the kernel that walks back."""
        return {
            "RANK": self.block_r, "BLOCK_N": self.block_n, "BLOCK_C": BACKWARD_CHANNELS, "ROWS": self.rows,
            "SEGMENT": SEGMENT, "SUBCHUNK": SUBCHUNK, "KEEP": KEEP_DECAYS, "num_warps": self.warps,
            "maxnreg": BACKWARD_REGISTERS,
        }  # fmt: skip


@lru_cache
def processors_of(device: torch.device) -> int:
    """Multiprocessors of a GPU; those of an H100 if kernels are only compiled or interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def make_plan(
    processors: int, batch: int, time: int, channels: int, states: int, ranks: int, directions: int = 1,
    itemsize: int = 2,
) -> Plan:  # fmt: skip
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
    itemsize : int
        Bytes of an element of the input.
    """
    block_n, block_r = power_of_2(states), power_of_2(ranks) if ranks else 0
    warps = min(max(1, max(block_n, block_r) // STATES_OF_A_THREAD), 8)
    programs = max(-(-channels // FORWARD_CHANNELS) * batch, 1)
    wanted = power_of_2(-(-processors * PROGRAMS_OF_A_PROCESSOR // programs))
    chunk = min(max(power_of_2(time) // wanted, SHORTEST_CHUNK), LONGEST_CHUNK)
    padded = (block_n, block_r) != (states, ranks)
    backward = _walk_back(processors, batch, time, channels, block_n, block_r, directions, itemsize)
    return Plan(
        batch, time, channels, directions, block_n, block_r, padded, warps, chunk, max(-(-time // chunk), 1), *backward
    )


def scratch_of(chunk: int, block_n: int) -> int:
    """Elements of a program's memory in the walk back: its chunk's states at borders, steps and inputs; and of a
    segment the gradients before they are stored, and those of D and bias."""
    chunk = round_up(chunk, SEGMENT)
    of_channel = chunk // SUBCHUNK * block_n + 2 * chunk + 5 * SEGMENT
    return BACKWARD_CHANNELS * of_channel + 2 * SEGMENT * block_n


def _walk_back(
    processors: int, batch: int, time: int, channels: int, block_n: int, block_r: int, directions: int, itemsize: int
) -> tuple[int, int, int, int]:
    """Chunk, chunks, groups and programs of the walk back.

    These are the ones that take the fewest steps, as long as there is memory. Short chunks and many groups make many
    programs, but short chunks take memory for the states that pass between them, and groups for their shares in the
    gradients of B and C.
    """
    room, rows = max(int(processors * BACKWARD_PROGRAMS_OF_A_PROCESSOR), 1), batch * time
    blocks = max(-(-channels // BACKWARD_CHANNELS), 1)
    # What a layer has at that time: its input's gradient, its convolutions' outputs and its steps' gradients, each of
    # its input's size; and features.
    frame = 2 * channels * itemsize
    # A layer whose steps are a product has a factor among these too, commonly of a thirty-second of the channels.
    rank = block_r or power_of_2(channels // 32)
    given = 3 * frame + 4 * directions * round_up(rank + 2 * block_n, 16)
    allowed = max(LARGEST_BACKWARD * frame * rows, SMALL_BACKWARD_BYTES) - given * rows
    choices = []
    for chunk in range(SHORTEST_CHUNK, LONGEST_BACKWARD_CHUNK + 1, max(SHORTEST_CHUNK // 2, SUBCHUNK)):
        chunks = max(-(-time // chunk), 1)
        for groups in {-(-blocks // size) for size in range(1, blocks + 1)}:
            units = batch * chunks * groups
            programs = max(min(units, room), 1)
            steps = -(-units // programs) * -(-blocks // groups) * chunk
            passing = directions * batch * chunks * channels * (2 * block_n + 2)
            memory = 4 * (passing + directions * groups * rows * 2 * block_n + programs * scratch_of(chunk, block_n))
            choices.append((max(memory - allowed, 0), steps, memory, chunk, chunks, groups, programs))
    return min(choices)[3:]  # type: ignore[return-value]


_plan = lru_cache(maxsize=4096)(make_plan)


def forget() -> None:
    """Forget all plans, for those who change what decides on them."""
    _plan.cache_clear()


def plan(
    device: torch.device, batch: int, time: int, channels: int, states: int, ranks: int, directions: int = 1,
    itemsize: int = 2,
) -> Plan:  # fmt: skip
    """Sizes of the blocks of a scan on a device; kept for the next call."""
    return _plan(processors_of(device), batch, time, channels, states, ranks, directions, itemsize)
