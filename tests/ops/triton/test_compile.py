"""The kernels of a layer compile for GPUs that are not there, without spilling registers.

All variants of all models: ``python benchmarks/compile_kernels.py``.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from speechbrain_mamba.ops import triton as backend
from speechbrain_mamba.ops.triton.resources import launches_of, resources

FORWARD = {"conv_kernel", "chunk_states_kernel", "pass_states_kernel", "outputs_kernel"}
BACKWARD = {"chunk_gradients_kernel", "gradients_kernel", "conv_backward_kernel"}


@pytest.fixture(scope="module")
def launches():
    """Launches of a training step of a bidirectional layer as in Mamba-TasNet M: 512 channels, bfloat16."""
    channels, states, rank = 512, 16, 16

    def direction() -> dict:
        shapes = {
            "conv_weight": (channels, 4), "conv_bias": (channels,), "x_proj_weight": (rank + 2 * states, channels),
            "dt_proj_weight": (channels, rank), "delta_bias": (channels,), "A": (channels, states), "D": (channels,),
        }  # fmt: skip
        return {name: torch.zeros(shape, requires_grad=True) for name, shape in shapes.items()}

    def step():
        xz = torch.zeros(1, 4000, 2 * channels, dtype=torch.bfloat16)
        out = torch.zeros(256, channels)
        backend.bidirectional_mamba_inner(xz, direction(), direction(), out, None, None).sum().backward()

    return launches_of(step)


def test_a_training_step_launches_all_kernels(launches):
    assert {launch.name for launch in launches} == FORWARD | BACKWARD


@pytest.mark.parametrize(("architecture", "names"), [(80, FORWARD), (89, FORWARD), (90, FORWARD | BACKWARD)])
def test_kernels_compile_without_spilling(launches, architecture, names):
    for launch in launches:
        if launch.name in names:
            used = resources(launch, architecture)
            assert used["spill_bytes"] == 0, (launch.name, used)
            assert used["registers"] <= 255
