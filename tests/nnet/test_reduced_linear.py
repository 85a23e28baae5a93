"""Which layers of a model are reduced, and that they stand in for those that they replace."""

import copy

import pytest
import torch
import torch.nn.functional as F
from speechbrain.nnet.CNN import Conv1d
from torch import nn

from speechbrain_mamba.nnet.blocks import MambaBlock
from speechbrain_mamba.nnet.mamba import BiMamba, Mamba
from speechbrain_mamba.nnet.mamba2 import BiMamba2
from speechbrain_mamba.nnet.plain_parts import norm_part
from speechbrain_mamba.nnet.reduced_linear import ReducedLinear, ReducedPointwise, reduce_linears
from tests.ops.test_int8 import needs_int8

BITS = ["bf16", pytest.param("int8", marks=needs_int8)]
ERRORS = {"bf16": 0.01, "int8": 0.02}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers(bits, cast, bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(70, 90, bias=bias).requires_grad_(False), torch.randn(2, 5, 70)
    reduced = ReducedLinear(linear, bits)
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        y, expected = reduced(x), linear(x)
    assert y.dtype == expected.dtype == (torch.bfloat16 if cast else torch.float32)
    assert (y - expected).float().norm() / expected.float().norm() < ERRORS[bits]
    assert (reduced.in_features, reduced.out_features) == (70, 90) and bits in repr(reduced)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("cls", [BiMamba, BiMamba2])
def test_layers_in_pieces_project_each_part_once(bits, cls, monkeypatch):
    torch.manual_seed(0)
    block = MambaBlock(cls(64), nn.RMSNorm(64)).eval().requires_grad_(False)
    x = torch.randn(1, 50, 64)
    reduce_linears(block, bits)
    expected = block(x)
    monkeypatch.setattr(block.mixer.in_proj, "forward", lambda x: pytest.fail("all of the projection was computed"))
    y = x.clone()
    block.update_(y, [slice(0, 20), slice(20, 50)])
    assert (y - expected).norm() < 0.01 * (expected - x).norm()


@pytest.mark.parametrize("bits", BITS)
def test_norm_and_activation_around_a_projection(bits):
    torch.manual_seed(0)
    linear, norm, x = nn.Linear(64, 96), nn.LayerNorm(64), 3 * torch.randn(2, 5, 64) + 1
    with torch.no_grad():
        expected = F.gelu(linear(norm(x)))
        y = ReducedLinear(linear, bits).run(x, norm_part(norm), "gelu")
    assert (y - expected).norm() < ERRORS[bits] * expected.norm()


@pytest.mark.parametrize("bits", BITS)
def test_convolutions_of_width_1(bits):
    torch.manual_seed(0)
    conv = Conv1d(in_channels=64, out_channels=96, kernel_size=1).requires_grad_(False)
    x = torch.randn(2, 20, 64)
    expected = conv(x)
    assert reduce_linears(conv, bits) == 64 * 96
    assert isinstance(conv.conv, ReducedPointwise)
    assert (conv(x) - expected).norm() / expected.norm() < ERRORS[bits]


@pytest.mark.parametrize("bits", BITS)
def test_what_is_reduced(bits):
    shared = nn.Linear(64, 64)
    model = nn.ModuleDict(
        {
            "one": nn.Sequential(shared, nn.ReLU(), nn.Linear(64, 3)),
            "other": nn.Sequential(shared, nn.Conv1d(64, 64, 3), nn.Conv1d(64, 64, 1, groups=2)),
            "attention": nn.MultiheadAttention(64, 2),
            "mamba": BiMamba(64, d_state=24, dt_rank=40),
            "bare": nn.Linear(64, 65),
        }
    )
    count = reduce_linears(model, bits)
    assert count == 64 * 64 + 64 * 256 + 128 * 64 + 2 * 128 * 88 + 64 * 65
    assert model["one"][0] is model["other"][0] and isinstance(model["bare"], ReducedLinear)
    kept = [model["one"][2], model["other"][1], model["other"][2], model["attention"].out_proj, model["mamba"].dt_proj]
    assert not any(isinstance(layer, ReducedLinear) for layer in kept)
    assert reduce_linears(model, bits) == 0  # there is nothing left to reduce


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    "norm", [nn.RMSNorm(64, eps=1e-5), nn.RMSNorm(64), nn.RMSNorm(64, elementwise_affine=False), nn.LayerNorm(64)]
)
@pytest.mark.parametrize("cast", [False, True])
def test_blocks_leave_their_norm_to_reduced_projections(bits, norm, cast):
    torch.manual_seed(0)
    block = MambaBlock(BiMamba(64, d_state=16), copy.deepcopy(norm)).eval().requires_grad_(False)
    for weight in block.norm.parameters():
        weight.normal_()
    plain, x = copy.deepcopy(block), 3 * torch.randn(2, 40, 64)
    plain.absorb_norm = lambda: None
    expected = block(x)
    for one in (block, plain):
        assert reduce_linears(one, bits) > 0
        reduce_linears(one, bits)  # changes nothing more
    assert isinstance(block.norm, nn.Identity) and type(plain.norm) is type(norm)
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        y, other = block(x), plain(x)
    assert (y - other).norm() < 0.01 * (other - x).norm() and (y - expected).norm() < 0.03 * (expected - x).norm()


@pytest.mark.parametrize("bits", BITS)
def test_blocks_keep_their_norm_otherwise(bits):
    """Layers with a state project single frames by another way, and other norms are not known."""
    blocks = [
        MambaBlock(Mamba(64, d_state=16), nn.RMSNorm(64)),
        MambaBlock(BiMamba(64, d_state=16), nn.GroupNorm(1, 64)),
    ]
    for block in blocks:
        norm = block.norm
        reduce_linears(block, bits)
        assert block.norm is norm


@needs_int8
def test_weights_of_integers_have_no_gradient():
    with pytest.raises(ValueError, match="have no gradient"):
        ReducedLinear(nn.Linear(64, 64), "int8")(torch.randn(1, 64, requires_grad=True))
