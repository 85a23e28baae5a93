"""Group normalization of one group, by the way that a GPU takes: against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.lobes.models.dual_path import Dual_Path_Model
from torch import nn

from speechbrain_mamba.lobes.models.dual_path import DualPathModel
from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.group_norm import OneGroupNorm, normalize_whole
from tests.errors import relative_error

ALLOWED = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ALLOWED)
@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4).filter(
        lambda sizes: sizes[0] > 1 or max(sizes[2:], default=1) > 1
    ),
    mean=st.floats(-3, 3),
    seed=st.integers(0, 99),
)
def test_outputs_and_gradients_are_those_of_pytorch(device, dtype, shape, mean, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) + mean
    weight, bias = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    towards = torch.randn(shape, generator=generator, dtype=torch.float64)
    given_to = [part.to(device, dtype).requires_grad_() for part in (x, weight, bias)]
    exact = [part.detach().double().cpu().requires_grad_() for part in given_to]
    eps = 1e-2  # a single value has no variance
    y, right = normalize_whole(*given_to, eps), F.group_norm(exact[0], 1, *exact[1:], eps)
    # x and its mean are scaled and then subtracted, as PyTorch's own kernels do: of a single value nothing is left
    steepest = exact[1].abs().max() * torch.rsqrt(exact[0].flatten(1).var(1, correction=0).min() + eps)
    largest = float(torch.maximum(right.abs().max(), steepest * exact[0].abs().max()).detach())
    assert y.dtype == dtype and float((y.double().cpu() - right).detach().abs().max()) < ALLOWED[dtype] * largest
    found = torch.autograd.grad((y.double().cpu() * towards).sum(), given_to)
    expected = torch.autograd.grad((right * towards).sum(), exact)
    size = max(float(part.abs().max()) for part in (*expected, towards))  # sums of them may cancel out
    for one, other in zip(found, expected):
        assert float((one.double().cpu() - other).abs().max()) <= 20 * ALLOWED[dtype] * size


def test_the_output_is_float32_under_autocast_as_that_of_pytorch():
    x, norm = torch.randn(2, 4, 6).bfloat16(), nn.GroupNorm(1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = normalize_whole(x, norm.weight, norm.bias, norm.eps)
    assert y.dtype == torch.float32
    assert relative_error(y, norm(x.float())) < 1e-5


def test_a_dual_path_model_has_such_norms_and_the_parameters_of_speechbrain(monkeypatch):
    def make(kind):
        torch.manual_seed(0)
        models = (MambaBlocksSequential(1, True, 8) for _ in range(2))
        return kind(16, 8, *models, num_layers=2, K=10, linear_layer_after_inter_intra=False)

    ours, theirs = make(DualPathModel), make(Dual_Path_Model)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    norms = [module for module in ours.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 5 and all(type(norm) is OneGroupNorm for norm in norms)
    x = torch.rand(1, 16, 35)
    expected = theirs(x)
    assert torch.equal(ours(x), expected)
    monkeypatch.setattr(
        OneGroupNorm, "forward", lambda self, x: normalize_whole(x, self.weight, self.bias, self.eps)
    )  # as on a GPU
    assert relative_error(ours(x), expected) < 1e-5
