"""The convolution of several sequences packed into one example."""

import pytest
import torch

from speechbrain_mamba.ops import causal_conv1d

PARTS = (5, 1, 2, 4)


def pack(padding=0):
    torch.manual_seed(0)
    x = torch.randn(2, sum(PARTS) + padding, 3)
    numbers = torch.repeat_interleave(torch.arange(len(PARTS)), torch.tensor(PARTS))
    return x, torch.cat([numbers, numbers.new_full((padding,), -1)]).expand(2, -1)


def convolve(function, *tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    torch.manual_seed(1)
    (y * torch.randn(2, sum(PARTS), 3)).sum().backward()
    return [y, *(t.grad for t in leaves)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("activation", "biased"), [("silu", True), (None, False)])
@pytest.mark.parametrize("width", [2, 4, 30])
def test_each_sequence_gets_what_it_gets_alone(width, activation, biased, reverse):
    x, seq_idx = pack()
    weight, bias = torch.randn(3, width), torch.randn(3)

    def packed(x, weight, bias):
        return causal_conv1d(x, weight, bias if biased else None, activation, reverse=reverse, seq_idx=seq_idx)

    def alone(x, weight, bias):
        bias = bias if biased else None
        parts = [causal_conv1d(part, weight, bias, activation, reverse=reverse) for part in x.split(PARTS, 1)]
        return torch.cat(parts, 1)

    tensors = (x, weight, bias)
    for found, expected in zip(convolve(packed, *tensors), convolve(alone, *tensors)):
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_padding_gives_zeros_and_reaches_nothing():
    x, seq_idx = pack(padding=3)
    weight = torch.randn(3, 4)
    whole = causal_conv1d(x[:, :-3], weight, seq_idx=seq_idx[:, :-3])
    x[:, -3:] = torch.nan
    y = causal_conv1d(x, weight, torch.ones(3), seq_idx=seq_idx)
    assert not y[:, -3:].any()
    torch.testing.assert_close(y[:, :-3], whole + 1)
    shorter = causal_conv1d(x, weight, seq_idx=seq_idx.clamp(min=0), lengths=torch.tensor([9, 12]))
    torch.testing.assert_close(shorter[:, :9], whole[:, :9])
    assert not shorter[0, 9:].any()


def test_states_and_wrong_numbers_are_refused():
    x, seq_idx = pack()
    weight = torch.randn(3, 4)
    with pytest.raises(ValueError, match=r"seq_idx packs several sequences .* no initial or final state"):
        causal_conv1d(x, weight, seq_idx=seq_idx, return_final_state=True)
    with pytest.raises(ValueError, match="no initial or final state"):
        causal_conv1d(x, weight, seq_idx=seq_idx, initial_state=torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match=r"seq_idx has shape \(2, 11\)"):
        causal_conv1d(x, weight, seq_idx=seq_idx[:, 1:])
    with pytest.raises(TypeError, match="must be integers"):
        causal_conv1d(x, weight, seq_idx=seq_idx.float())
