"""Attention with a prefix against a softmax over the frames that each frame may see, written out."""

import math

import pytest
import torch

from speechbrain_mamba.nnet.attention import PrefixAttention, PrefixCrossAttention
from tests.errors import relative_error

LENGTHS, PREFIXES = [9, 6, 1], [3, 5, 1]


def dense(layer, x, prefix, seen):
    """Attention of one example, (time, channels), head by head and frame by frame; seen says which a frame sees."""
    size, y = x.shape[1] // layer.nhead, []
    query, key, value = (proj(x).split(size, 1) for proj in (layer.q_proj, layer.k_proj, layer.v_proj))
    for t in range(x.shape[0]):
        frames = [s for s in range(x.shape[0]) if seen(t, s, prefix)]
        weights = [(k[frames] @ q[t] / math.sqrt(size)).exp() for q, k in zip(query, key)]
        y.append(torch.cat([w @ v[frames] / w.sum() for w, v in zip(weights, value)]))
    return layer.out_proj(torch.stack(y))


def make(cls, **options):
    return cls(d_model=12, nhead=3, **options).double()


def inputs():
    return torch.randn(3, 9, 12, dtype=torch.float64), torch.tensor(LENGTHS), torch.tensor(PREFIXES)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_a_softmax_over_the_frames_seen(causal):
    layer, (x, lengths, prefixes) = make(PrefixAttention, causal=causal), inputs()
    y = layer(x, lengths, prefixes)
    for i, (length, prefix) in enumerate(zip(LENGTHS, PREFIXES)):
        expected = dense(layer, x[i, :length], prefix, lambda t, s, p: not causal or s <= t or max(s, t) < p)
        assert relative_error(y[i, :length], expected) < 1e-12


BLOCKS = torch.tensor([[1, 1, 0, 0, 2, 2, 0, 0, 0], [1, 0, 2, 2, 0, 0, -1, -1, -1], [1, *[-1] * 8]])
"""Two texts in an example, as :func:`speechbrain_mamba.nnet.text_blocks.mark_blocks` counts them."""


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_a_frame_sees_all_text_before_it_and_speech_in_a_window(causal, window):
    layer, (x, lengths, _) = make(PrefixAttention, causal=causal, window=window, d_attention=15), inputs()
    assert layer.out_proj.weight.shape == (12, 15)
    y = layer(x, lengths, BLOCKS)
    for i, length in enumerate(LENGTHS):
        blocks = BLOCKS[i].tolist()

        def seen(t, s, blocks):
            together = blocks[s] > 0 and blocks[t] == blocks[s]
            near = window is None or abs(t - s) < window or blocks[s] > 0
            return together or (near and (s <= t or not causal))

        parts = [
            projection(x[i, :length]).unflatten(-1, (3, 5)) for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
        ]
        rows = []
        for t in range(length):
            frames = [s for s in range(length) if seen(t, s, blocks)]
            weight = (torch.einsum("hc,khc->kh", parts[0][t], parts[1][frames]) / 5**0.5).softmax(0)
            rows.append(torch.einsum("kh,khc->hc", weight, parts[2][frames]).flatten())
        assert relative_error(y[i, :length], layer.out_proj(torch.stack(rows))) < 1e-12


@pytest.mark.parametrize("window", [1, 2, 4, 50])
def test_steps_with_a_window_have_a_cache_that_does_not_grow(window):
    layer, (x, lengths, _) = make(PrefixAttention, window=window), inputs()
    more = torch.randn(3, 7, 12, dtype=torch.float64)
    with torch.no_grad():
        _, state = layer(x, lengths, BLOCKS, return_state=True)
        shape = state["key"].shape
        assert shape[2] == 4 + window - 1
        pieces = []
        for x_t in more.unbind(1):
            y_t, state = layer.step(x_t, state)
            pieces.append(y_t)
            assert state["key"].shape == state["value"].shape == shape
        for i, length in enumerate(LENGTHS):
            whole = torch.cat([x[i, :length], more[i]])[None]
            blocks = torch.cat([BLOCKS[i, :length], torch.zeros(7, dtype=torch.long)])[None]
            expected = layer(whole, torch.tensor([length + 7]), blocks)[0, length:]
            assert relative_error(torch.stack([y[i] for y in pieces]), expected) < 1e-12


def test_a_window_that_shows_nothing():
    with pytest.raises(ValueError, match="The window of attention is 0, but a frame must see at least 1"):
        PrefixAttention(12, 3, window=0)


def test_attention_is_causal_by_default():
    layer, (x, lengths, prefixes) = make(PrefixAttention), inputs()
    y = layer(x, lengths, prefixes)
    assert relative_error(y[0], dense(layer, x[0], 3, lambda t, s, p: s <= t or max(s, t) < p)) < 1e-12


def test_cross_attention_is_a_softmax_over_the_prefix():
    layer, (x, _, prefixes) = make(PrefixCrossAttention), inputs()
    y = layer(x, prefixes, prefix_time=5)
    for i, prefix in enumerate(PREFIXES):
        assert relative_error(y[i], dense(layer, x[i], prefix, lambda t, s, p: s < p)) < 1e-12


def test_padding_reaches_no_gradient():
    layer, (x, lengths, prefixes) = make(PrefixAttention, causal=False), inputs()
    x.requires_grad_()
    layer(x, lengths, prefixes)[1, :6].sum().backward()
    assert x.grad[1, :6].all() and not x.grad[1, 6:].any() and not x.grad[::2].any()


@pytest.mark.parametrize("steps", [4, 300])
def test_steps_go_on_from_each_examples_end(steps):
    """Further than the room that a cache has at first, and than what it grows by."""
    layer, (x, lengths, prefixes) = make(PrefixAttention), inputs()
    more = torch.randn(3, steps, 12, dtype=torch.float64)
    with torch.no_grad():
        _, state = layer(x, lengths, prefixes, return_state=True)
        pieces = []
        for x_t in more.unbind(1):
            y_t, state = layer.step(x_t, state)
            pieces.append(y_t)
        for i, (length, prefix) in enumerate(zip(LENGTHS, PREFIXES)):
            whole = torch.cat([x[i, :length], more[i]])[None]
            expected = layer(whole, torch.tensor([length + steps]), torch.tensor([prefix]))[0, length:]
            assert relative_error(torch.stack([y[i] for y in pieces]), expected) < 1e-12


def test_cross_attention_step_by_step():
    layer, (x, _, prefixes) = make(PrefixCrossAttention), inputs()
    y, state = layer(x, prefixes, prefix_time=5, return_state=True)
    for t in range(9):
        y_t, state = layer.step(x[:, t], state)
        assert relative_error(y_t, y[:, t]) < 1e-12


@pytest.mark.parametrize("cls", [PrefixAttention, PrefixCrossAttention])
def test_dropout_in_training_alone(cls):
    """With one key per frame a weight is 1: it is kept and doubled, or dropped."""
    layer, x = make(cls, dropout=0.5), torch.randn(1, 1, 12, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.long)

    def values():
        y = layer(x, one, one) if cls is PrefixAttention else layer(x, one, 1)
        return torch.linalg.solve(layer.out_proj.weight, (y - layer.out_proj.bias)[0, 0]).unflatten(0, (3, 4))

    value = layer.v_proj(x).reshape(3, 4)
    kept = torch.stack([values() / value for _ in range(40)]).round(decimals=6)
    assert torch.equal(kept.unique(), torch.tensor([0.0, 2.0], dtype=torch.float64))
    assert torch.equal(kept[..., 0], kept[..., 3]) and 0.3 < kept.mean() / 2 < 0.7
    layer.eval()
    assert relative_error(values(), value) < 1e-9


def test_heads_that_do_not_divide_the_channels():
    for cls in (PrefixAttention, PrefixCrossAttention):
        with pytest.raises(ValueError, match="d_model is 12, which nhead, 5, does not divide"):
            cls(12, 5)
