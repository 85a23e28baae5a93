"""Layers that read a memory: what they compute, written out; padding; step by step against all at once."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechbrain_mamba.nnet.cross_mamba import CROSS_KINDS, build_cross, consume
from speechbrain_mamba.nnet.hidden_attention import HiddenAttention
from speechbrain_mamba.nnet.interleaving import Interleaved, places_of_tokens
from speechbrain_mamba.nnet.mamba import Mamba
from speechbrain_mamba.nnet.mamba2 import Mamba2
from speechbrain_mamba.nnet.outer_bidirectional import reverse_frames
from tests.errors import relative_error

D_MODEL = 8
MIXERS = {
    "mamba": partial(Mamba, D_MODEL, **{"d_state": 4}),
    "mamba2": partial(Mamba2, D_MODEL, **{"d_state": 4, "headdim": 4}),
}
MEMORY, TARGETS = [9, 4, 0], [5, 2, 6]
PLACES = torch.tensor([[1, 1, 6, 7], [3, 4, 4, 4], [0, 0, 0, 0]])
"""Fewer than targets: the last ones come after all of the memory."""


def make(kind, mixer="mamba", **options):
    torch.manual_seed(0)
    if kind == "hidden_attention":
        options = {"d_state": 6, "headdim": 4, **options}
    layer = build_cross(kind, D_MODEL, MIXERS[mixer], nhead=2, **options).double()
    for name, parameter in layer.named_parameters():  # away from zeros and equal values
        if not name.endswith("A_log"):
            nn.init.normal_(parameter, 0.2, 0.5)
    return layer


CASES = [
    *((kind, mixer, {}) for kind in ("concat", "prefix_bidirectional", "interleaved") for mixer in MIXERS),
    ("attention", "mamba", {}),
    ("attention", "mamba", {"positions": True, "d_key": 6}),
    ("hidden_attention", "mamba", {}),
    ("hidden_attention", "mamba", {"positions": False, "expand": 2}),
]


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0], case[1], *case[2]]))
def layer(request):
    kind, mixer, options = request.param
    return make(kind, mixer, **options)


def inputs(fill=0.0):
    """Memory and targets with a value in their padding."""
    torch.manual_seed(1)
    memory, targets = (torch.randn(3, max(n), D_MODEL, dtype=torch.float64) for n in (MEMORY, TARGETS))
    for i in range(3):
        memory[i, MEMORY[i] :] = fill
        targets[i, TARGETS[i] :] = fill
    return memory, targets


def read(layer, memory, lengths):
    return consume(layer, memory, lengths, PLACES if isinstance(layer, Interleaved) else None)


def alone(layer, i, memory, targets):
    """One example without padding."""
    places = PLACES[i : i + 1] if isinstance(layer, Interleaved) else None
    return layer(targets[i : i + 1, : TARGETS[i]], state=consume(layer, memory[i : i + 1, : MEMORY[i]], None, places))


def test_padding_changes_nothing(layer):
    """Outputs and gradients of a batch, with NaN in its padding, are those of each example alone."""
    memory, targets = (x.requires_grad_() for x in inputs(math.nan))
    weight = torch.randn_like(targets)
    y = layer(targets, torch.tensor(TARGETS), state=read(layer, memory, torch.tensor(MEMORY)))
    singles = [alone(layer, i, memory, targets)[0] for i in range(3)]
    for i, single in enumerate(singles):
        assert relative_error(y[i, : TARGETS[i]], single) < 1e-10
        assert not y[i, TARGETS[i] :].any()
    wanted = [memory, targets, *layer.parameters()]
    ours = torch.autograd.grad((y * weight).sum(), wanted, materialize_grads=True)
    loss = sum((single * weight[i, : TARGETS[i]]).sum() for i, single in enumerate(singles))
    for got, expected in zip(ours, torch.autograd.grad(loss, wanted, materialize_grads=True)):
        assert relative_error(got, expected) < 1e-9 or max(got.abs().max(), expected.abs().max()) < 1e-12


def test_targets_read_the_memory(layer):
    memory, targets = inputs()
    y = layer(targets, state=read(layer, memory, torch.tensor(MEMORY)))
    memory[:2, 3] += 1  # after the place of the first target of the first example
    changed = layer(targets, state=read(layer, memory, torch.tensor(MEMORY)))
    first = 2 if isinstance(layer, Interleaved) else 0
    assert ((changed - y).abs().amax(2)[0, first : first + 2] > 1e-6).all()
    assert not (changed - y)[0, :first].any() and not (changed - y)[2].any()


def test_steps_equal_all_at_once(layer):
    memory, targets = inputs()
    start = read(layer, memory, torch.tensor(MEMORY))
    expected, after = layer(targets, state=start, return_state=True)
    state = start
    for t in range(targets.shape[1]):
        y, state = layer.step(targets[:, t], state)
        assert relative_error(y, expected[:, t]) < 1e-10
    for part in (state, after):
        more, _ = layer.step(targets[:, 0], part)
        assert relative_error(more, layer(torch.cat([targets, targets[:, :1]], 1), state=start)[:, -1]) < 1e-10


def test_targets_in_pieces_of_their_own_lengths(layer):
    """The state after a padded piece is that after each example's last target."""
    memory, targets = inputs()
    start = read(layer, memory, torch.tensor(MEMORY))
    lengths = torch.tensor([3, 0, 1])
    _, state = layer(targets[:, :3], lengths, state=start, return_state=True)
    rest = layer(targets[:, 3:], state=state)
    for i, length in enumerate(lengths.tolist()):
        whole = torch.cat([targets[i, :length], targets[i, 3:]])[None]
        expected = layer(whole.expand(3, -1, -1), state=start)[i, length:]
        assert relative_error(rest[i], expected) < 1e-10


def test_states_are_left_as_they_are_and_can_be_reordered(layer):
    memory, targets = inputs()
    state = read(layer, memory, torch.tensor(MEMORY))

    def reorder(part, index):
        return (
            {k: reorder(v, index) for k, v in part.items()} if isinstance(part, dict) else part.index_select(0, index)
        )

    index = torch.tensor([2, 0, 0, 1])
    for t in range(3):
        y, after = layer.step(targets[:, t], state)
        again, _ = layer.step(targets[index, t], reorder(state, index))
        assert relative_error(again, y[index]) < 1e-12
        repeated, _ = layer.step(targets[:, t], state)
        assert torch.equal(repeated, y)
        state = after


@pytest.mark.parametrize("mixer", MIXERS)
def test_prefix_bidirectional_written_out(mixer):
    layer = make("prefix_bidirectional", mixer)
    memory, targets = inputs()
    y = layer(targets, state=consume(layer, memory, torch.tensor(MEMORY)))
    for i, length in enumerate(MEMORY):
        known = memory[i : i + 1, :length]
        both = known + layer.reverse(known.flip(1)).flip(1)
        expected = layer.mixer(torch.cat([both, targets[i : i + 1]], 1))[:, length:]
        assert relative_error(y[i : i + 1], expected) < 1e-10


@pytest.mark.parametrize("mixer", MIXERS)
def test_interleaved_written_out(mixer):
    layer = make("interleaved", mixer)
    memory, targets = inputs()
    y = layer(targets, state=read(layer, memory, torch.tensor(MEMORY)))
    for i in range(3):
        order, places = [], [*PLACES[i].tolist(), *[MEMORY[i]] * 9]
        for t in range(targets.shape[1]):
            frames = range(places[t - 1] if t else 0, places[t])
            order += [(False, frame) for frame in frames] + [(True, t)]
        merged = torch.stack([(targets if target else memory)[i, at] for target, at in order])
        expected = layer.mixer(merged[None])[0, [target for target, _ in order]]
        assert relative_error(y[i], expected) < 1e-10


def turned(x, place, frequencies):
    """The pairs of channels of a vector as complex numbers, rotated by a place."""
    pairs = torch.complex(*x.chunk(2)) * torch.polar(torch.ones_like(frequencies), frequencies * place)
    return torch.cat([pairs.real, pairs.imag])


def advanced(layer, frames):
    """The places of frames (time, paces), summed up one by one."""
    places, place = [], torch.zeros(layer.out_features, dtype=torch.float64)
    for frame in frames:
        place = place + F.softplus(layer.weight @ frame + layer.bias)
        places.append(place)
    return places


@pytest.mark.parametrize("options", [{}, {"d_key": 3}, {"positions": True}, {"positions": True, "d_key": 6}])
def test_attention_written_out(options):
    layer = make("attention", **options)
    memory, targets = inputs()
    y = layer(targets, state=consume(layer, memory, torch.tensor(MEMORY)))
    d_key = options.get("d_key", 4)
    for i, length in enumerate(MEMORY[:2]):
        query, key = layer.q_proj(targets[i]).unflatten(1, (2, d_key)), layer.k_proj(memory[i]).unflatten(1, (2, d_key))
        value = layer.v_proj(memory[i, :length]).unflatten(1, (2, 4))
        if options.get("positions"):
            places = [advanced(layer.memory_advance, memory[i]), advanced(layer.target_advance, targets[i])]
            for t in range(targets.shape[1]):
                for head in range(2):
                    query[t, head] = turned(query[t, head].clone(), places[1][t][head], layer.frequencies)
            for j in range(length):
                for head in range(2):
                    key[j, head] = turned(key[j, head].clone(), places[0][j][0], layer.frequencies)
        for t in range(targets.shape[1]):
            heads = []
            for head in range(2):
                weights = (key[:length, head] @ query[t, head] / d_key**0.5).softmax(0)
                heads.append(weights @ value[:, head])
            assert relative_error(y[i, t], layer.out_proj(torch.cat(heads))) < 1e-10
    assert not y[2].any()  # nothing to attend to


def test_readers_with_places_know_the_same_at_first():
    """Attention and hidden attention: how frames advance, and which distances they tell apart."""
    torch.manual_seed(0)
    attention = build_cross("attention", D_MODEL, MIXERS["mamba"], nhead=2, positions=True, d_key=64)
    hidden = build_cross("hidden_attention", D_MODEL, MIXERS["mamba"], headdim=4, d_state=64)
    assert torch.equal(attention.frequencies, hidden.frequencies)
    for layer in (attention, hidden):
        assert [one.out_features for one in (layer.memory_advance, layer.target_advance)] == [1, 2]
        assert torch.allclose(layer.memory_advance(torch.randn(1, 3, D_MODEL), torch.zeros(1, 1))[1], torch.tensor(3.0))
        paces = F.softplus(layer.target_advance.bias)
        assert ((paces > 0.099) & (paces < 1.01)).all()
    # with no content the nearest place has the largest weight, whichever it is
    with torch.no_grad():
        attention.q_proj.weight.zero_()
        attention.k_proj.weight.zero_()
        attention.target_advance.weight.zero_()
        attention.target_advance.bias.fill_(math.log(math.expm1(2.0)))
        attention.v_proj.weight.copy_(torch.eye(D_MODEL))
        attention.out_proj.weight.copy_(torch.eye(D_MODEL))
        for name in ("v_proj", "out_proj"):
            getattr(attention, name).bias.zero_()
        memory = F.one_hot(torch.arange(D_MODEL), D_MODEL).float()[None]
        y = attention(torch.zeros(1, 4, D_MODEL), state=attention.consume(memory))
    assert y[0].argmax(1).tolist() == [1, 3, 5, 7]  # of places 1 to 8, targets are at 2, 4, 6 and 8


@pytest.mark.parametrize("positions", [True, False])
def test_hidden_attention_written_out(positions):
    """A loop over the memory, then a loop over the targets."""
    layer = make("hidden_attention", positions=positions)
    memory, targets = inputs()
    y = layer(targets, state=consume(layer, memory, torch.tensor(MEMORY)))
    heads, states, inner = layer.nheads, layer.d_state, layer.d_inner

    for i, length in enumerate(MEMORY):
        H = torch.zeros(heads, 4, states, dtype=torch.float64)
        inputs_of = [layer.memory_proj(memory[i, j])[: layer.conv_dim] for j in range(length)]
        for j in range(length):
            mixed = layer.conv1d.bias.clone()
            for k in range(4):
                if j - k >= 0:
                    mixed = mixed + layer.conv1d.weight[:, 0, 3 - k] * inputs_of[j - k]
            x, B = F.silu(mixed).split([inner, states])
            step = F.softplus(layer.memory_proj(memory[i, j])[layer.conv_dim :] + layer.dt_bias)
            if positions:
                place = advanced(layer.memory_advance, memory[i, : j + 1])[-1][0]
                B = turned(B, place, layer.frequencies)
            decay = torch.exp(-step * layer.A_log.exp())
            H = decay[:, None, None] * H + step[:, None, None] * x.view(heads, 4, 1) * B
        for t in range(targets.shape[1]):
            gate, C = layer.target_proj(targets[i, t]).split([inner, heads * states])
            C = C.view(heads, states)
            if positions:
                places = advanced(layer.target_advance, targets[i, : t + 1])[-1]
                C = torch.stack([turned(C[h], places[h], layer.frequencies) for h in range(heads)])
            read_out = (H @ C[..., None]).flatten() * F.silu(gate)
            normal = read_out * (read_out.square().mean() + 1e-5).rsqrt() * layer.norm.weight
            assert relative_error(y[i, t], layer.out_proj(normal)) < 1e-7  # the norm is in float32


@pytest.mark.parametrize("positions", [True, False])
def test_hidden_attention_reads_a_memory_in_pieces(positions):
    layer = make("hidden_attention", positions=positions)
    memory, targets = inputs()
    whole = consume(layer, memory, torch.tensor(MEMORY))
    pieces = layer.consume(memory[:, :3], torch.tensor([3, 3, 0]))
    pieces = layer.consume(memory[:, 3:], torch.tensor([6, 1, 0]), pieces)
    assert relative_error(layer(targets, state=pieces), layer(targets, state=whole)) < 1e-7


def test_frames_are_flipped_within_their_lengths():
    x = torch.arange(1, 7).view(2, 3, 1)
    assert reverse_frames(x, torch.tensor([3, 2]))[..., 0].tolist() == [[3, 2, 1], [5, 4, 0]]
    assert reverse_frames(x)[..., 0].tolist() == [[3, 2, 1], [6, 5, 4]]


def test_places_follow_the_beginnings_of_tokens():
    path = torch.tensor([[3, 3, 0, 3, 4, 0, 0, 9], [0, 0, 0, 0, 0, 0, 0, 0], [0, 5, 0, 0, 6, 6, 0, 7]])
    places = places_of_tokens(path, 0, torch.tensor([8, 8, 6], dtype=torch.int32))
    assert places.tolist() == [[3, 4, 7, 8], [8, 8, 8, 8], [4, 6, 6, 6]]
    assert places_of_tokens(path[1:2], 0, torch.tensor([8])).shape == (1, 0)


@pytest.mark.parametrize("kind, mixer, options", [case for case in CASES if case[0] != "attention"])
def test_mimetic_initialization(kind, mixer, options):
    """A state that forgets little, in which inputs find their like: C is B."""
    torch.manual_seed(0)
    sizes = {"d_state": 32, "headdim": 4} if kind == "hidden_attention" else {}
    plain, layer = (
        build_cross(kind, D_MODEL, MIXERS[mixer], init=init, **sizes, **options) for init in ("default", "mimetic")
    )
    names = [(name, p.shape) for name, p in layer.named_parameters()]
    assert names == [(name, p.shape) for name, p in plain.named_parameters()]
    rates = [p.exp() for name, p in layer.named_parameters() if name.endswith("A_log")]
    assert rates and all(rate.max() <= 0.11 for rate in rates)
    for name, parameter in layer.named_parameters():
        if name.endswith(("dt_bias", "dt_proj.bias")):
            assert torch.allclose(F.softplus(parameter), torch.ones(()))
    for part in layer.modules():  # keys and queries of the same input are the same
        if isinstance(part, Mamba):
            B, C = part.x_proj.weight[part.dt_rank :].chunk(2)
        elif isinstance(part, Mamba2):
            rows = part.in_proj.weight[: -part.nheads]
            B, C = rows[-2 * part.d_state : -part.d_state], rows[-part.d_state :]
            assert not part.in_proj.weight[-part.nheads :].any()
            filters = part.conv1d.weight
            assert torch.equal(filters[-2 * part.d_state : -part.d_state], filters[-part.d_state :])
        elif isinstance(part, HiddenAttention):
            B = part.memory_proj.weight[part.d_inner : part.conv_dim].repeat(part.nheads, 1)
            C = part.target_proj.weight[part.d_inner :]
        else:
            continue
        assert torch.equal(B, C) and B.any()


@pytest.mark.parametrize("kind", ["concat", "prefix_bidirectional", "interleaved"])
def test_options_reach_the_mixers(kind):
    layer = build_cross(kind, D_MODEL, MIXERS["mamba"], d_state=7)
    assert {m.d_state for m in layer.modules() if isinstance(m, Mamba)} == {7}


@pytest.mark.parametrize(
    "options, words",
    [
        ({"kind": "gated"}, "cross is 'gated', but must be one of concat, attention"),
        ({"kind": "concat", "init": "zeros"}, "init of cross is 'zeros'"),
        ({"kind": "attention", "init": "mimetic"}, "no states to initialize"),
        ({"kind": "attention", "d_state": 4}, "takes nhead, positions and d_key, but d_state is given"),
        ({"kind": "attention", "positions": True, "d_key": 5}, "d_key, .*, is 5, but must be an even number"),
        ({"kind": "attention", "d_key": 0}, "is 0, but must be at least 1"),
        ({"kind": "attention", "nhead": 8, "positions": True}, "is 1, but must be an even number"),
        ({"kind": "attention", "nhead": 3}, "d_model is 8, which nhead, 3, does not divide"),
        ({"kind": "hidden_attention", "d_state": 5, "headdim": 4}, "d_state is 5, but must be an even number"),
        ({"kind": "hidden_attention", "headdim": 3}, "do not divide into heads of headdim = 3"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(ValueError, match=words):
        build_cross(options.pop("kind"), D_MODEL, MIXERS["mamba"], **options)


def test_interleaved_needs_places():
    with pytest.raises(ValueError, match="give places"):
        consume(make("interleaved"), torch.randn(1, 3, D_MODEL).double())


def test_all_kinds_are_tested():
    assert {case[0] for case in CASES} == set(CROSS_KINDS)
