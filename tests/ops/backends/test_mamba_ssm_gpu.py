"""The adapters on mamba-ssm and causal-conv1d themselves, where they are installed and there is a GPU."""

from __future__ import annotations

import pytest
import torch

from speechbrain_mamba import ops
from tests.ops.cases import check, layer_inputs, scan_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "mamba_ssm" not in ops.available_backends(), reason="needs a CUDA GPU, mamba-ssm and causal-conv1d"
    ),
]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [300, 1, 77]])
def test_scan(reverse, lengths):
    inputs = scan_inputs(3, 300, 64, 16)
    del inputs["initial_state"]
    lengths = None if lengths is None else torch.tensor(lengths)
    check(ops.selective_scan, inputs, "mamba_ssm", "cuda", roundings=10, delta_softplus=True, lengths=lengths,
          reverse=reverse)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer(dtype):
    inputs = layer_inputs(2, 200, 64, 16, 4)
    inputs["xz"] = inputs["xz"].to(dtype)
    check(ops.bidirectional_mamba_inner, inputs, "mamba_ssm", "cuda", roundings=10, lengths=torch.tensor([200, 31]))
