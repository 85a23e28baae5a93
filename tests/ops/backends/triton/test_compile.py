"""The kernels of a layer compile for GPUs that are not there, without spilling registers in their loops.

All variants of all models: ``python benchmarks/compile_kernels.py``.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from kernel_resources import launches_of, resources
from speechbrain_mamba.ops.backends import triton as backend
from tests.ops.cases import layer_inputs, mapped

FORWARD = {"conv_kernel", "chunk_states_kernel", "pass_states_kernel", "outputs_kernel"}
BACKWARD = {
    "chunk_sums_kernel", "gradients_kernel", "finish_kernel", "conv_backward_kernel", "sums_kernel",
}  # fmt: skip
LAYER = {"pack_kernel"}
SPILLS = {"gradients_kernel": 512, "chunk_sums_kernel": 64}
"""Bytes that may be spilled: in the walk back outside of the loop over frames, what is needed once for a segment or
chunk; of the chunks' sums weights, which was the faster on a GPU than fewer programs at a time (``plan.py``)."""
LOOP_SPILLS = {"chunk_sums_kernel": 16}
WALKS = {"chunk_states_kernel", "outputs_kernel", "chunk_sums_kernel", "gradients_kernel"}


@pytest.fixture(scope="module")
def layer():
    """Launches of a training step of a bidirectional layer as in Mamba-TasNet M: 512 channels, bfloat16."""
    inputs = layer_inputs(1, 4000, channels=512, states=16, rank=16)
    forward, reverse = (mapped(torch.Tensor.requires_grad_, inputs[name]) for name in ("forward", "reverse"))
    xz, out = inputs["xz"].bfloat16(), torch.zeros(256, 512)

    def step():
        backend.bidirectional_mamba_inner(xz, forward, reverse, out, None, None).sum().backward()

    return launches_of(step)


@pytest.fixture(scope="module")
def causal():
    """Launches of a training step of a causal layer with states before and after it, and of one frame."""
    channels, states = 512, 16

    def step():
        x = torch.zeros(1, 4000, channels, dtype=torch.bfloat16, requires_grad=True)
        maps, frame = torch.zeros(1, 4000, states, dtype=torch.bfloat16), x.detach()[:, 0]
        weight, vector, A = torch.zeros(channels, 4), torch.zeros(channels), torch.zeros(channels, states)
        filters = weight.clone().requires_grad_(), vector.clone().requires_grad_()
        conv_state, state = torch.zeros(1, channels, 3), torch.zeros(1, channels, states, requires_grad=True)
        u, conv_state = backend.causal_conv1d(x, *filters, "silu", initial_state=conv_state, return_final_state=True)
        y, last = backend.selective_scan(
            u, u, A, maps, maps, vector, x, vector, True, initial_state=state, return_last_state=True
        )
        (y.sum() + last.sum()).backward()
        backend.causal_conv1d_update(frame, conv_state, weight, vector, "silu")
        backend.selective_state_update(
            last.detach(), frame, frame, A, maps[:, 0], maps[:, 0], vector, frame, vector, True
        )

    return launches_of(step)


@pytest.mark.parametrize("kind", ["layer", "causal"])
def test_a_training_step_launches_all_kernels(kind, request):
    expected = FORWARD | BACKWARD | (LAYER if kind == "layer" else set())
    assert {launch.name for launch in request.getfixturevalue(kind)} == expected


@pytest.mark.parametrize(
    ("kind", "architecture", "names"),
    [
        ("layer", 80, FORWARD | {"gradients_kernel"}),
        ("layer", 89, FORWARD),
        ("layer", 90, FORWARD | BACKWARD),
        ("causal", 90, FORWARD | BACKWARD),
    ],
)
@pytest.mark.slow
def test_kernels_compile_without_spilling(kind, architecture, names, request):
    for launch in request.getfixturevalue(kind):
        if launch.name in names:
            used = resources(launch, architecture)
            assert used["loop_spills"] <= LOOP_SPILLS.get(launch.name, 0), (launch.name, used)
            assert used["spill_bytes"] <= SPILLS.get(launch.name, 0), (launch.name, used)
            assert used["registers"] <= 255
            if launch.name in WALKS:  # the loop over frames is the longest
                assert 16 <= used["loop_exponentials"] < used["loop_instructions"] / 2
