"""What layers keep from step to step must not outlive the parameters that it was made of."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from speechbrain_mamba import ops
from speechbrain_mamba.nnet.mamba import Mamba


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Mamba(8, d_state=4).eval()


def stepped(layer):
    """Output of a step; the state is made by hand, so that nothing tells the layer of a new sequence."""
    torch.manual_seed(1)
    state = {"conv": torch.randn(2, 16, 3), "ssm": torch.randn(2, 16, 4)}
    return layer.step(torch.randn(2, 8), state)[0]


def expected(layer):
    """The same without anything kept."""
    with ops.use_backend("reference"):
        return stepped(copy.deepcopy(layer))


CHANGES = {
    "load_state_dict": lambda layer: layer.load_state_dict(Mamba(8, d_state=4).state_dict()),
    "in place": lambda layer: layer.dt_proj.bias.add_(1.0),
    "a parameter is replaced": lambda layer: setattr(layer, "D", torch.nn.Parameter(torch.full((16,), 3.0))),
    "a weight is replaced": lambda layer: setattr(layer.x_proj, "weight", torch.nn.Parameter(torch.ones(9, 16))),
    "moved": lambda layer: layer.bfloat16().float(),
    "a new sequence after .data": lambda layer: (layer.A_log.data.mul_(2.0), layer.init_state(1)),
    "a chunk after .data": lambda layer: (layer.A_log.data.mul_(2.0), layer(torch.randn(1, 3, 8))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_steps_follow_changes_of_parameters(layer, change):
    with torch.no_grad():
        before = stepped(layer)
        CHANGES[change](layer)
        after = stepped(layer)
        assert not torch.allclose(before, after, atol=1e-4)
        torch.testing.assert_close(after, expected(layer), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pack_block", "pack_step"])
def test_packing_is_done_once_per_sequence(layer, monkeypatch, name):
    packed, original = [], getattr(ops, name)
    monkeypatch.setattr(f"speechbrain_mamba.nnet.mamba.{name}", lambda *given: packed.append(given) or original(*given))
    if name == "pack_step":  # what is between projections that have to be called
        layer.in_proj.register_forward_hook(lambda *given: None)
    with torch.no_grad():
        _, state = layer(torch.randn(1, 5, 8), return_state=True)
        for _ in range(3):
            _, state = layer.step(torch.randn(1, 8), state)
    assert len(packed) == 1


def test_gradients_flow_through_steps_after_steps_without(layer):
    with torch.no_grad():
        y = stepped(layer)
    again = stepped(layer)
    torch.testing.assert_close(again.detach(), y, rtol=1e-4, atol=1e-5)
    again.sum().backward()
    assert layer.A_log.grad is not None and layer.conv1d.weight.grad.any()


def test_other_parameters_by_functional_call_are_used(layer):
    with torch.no_grad():
        stepped(layer)
        other = Mamba(8, d_state=4).eval()
        torch.manual_seed(1)
        state = {"conv": torch.randn(2, 16, 3), "ssm": torch.randn(2, 16, 4)}
        x = torch.randn(2, 8)
        called = torch.func.functional_call(_Stepping(layer), dict(_Stepping(other).named_parameters()), (x, state))
        torch.testing.assert_close(called, other.step(x, state)[0])


class _Stepping(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, state):
        return self.layer.step(x, state)[0]


def test_copies_and_pickles_keep_nothing(layer):
    with torch.no_grad():
        y = stepped(layer)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert not twin._kept._made
        with torch.no_grad():
            torch.testing.assert_close(stepped(twin), y, rtol=0, atol=0)
