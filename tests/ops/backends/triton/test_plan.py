"""How scans are cut, for GPUs of any number of multiprocessors."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba.ops.backends.triton.plan import (
    BACKWARD_PROGRAMS_OF_A_PROCESSOR,
    LONGEST_BACKWARD_CHUNK,
    SHORTEST_CHUNK,
    SUBCHUNK,
    make_plan,
)

LONG = [(1, 2**20, 512), (1, 64_000, 512), (8, 64_000, 512), (32, 2000, 2048), (1, 64_000, 2048)]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([40, 108, 132, 142]), st.integers(1, 40), st.integers(1, 50_000), st.integers(1, 2500),
    st.integers(1, 256), st.integers(0, 32), st.integers(1, 2),
)  # fmt: skip
def test_slabs_cover_every_frame_once(processors, batch, time, channels, states, ranks, directions):
    plan = make_plan(processors, batch, time, channels, states, ranks, directions)
    assert plan.backward_chunk % SUBCHUNK == 0
    assert SHORTEST_CHUNK <= plan.backward_chunk <= LONGEST_BACKWARD_CHUNK
    frames = chunks = 0
    for slab in plan.slabs:
        assert slab.begin == frames  # they follow one another
        assert slab.begin == slab.example * time + slab.chunk * plan.backward_chunk
        assert slab.examples == 1 or slab.chunks == plan.backward_chunks
        frames, chunks = slab.end, chunks + slab.examples * slab.chunks
        assert slab.examples * slab.chunks <= plan.slabs[0].examples * plan.slabs[0].chunks
    assert frames == batch * time
    assert chunks == batch * plan.backward_chunks


@pytest.mark.parametrize("processors", [108, 132, 142])
@pytest.mark.parametrize("batch, time, channels", LONG)
def test_a_slab_of_a_long_input_fills_the_gpu(processors, batch, time, channels):
    """At least half of the programs of the walk back that a GPU has room for run at once."""
    plan = make_plan(processors, batch, time, channels, 16, 16, 2)
    slab = plan.slabs[0]
    programs = plan.backward_blocks * slab.examples * slab.chunks
    assert programs >= processors * BACKWARD_PROGRAMS_OF_A_PROCESSOR // 2


@pytest.mark.parametrize("batch, time, channels", LONG)
def test_states_at_borders_are_bounded_by_the_whole_batch(batch, time, channels):
    plan = make_plan(132, batch, time, channels, 16, 16, 2)
    slab = plan.slabs[0]
    subchunks = slab.examples * slab.chunks * plan.backward_chunk // SUBCHUNK
    assert 2 * subchunks * channels * 16 * 4 <= 64 << 20


@pytest.mark.parametrize("channels", [256, 512, 1024])
def test_a_short_input_is_one_slab(channels):
    assert len(make_plan(132, 1, 4000, channels, 16, 16, 2).slabs) == 1


def test_a_single_direction_makes_slabs_too():
    plan = make_plan(132, 4, 64_000, 1024, 16, 0)
    assert len(plan.slabs) > 1
