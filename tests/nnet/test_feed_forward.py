"""Feed-forward networks over sequences, with what stands around their products."""

import copy

import pytest
import torch
from speechbrain.nnet.attention import PositionalwiseFeedForward
from torch import nn

from speechbrain_mamba.lobes.models.recognition.conmamba_layer import ConmambaEncoderLayer
from speechbrain_mamba.nnet.feed_forward import feed_forward
from speechbrain_mamba.nnet.reduced_linear import reduce_linears
from speechbrain_mamba.ops.int8 import PackedWeight
from tests.ops.test_int8 import needs_int8


def build(activation: nn.Module, norm: nn.Module) -> tuple[PositionalwiseFeedForward, nn.Module]:
    torch.manual_seed(0)
    network = PositionalwiseFeedForward(96, input_size=64, dropout=0.1, activation=lambda: activation).eval()
    for weight in norm.parameters():
        nn.init.normal_(weight)
    return network.requires_grad_(False), norm.requires_grad_(False)


@needs_int8
@pytest.mark.parametrize("activation", [nn.GELU(), nn.ReLU(), nn.SiLU(), nn.GELU("tanh")])
@pytest.mark.parametrize("norm", [nn.LayerNorm(64), nn.RMSNorm(64), nn.Identity(), None])
def test_integers_give_what_the_modules_give(activation, norm):
    network, norm = build(activation, copy.deepcopy(norm) if norm else nn.Identity())
    x = torch.randn(2, 7, 64)
    exact = network(norm(x))
    reduce_linears(network, "int8")
    one_by_one = network(norm(x))
    y = feed_forward(network, x, norm)
    assert (y - one_by_one).norm() < 5e-3 * exact.norm() and (y - exact).norm() < 0.03 * exact.norm()


@needs_int8
def test_norm_and_activation_are_part_of_the_product(monkeypatch):
    network, norm = build(nn.GELU(), nn.LayerNorm(64))
    reduce_linears(network, "int8")
    seen, multiply = [], PackedWeight.multiply

    def watch(self, x, bias=None, dtype=None, norm=None, activation=None):
        seen.append((None if norm is None else norm.kind, activation))
        return multiply(self, x, bias, dtype, norm, activation)

    monkeypatch.setattr(PackedWeight, "multiply", watch)
    feed_forward(network, torch.randn(2, 3, 64), norm)
    assert seen == [("layer", "gelu"), (None, None)]


@needs_int8
@pytest.mark.parametrize("part", ["norm", "network", 0, 1, 3])
def test_hooks_are_called(part):
    network, norm = build(nn.GELU(), nn.LayerNorm(64))
    reduce_linears(network, "int8")
    called = []
    modules = {"norm": norm, "network": network}
    (network.ffn[part] if isinstance(part, int) else modules[part]).register_forward_hook(
        lambda *_: called.append(part)
    )
    feed_forward(network, torch.randn(2, 3, 64), norm)
    assert called == [part]


@needs_int8
def test_dropout_is_at_work_in_training():
    network, norm = build(nn.GELU(), nn.LayerNorm(64))
    reduce_linears(network, "int8")
    x = torch.randn(2, 3, 64)
    assert not torch.equal(feed_forward(network.train(), x, norm), feed_forward(network, x, norm))


def test_another_network_is_called():
    network, x = nn.Sequential(nn.Linear(8, 8)), torch.randn(3, 8)
    assert torch.equal(feed_forward(network, x, nn.Tanh()), network(x.tanh()))


@pytest.mark.parametrize("bits", ["bf16", pytest.param("int8", marks=needs_int8)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("cast", [False, True])
def test_reduced_layers_of_conmamba(bits, causal, cast):
    torch.manual_seed(0)
    layer = ConmambaEncoderLayer(64, 128, kernel_size=5, activation=nn.GELU, causal=causal).eval().requires_grad_(False)
    for norm in (module for module in layer.modules() if isinstance(module, nn.LayerNorm)):
        nn.init.normal_(norm.weight, 1.0, 0.2)
        nn.init.normal_(norm.bias, 0.0, 0.2)
    x, lengths = torch.randn(2, 30, 64), torch.tensor([30, 17])
    expected = layer(x, lengths)
    reduce_linears(layer, bits)
    reduce_linears(layer, bits)  # changes nothing more
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        y = layer(x, lengths)
        alone = layer(x[1:, :17])
    assert isinstance(layer.convolution_module.layer_norm, nn.Identity)
    assert isinstance(layer.norm1, nn.Identity) is not causal  # a step projects single frames by another way
    assert (y[0] - expected[0]).norm() < 0.03 * expected[0].norm()
    assert (y[1, :17] - alone[0]).norm() < (2e-3 if bits == "int8" else 8e-3) * alone.norm()
