"""How scans are cut, for GPUs of any number of multiprocessors."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba.ops.backends.triton.plan import (
    BACKWARD_PROGRAMS_OF_A_PROCESSOR,
    LARGEST_BACKWARD,
    LONGEST_BACKWARD_CHUNK,
    SHORTEST_CHUNK,
    SMALL_BACKWARD_BYTES,
    SUBCHUNK,
    make_plan,
)

LONG = [(1, 2**20, 512), (1, 64_000, 512), (8, 64_000, 512), (32, 2000, 2048), (1, 64_000, 2048), (8, 4000, 1024)]
GPUS = [108, 132, 142]


def sizes(plan) -> tuple[int, int]:
    """Groups of chunks that the walk back has, and blocks of channels of each."""
    return plan.batch * plan.backward_chunks * plan.groups, -(-plan.backward_blocks // plan.groups)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([40, 108, 132, 142]), st.integers(1, 40), st.integers(1, 50_000), st.integers(1, 2500),
    st.integers(1, 256), st.integers(0, 32), st.integers(1, 2), st.sampled_from([2, 4]),
)  # fmt: skip
def test_a_walk_back_covers_every_frame_and_channel_once(
    processors, batch, time, channels, states, ranks, directions, itemsize
):
    plan = make_plan(processors, batch, time, channels, states, ranks, directions, itemsize)
    assert plan.backward_chunk % SUBCHUNK == 0
    assert SHORTEST_CHUNK <= plan.backward_chunk <= LONGEST_BACKWARD_CHUNK
    assert (plan.backward_chunks - 1) * plan.backward_chunk < time <= plan.backward_chunks * plan.backward_chunk
    units, size = sizes(plan)
    assert (plan.groups - 1) * size < plan.backward_blocks <= plan.groups * size  # no group is empty
    assert 1 <= plan.programs <= min(units, processors * BACKWARD_PROGRAMS_OF_A_PROCESSOR)


@pytest.mark.parametrize("processors", GPUS)
@pytest.mark.parametrize("batch, time, channels", LONG)
def test_a_long_input_keeps_to_its_memory_and_occupies_the_gpu(processors, batch, time, channels):
    """At least a third of the programs of the walk back that a GPU has room for run at once."""
    plan = make_plan(processors, batch, time, channels, 16, 16, 2)
    assert plan.programs >= processors * BACKWARD_PROGRAMS_OF_A_PROCESSOR // 3
    rows, entries = batch * time, 2 * batch * plan.backward_chunks
    memory = entries * channels * (2 * 16 + 2) + 2 * plan.groups * rows * 2 * 16 + plan.programs * plan.scratch
    given = 3 * 4 * channels + 2 * 48 * 4  # gradients, convolutions and features of a frame
    assert 4 * memory + given * rows <= max(LARGEST_BACKWARD * 4 * channels * rows, SMALL_BACKWARD_BYTES)


@pytest.mark.parametrize("processors", GPUS)
@pytest.mark.parametrize("batch, channels", [(1, 256), (1, 512), (1, 1024), (2, 512), (8, 512)])
def test_a_short_input_occupies_the_gpu(processors, batch, channels):
    plan = make_plan(processors, batch, 4000, channels, 16, 16, 2)
    units, size = sizes(plan)
    room = processors * BACKWARD_PROGRAMS_OF_A_PROCESSOR
    if (plan.backward_chunk, size, plan.programs) == (SHORTEST_CHUNK, 1, units):
        return  # each block of channels of each chunk, none of which can be shorter, has a program for itself
    taken = -(-units // plan.programs) * size * room  # blocks of channels for which there is time
    assert batch * plan.backward_chunks * plan.backward_blocks > 0.7 * taken


def test_chunks_grow_with_the_input():
    chunks = [make_plan(132, batch, time, 512, 16, 16, 2).backward_chunk for batch, time in ((1, 1000), (8, 64_000))]
    assert chunks[0] == SHORTEST_CHUNK < chunks[1] <= LONGEST_BACKWARD_CHUNK
