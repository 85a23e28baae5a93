"""Convolutions on lengths of a grid give what they give without, and meet few lengths."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.lobes.models.dual_path import Decoder, Encoder
from torch import nn

from speechbrain_mamba.nnet.grid_convolutions import settle_convolutions
from speechbrain_mamba.utils.memory import PER_OCTAVE, grid_length


@given(length=st.integers(0, 10**9))
def test_the_grid(length):
    found = grid_length(length)
    assert length <= found <= length + length // PER_OCTAVE and grid_length(found) == found


def test_the_grid_has_few_lengths():
    assert len({grid_length(length) for length in range(1024, 8192)}) == 3 * PER_OCTAVE + 1


CONVOLUTIONS = {
    1: (nn.Conv1d, {"padding": st.integers(0, 3) | st.just("valid"), "groups": st.sampled_from([1, 2])}),
    2: (nn.Conv2d, {"padding": st.tuples(st.integers(0, 2), st.integers(0, 2))}),
    3: (nn.ConvTranspose1d, {"padding": st.integers(0, 2), "groups": st.sampled_from([1, 2])}),
}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data(), kind=st.sampled_from(list(CONVOLUTIONS)), size=st.integers(20, 60), seed=st.integers(0, 99))
def test_outputs_are_those_of_the_convolution(data, kind, size, seed):
    torch.manual_seed(seed)
    cls, own = CONVOLUTIONS[kind]
    options = {name: data.draw(values) for name, values in own.items()}
    options |= {"stride": data.draw(st.integers(1, 3)), "dilation": data.draw(st.integers(1, 2))}
    if kind == 3:
        options["output_padding"] = data.draw(st.integers(0, max(options["stride"], options["dilation"]) - 1))
    conv = cls(4, 6, data.draw(st.integers(1, 5)), **options).requires_grad_(False)
    x = torch.randn(2, 4, size, *([19] if kind == 2 else []))
    expected = conv(x)
    assert settle_convolutions(conv) == 1 and settle_convolutions(conv) == 0
    found = conv(x)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_same_length_stays():
    conv, x = nn.Conv1d(3, 5, 4, padding="same", dilation=2), torch.randn(3, 101)
    expected = conv(x)
    settle_convolutions(conv)
    torch.testing.assert_close(conv(x), expected)


def test_parts_of_a_separator():
    """The decoder is a subclass with a forward of its own."""
    parts, mix = nn.ModuleList([Encoder(16, 12), Decoder(12, 1, 16, stride=8, bias=True)]), torch.randn(2, 1003)
    expected, names = parts[1](parts[0](mix)), list(parts.state_dict())
    assert settle_convolutions(parts) == 2
    torch.testing.assert_close(parts[1](parts[0](mix)), expected)
    alone = parts[1](parts[0](mix[:1]))
    torch.testing.assert_close(alone, expected[:1])
    assert list(parts.state_dict()) == names and isinstance(parts[1], Decoder)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_on_the_grid_too(copy_of):
    model, x = nn.Sequential(nn.Conv1d(3, 5, 4)), torch.randn(2, 3, 1001)
    settle_convolutions(model)
    other = copy_of(model)
    assert torch.equal(other(x), model(x)) and settle_convolutions(other) == 0
    with torch.no_grad():
        other[0].weight.zero_()
    assert model[0].weight.any()


def lengths_met(model, x, monkeypatch):
    """The lengths that torch's convolution gets."""
    met, plain = [], nn.functional.conv1d
    monkeypatch.setattr(nn.functional, "conv1d", lambda x, *rest: met.append(x.shape[-1]) or plain(x, *rest))
    model(x)
    return met


def test_what_is_left_alone(monkeypatch):
    reflecting = nn.Conv1d(3, 5, 4, padding=2, padding_mode="reflect")
    assert settle_convolutions(reflecting) == 0
    conv, x = nn.Conv1d(3, 5, 4), torch.randn(2, 3, 1001)
    settle_convolutions(conv)
    assert lengths_met(conv, x, monkeypatch) == [1024]
    for name in ("is_compiling", "is_exporting"):
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, name, lambda: True)
            assert lengths_met(conv, x, monkeypatch)[-1] == 1001


def test_gradients_flow_through():
    conv, x = nn.Conv1d(3, 5, 4), torch.randn(2, 3, 101, requires_grad=True)
    expected = torch.autograd.grad(conv(x).square().sum(), x)
    settle_convolutions(conv)
    torch.testing.assert_close(torch.autograd.grad(conv(x).square().sum(), x), expected)
