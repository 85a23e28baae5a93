"""Plans, launches, memory and variants of the kernels of Mamba-2's scan: nothing is run, and no GPU is needed."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_resources import Launch, launches_of, recorded, resources
from memory_account import account_ssd
from speechbrain_mamba.ops import SsdInputs
from speechbrain_mamba.ops.backends import triton as backend
from speechbrain_mamba.ops.backends.triton.plan import LARGEST_BACKWARD, SMALL_BACKWARD_BYTES
from speechbrain_mamba.ops.backends.triton.ssd_launch import ssd_backward, ssd_forward
from speechbrain_mamba.ops.backends.triton.ssd_plan import BACKWARD_PROGRAMS_OF_A_PROCESSOR, make_ssd_plan
from speechbrain_mamba.ops.kernel_backend import SsdShared

NO_LIMIT = (0.0, float("inf"))
FORWARD = ["ssd_states_kernel", "ssd_pass_kernel", "ssd_outputs_kernel"]
BACKWARD = ["ssd_states_kernel", "ssd_pass_kernel", "ssd_gradients_kernel", "ssd_finish_kernel"]
SHARED_BYTES = 99 << 10
"""Shared memory of a program on the smallest of the GPUs, the L40."""


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from([40, 108, 132, 142]), st.integers(1, 40), st.integers(1, 50_000), st.integers(1, 4),
    st.integers(1, 12), st.integers(1, 128), st.integers(1, 128), st.sampled_from([2, 4]),
)  # fmt: skip
def test_a_plan_covers_every_frame_and_head_once(
    processors, batch, time, groups, per_group, channels, states, itemsize
):
    p = make_ssd_plan(processors, batch, time, groups * per_group, groups, channels, states, itemsize)
    assert p.chunk % p.block_t == p.backward_chunk % p.backward_block_t == 0
    assert (p.chunks - 1) * p.chunk < time <= p.chunks * p.chunk
    assert (p.backward_chunks - 1) * p.backward_chunk < time <= p.backward_chunks * p.backward_chunk
    size = -(-per_group // p.parts)
    assert (p.parts - 1) * size < per_group <= p.parts * size  # no part is empty
    units = batch * p.backward_chunks * groups * p.parts
    assert 1 <= p.programs <= min(units, processors * BACKWARD_PROGRAMS_OF_A_PROCESSOR)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("time, heads, states", [(4000, 16, 16), (4000, 16, 128), (64_000, 8, 16), (64_000, 16, 128)])
def test_it_launches_few_kernels_and_takes_bounded_memory(time, heads, states, gated):
    forward, backward, size, kept = account_ssd(1, time, heads, 64, states, gated=gated)
    assert forward.launched == FORWARD and backward.launched == BACKWARD
    assert kept == 0  # beside its inputs
    assert forward.peak < max(size, SMALL_BACKWARD_BYTES)
    assert backward.peak < max(LARGEST_BACKWARD * size, SMALL_BACKWARD_BYTES + size)


@pytest.mark.parametrize("time, heads, states", [(4000, 16, 16), (64_000, 16, 128)])
def test_both_directions_take_no_more_launches_than_one(time, heads, states):
    forward, backward, size, kept = account_ssd(1, time, heads, 64, states, directions=2, gated=False)
    assert forward.launched == FORWARD and backward.launched == BACKWARD and kept == 0
    assert forward.peak < max(size, SMALL_BACKWARD_BYTES)
    assert backward.peak < max(LARGEST_BACKWARD * size, SMALL_BACKWARD_BYTES + size)


def test_a_single_chunk_is_one_launch():
    for directions in (1, 2):
        forward, *_ = account_ssd(1, 30, 16, 64, 16, directions=directions)
        assert forward.launched == ["ssd_outputs_kernel"]


@pytest.mark.parametrize("heads, channels, states", [(8, 64, 16), (3, 24, 7)])
def test_kernels_are_not_compiled_again_by_length(heads, channels, states):
    """Nor by batch: a variant of each over 60 shapes, and of the outputs one for a single chunk."""
    torch.manual_seed(0)
    variants: set[Launch] = set()
    with torch.device("meta"):
        vector = torch.empty(heads)
        needs = [SsdInputs(*(True,) * 7)], SsdShared(True, False, False)  # type: ignore[arg-type]
        for i in range(60):
            batch = int(torch.randint(1, 17, (), device="cpu"))
            time = i + 1 if i < 34 else int(torch.randint(1, 20_000, (), device="cpu"))
            x = torch.empty(batch, time, heads, channels, dtype=torch.bfloat16)
            delta, maps = (torch.empty(batch, time, *s, dtype=torch.bfloat16) for s in ((heads,), (1, states)))
            inputs = [SsdInputs(x, delta, vector, maps, maps, vector, vector)]
            shared = SsdShared(x, None, torch.empty(batch, dtype=torch.long))
            with recorded() as launches:
                ssd_forward(inputs, shared, True, False, *NO_LIMIT, False)
                ssd_backward(inputs, shared, x, None, True, False, *NO_LIMIT, needs=needs)
            variants.update(launches)
    names = sorted(v.name for v in variants)
    assert set(names) == set(FORWARD + BACKWARD)
    assert len(names) <= 8, names


def step(dtype, states):
    x = torch.zeros(1, 4000, 4, 64, dtype=dtype, requires_grad=True)
    maps, delta, vector = torch.zeros(1, 4000, 1, states, dtype=dtype), x.detach()[..., 0], torch.zeros(4)
    initial = torch.zeros(1, 4, 64, states, requires_grad=True)
    y, last = backend.ssd(
        x, delta, vector, maps, maps, vector, x, vector, True, NO_LIMIT, initial_state=initial, return_last_state=True
    )
    (y.sum() + last.sum()).backward()
    direction = SsdInputs(x, delta, vector, maps, maps, vector, vector)
    backend.bidirectional_ssd(direction, direction, None, True, NO_LIMIT, None).sum().backward()
    frame, last = x.detach()[:, 0], last.detach()
    backend.ssd_update(last, frame, delta[:, 0], vector, maps[:, 0], maps[:, 0], vector, frame, vector, True, NO_LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("architecture, dtype, states", [(90, torch.bfloat16, 16), (80, torch.float32, 128)])
def test_kernels_compile_for_every_gpu(architecture, dtype, states):
    """Of those that walk the way of the scan none spills registers in half precision; the walk back does, and is
    allowed a seventh of its instructions. In float32 those with products use all registers, and may spill a fourth."""
    names = set()
    for launch in launches_of(lambda: step(dtype, states)):
        used = resources(launch, architecture)
        names.add(launch.name)
        assert used["shared_bytes"] <= SHARED_BYTES, (launch.name, used)
        if dtype == torch.bfloat16:
            allowed = used["loop_instructions"] / 7 if launch.name == "ssd_gradients_kernel" else 0
            assert used["loop_spills"] <= allowed, (launch.name, used)
        elif launch.name in ("ssd_outputs_kernel", "ssd_gradients_kernel"):
            assert used["loop_spills"] <= used["loop_instructions"] / 4, (launch.name, used)
    assert names == {*FORWARD, *BACKWARD, "ssd_step_kernel"}
