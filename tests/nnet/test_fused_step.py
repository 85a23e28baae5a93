"""Steps of whole stacks: equal to the sequence at once, by one call of a kernel for each layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from speechbrain_mamba.lobes.models.recognition.mamba_decoder import MambaDecoder
from speechbrain_mamba.lobes.models.synthesis.backbone import CodecLanguageBackbone
from speechbrain_mamba.nnet.blocks import MambaBlock, MambaBlocksSequential
from speechbrain_mamba.nnet.fused_step import Network, network_step, residual_step
from speechbrain_mamba.nnet.kept import KeptForSteps
from speechbrain_mamba.nnet.mamba import Mamba
from speechbrain_mamba.nnet.reduced_linear import reduce_linears
from speechbrain_mamba.ops.backends import cpu
from tests.ops.test_int8 import needs_int8

PREFIX = 3


def stack(layers, d_model, rms_norm=True):
    return MambaBlocksSequential(layers, False, d_model, d_state=5, rms_norm=rms_norm)


def run_stack(model, x):
    """All frames at once, and the state after the first ones."""
    return model(x), model(x[:, :PREFIX], return_state=True)[1]


def backbone(layers, d_model, name="mamba"):
    return CodecLanguageBackbone(name, layers, d_model, 2 * d_model + 3, nhead=1, attention_interval=1)


def run_backbone(model, x):
    batch, time, _ = x.shape
    lengths, text = (torch.full((batch,), length) for length in (time, 2))
    first = torch.full((batch,), PREFIX)
    return model(x, lengths, text), model(x[:, :PREFIX], first, text, return_state=True)[1]


def decoder(layers, d_model):
    return MambaDecoder(layers, d_model, 2 * d_model)


def run_decoder(model, x):
    memory = x.flip(1)
    state = model.consume(memory)
    for t in range(PREFIX):
        _, state = model.step(x[:, t], state)
    return model(x, memory)[0], state


MODELS = {
    "stack": (stack, run_stack),
    "stack of LayerNorm": (lambda layers, d_model: stack(layers, d_model, rms_norm=False), run_stack),
    "VALL-M": (backbone, run_backbone),
    "VALL-E": (lambda layers, d_model: backbone(layers, d_model, "transformer"), run_backbone),
    "hybrid": (lambda layers, d_model: backbone(layers, d_model, "hybrid"), run_backbone),
    "decoder": (decoder, run_decoder),
}
CALLS = {"stack": 1, "stack of LayerNorm": 1, "VALL-M": 1, "VALL-E": 5, "hybrid": 4, "decoder": 2}
"""Calls of kernels in the step of a layer: projections of attention have their own."""


def stepped(model, run, x):
    expected, state = run(model, x)
    frames = []
    for t in range(PREFIX, x.shape[1]):
        y, state = model.step(x[:, t], state)
        frames.append(y)
    return torch.stack(frames, 1), expected[:, PREFIX:]


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 99), layers=st.integers(1, 3), d_model=st.integers(3, 70), batch=st.integers(1, 17),
)  # fmt: skip
def test_steps_equal_the_whole(name, seed, layers, d_model, batch):
    build, run = MODELS[name]
    torch.manual_seed(seed)
    model, x = build(layers, d_model).eval(), torch.randn(batch, 7, d_model)
    with torch.no_grad():
        found, expected = stepped(model, run, x)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_takes_one_call(name, monkeypatch):
    build, run = MODELS[name]
    model, x = build(3, 8).eval(), torch.randn(2, 7, 8)
    calls, call = [], cpu.native.KernelLibrary.call
    with torch.no_grad():
        _, state = run(model, x)
        model.step(x[:, 0], state)
        monkeypatch.setattr(cpu.native.KernelLibrary, "call", lambda *fields: calls.append(fields[1]) or call(*fields))
        model.step(x[:, 0], state)
    assert len(calls) == 3 * CALLS[name] and calls.count("block_step") >= 3


@pytest.mark.parametrize("bits", ["bf16", pytest.param("int8", marks=needs_int8)])
@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_reduced_weights_step_as_they_run(name, bits, cast):
    build, run = MODELS[name]
    torch.manual_seed(0)
    model, x = build(2, 64).eval().requires_grad_(False), torch.randn(2, 9, 64)
    assert reduce_linears(model, bits)
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        found, expected = stepped(model, run, x)
    assert (found - expected).norm() <= 0.03 * expected.norm()


class Doubled(nn.Linear):
    """More than its weights."""

    def forward(self, x):
        return 2 * super().forward(x)


def replace(layer, name, make):
    old = getattr(layer, name)
    setattr(layer, name, make(old))


def doubled(old):
    new = Doubled(old.in_features, old.out_features, old.bias is not None)
    new.load_state_dict(old.state_dict())
    return new


CHANGES = {
    "a norm in place": lambda model: model.layers[0].norm1.norm.weight.mul_(2),
    "the network in place": lambda model: model.layers[1].ffn.ffn[0].weight.mul_(2),
    "a projection in place": lambda model: model.layers[1].mixer.in_proj.weight.mul_(2),
    "a projection of another class": lambda model: replace(model.layers[1].mixer, "out_proj", doubled),
    "a projection replaced": lambda model: replace(
        model.layers[0].mixer, "in_proj", lambda old: nn.Linear(16, 64, False)
    ),
    "a layer of the network": lambda model: model.layers[0].ffn.ffn.__setitem__(3, nn.Linear(35, 16)),
    "a hook": lambda model: model.layers[0].mixer.in_proj.register_forward_hook(lambda module, args, y: 2 * y),
    "a hook of a norm": lambda model: model.layers[0].norm2.register_forward_hook(lambda module, args, y: 2 * y),
}


@pytest.mark.parametrize("change", CHANGES)
def test_steps_follow_changes_of_modules(change):
    """From one step to the next, without a new sequence that would make the layers forget."""
    torch.manual_seed(0)
    model, x = backbone(2, 16).eval(), torch.randn(2, 7, 16)
    with torch.no_grad():
        _, state = run_backbone(model, x)
        before, _ = model.step(x[:, 0], state)
        CHANGES[change](model)
        found, _ = model.step(x[:, 0], state)
        for layer in model.layers:
            layer.mixer._kept.clear()
        y_t, expected = x[:, 0], None
        for layer, part in zip(model.layers, state):
            y, _ = layer.mixer.step(layer.norm1(y_t), part["mixer"])
            y_t = y_t + y
            y_t = y_t + layer.ffn.ffn(layer.norm2(y_t))
        expected = model.norm(y_t)
    assert not torch.allclose(found, before, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_dropout_of_a_network_in_training_is_applied():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 8))
    network, kept, x = Network(nn.LayerNorm(8), layers), KeptForSteps(), torch.randn(2, 8)
    with torch.no_grad():
        calm = network_step(x, Network(network.norm, layers.eval()), kept)
        layers.train()
        assert not torch.allclose(network_step(x, network, kept), calm)
        layers.eval()
        torch.testing.assert_close(network_step(x, network, kept), calm)


def test_a_subclass_with_its_own_step_is_called():
    class Loud(Mamba):
        def step(self, x_t, state):
            y, state = super().step(x_t, state)
            return 2 * y, state

    torch.manual_seed(0)
    layer, norm, x = Loud(8), nn.RMSNorm(8), torch.randn(2, 8)
    with torch.no_grad():
        y, _ = residual_step(x, layer.init_state(2), norm, layer)
        torch.testing.assert_close(y, x + layer.step(norm(x), layer.init_state(2))[0])
        block = MambaBlock(layer, norm)
        torch.testing.assert_close(block.step(x, layer.init_state(2))[0], y)
