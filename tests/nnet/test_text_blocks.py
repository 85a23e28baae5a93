"""Layers over text and speech in one sequence, against each example taken apart."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from speechbrain_mamba.nnet.attention import PrefixAttention, PrefixCrossAttention
from speechbrain_mamba.nnet.mamba import Mamba
from speechbrain_mamba.nnet.text_blocks import HiddenTextAttention, TextBidirectional, mark_blocks
from tests.errors import relative_error

ORDERS = [[1, 1, 1, 0, 0, 2, 2, 0, 0, 0], [2, 2, 0, 0, 0, 0, 0], [0, 0, 2, 0], [1, 2, 2, 2, 0, 0]]
"""Two texts and their speech; one text; speech before any text; an empty speech in between."""
LENGTHS = torch.tensor([len(order) for order in ORDERS])
BLOCKS = torch.tensor([order + [-1] * (10 - len(order)) for order in ORDERS])


def make(layer):
    torch.manual_seed(0)
    layer = layer.double()
    for name, parameter in layer.named_parameters():
        if not name.endswith("A_log"):
            nn.init.normal_(parameter, 0.1, 0.5)
    return layer


@pytest.fixture
def x():
    torch.manual_seed(1)
    x = torch.randn(4, 10, 8, dtype=torch.float64)
    x[BLOCKS < 0] = 0
    return x


def steps_go_on(layer, run, x):
    """The state after a sequence predicts what a longer sequence has."""
    more = torch.randn(4, 3, 8, dtype=torch.float64)
    _, state = run(x, BLOCKS, LENGTHS, return_state=True)
    for t in range(3):
        y, state = layer.step(more[:, t], state)
        for i, order in enumerate(ORDERS):
            whole = torch.cat([x[i, : len(order)], more[i, : t + 1]])[None]
            blocks = torch.tensor([order + [0] * (t + 1)])
            expected = run(whole, blocks, torch.tensor([whole.shape[1]]))[0, -1]
            assert relative_error(y[i], expected) < 1e-7


def test_text_bidirectional_runs_backwards_over_each_text(x):
    layer = make(TextBidirectional(Mamba(8), Mamba(8)))
    run = lambda x, blocks, lengths, **options: layer(x, lengths, blocks, **options)  # noqa: E731
    y = run(x, BLOCKS, LENGTHS)
    for i, order in enumerate(ORDERS):
        own = x[i : i + 1, : len(order)]
        expected = layer.mixer(own)
        for block in (1, 2):
            where = [t for t, mark in enumerate(order) if mark == block]
            if where:
                expected[:, where] += layer.reverse(own[:, where].flip(1)).flip(1)
        assert relative_error(y[i, : len(order)], expected[0]) < 1e-10
    steps_go_on(layer, run, x)


def test_hidden_attention_reads_the_texts_before(x):
    layer = make(HiddenTextAttention(8, d_state=6, headdim=4))
    run = lambda x, blocks, lengths, **options: layer(x, blocks, **options)  # noqa: E731
    y = run(x, BLOCKS, LENGTHS)
    for i, order in enumerate(ORDERS):
        state, frames = layer.reader.init_state(1), iter(range(len(order)))
        for mark, run_of in itertools.groupby(order):
            where = [next(frames) for _ in run_of]
            piece = x[i : i + 1, where]
            if mark:
                begin = state["memory_place"].expand(1, layer.reader.nheads)
                state = layer.reader.consume(piece, None, state) | {"target_place": begin}
            elif state["ssm"].any():
                expected, state = layer.reader(piece, state=state, return_state=True)
                assert relative_error(y[i, where], expected[0]) < 1e-7
            else:
                assert not y[i, where].any()
        assert not y[i, BLOCKS[i] != 0].any()
    steps_go_on(layer, run, x)


def test_attention_to_texts_sees_those_before_and_their_own(x):
    layer = make(PrefixCrossAttention(8, 2))
    run = lambda x, blocks, lengths, **options: layer(x, blocks, int((blocks > 0).sum(1).max()), **options)  # noqa: E731
    y = run(x, BLOCKS, LENGTHS)
    for i, order in enumerate(ORDERS):
        for t in range(len(order)):
            latest = max(order[: t + 1])
            known = [s for s, mark in enumerate(order) if 0 < mark <= latest]
            if not known:
                assert not y[i, t].any()
                continue
            query, (key, value) = layer.q_proj(x[i, t]), (proj(x[i, known]) for proj in (layer.k_proj, layer.v_proj))
            heads = [
                (q @ k.T / 2).softmax(0) @ v for q, k, v in zip(query.chunk(2), key.chunk(2, 1), value.chunk(2, 1))
            ]
            assert relative_error(y[i, t], layer.out_proj(torch.cat(heads))) < 1e-10
    steps_go_on(layer, run, x)


def test_blocks_of_one_text_are_a_prefix(x):
    lengths, prefix = torch.tensor([10, 7, 4, 6]), torch.tensor([3, 2, 1, 5])
    blocks = mark_blocks(prefix, lengths, 10)
    assert blocks[2].tolist() == [1, 0, 0, 0] + [-1] * 6
    for layer, inputs in ((PrefixCrossAttention(8, 2), (5,)), (PrefixAttention(8, 2), ())):
        layer = make(layer)
        given = (x, lengths) if isinstance(layer, PrefixAttention) else (x,)
        for i, length in enumerate(lengths):
            ours, theirs = layer(*given, blocks, *inputs)[i, :length], layer(*given, prefix, *inputs)[i, :length]
            assert relative_error(ours, theirs) < 1e-10
