"""Mixers by name: one contract for all, where attention goes, and sizes that do not depend on the kind."""

import pytest
import torch

from speechbrain_mamba.nnet.mixers import (
    BIDIRECTIONAL,
    MIXERS,
    TOLERANCE,
    attention_layers,
    build_mixer,
    count_parameters,
    plan_mixers,
)
from speechbrain_mamba.nnet.outer_bidirectional import OuterBidirectional

SMALL = {"mamba": {"d_state": 4}, "mamba2": {"d_state": 4, "headdim": 4}, "attention": {"nhead": 2}}
CAUSAL = [*MIXERS, "attention in a window"]
BOTH_WAYS = [*((kind, form) for kind in ("mamba", "mamba2") for form in BIDIRECTIONAL), ("attention", "inner")]


def make(kind, causal=True, **options):
    torch.manual_seed(0)
    name = kind.split()[0]
    window = {"window": 5} if "window" in kind else {}
    return build_mixer(name, 8, causal, **SMALL[name], **window, **options).double()


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("kind", CAUSAL)
def test_causal_mixers_have_one_contract(kind):
    """Padded batches, any split into pieces, steps, and a state with the batch first that is not changed."""
    layer, x, lengths = make(kind), noise(3, 20, 8), torch.tensor([20, 11, 0])
    whole, after = layer(x, lengths, return_state=True)
    for i, length in enumerate(lengths):
        torch.testing.assert_close(whole[i, :length], layer(x[i : i + 1, :length])[0])
        assert not whole[i, length:].any()
    assert all(value.shape[0] == 3 for value in after.values())
    state, parts = layer.init_state(3), []
    for piece in x[:, :12].split([7, 1, 4], 1):
        part, state = layer(piece, state=state, return_state=True)
        parts.append(part)
    for frame in x[:, 12:].unbind(1):
        before = {name: value.clone() for name, value in state.items()}
        part, new = layer.step(frame, state)
        assert all(torch.equal(value, before[name]) for name, value in state.items())
        parts, state = [*parts, part[:, None]], new
    torch.testing.assert_close(torch.cat(parts, 1)[0], whole[0])
    rest, _ = layer.step(x[:, 12], after)
    torch.testing.assert_close(rest[1:2], layer(torch.cat([x[1:2, :11], x[1:2, 12:13]], 1))[:, -1])


@pytest.mark.parametrize(("kind", "form"), BOTH_WAYS)
def test_mixers_that_see_both_ways(kind, form):
    layer, x = make(kind, False, bidirectional=form), noise(3, 20, 8)
    lengths = torch.tensor([20, 11, 0])
    for i, length in enumerate(lengths):
        x[i, length:] = float("nan")
    x.requires_grad_()
    y = layer(x, lengths)
    y.sum().backward()
    for i, length in enumerate(lengths):
        torch.testing.assert_close(y[i, :length], layer(x[i : i + 1, :length])[0])
        assert not y[i, length:].any() and not x.grad[i, length:].any()
    changed = x.detach().clone()
    changed[0, 15] += 1
    assert (layer(changed, lengths)[0] - y[0]).abs().amax(-1).gt(1e-9).all()  # all frames see frame 15


@pytest.mark.parametrize(("kind", "form"), BOTH_WAYS)
def test_chunked_mixers_see_the_past_and_their_chunk(kind, form):
    layer, x = make(kind, False, bidirectional=form, chunked=True), noise(2, 18, 8)
    lengths = torch.tensor([18, 13])
    whole = layer(x, lengths, chunk_size=4)
    state, parts = None, []
    for piece in x.split([8, 4, 6], 1):
        part, state = layer(piece, state=state, return_state=True, chunk_size=4)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1)[0], whole[0])
    torch.testing.assert_close(layer(x[1:, :13], chunk_size=4)[0], whole[1, :13])
    changed = x.clone()
    changed[:, 9] += 1
    moved = (layer(changed, chunk_size=4) - layer(x, chunk_size=4)).abs().amax((0, 2)) > 1e-9
    assert moved.tolist() == [False] * 8 + [True] * 10
    torch.testing.assert_close(layer(x, chunk_size=32), layer(x))


@pytest.mark.parametrize(("kind", "form"), BOTH_WAYS)
def test_a_chunked_mixer_has_the_weights_of_one_that_is_not(kind, form):
    chunked, plain = (make(kind, False, bidirectional=form, chunked=flag) for flag in (True, False))
    assert chunked.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(chunked(x := noise(2, 9, 8)), plain(x))


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_outer_forms_are_two_layers(kind):
    added, projected = (make(kind, False, bidirectional=form) for form in ("outer", "outer_concat"))
    assert parameters(added) == 2 * parameters(make(kind)) == parameters(projected) - 2 * 8 * 8
    x = noise(2, 9, 8)
    expected = added.forward_mixer(x) + added.reverse_mixer(x.flip(1)).flip(1)
    torch.testing.assert_close(added(x), expected)
    both = torch.cat([projected.forward_mixer(x), projected.reverse_mixer(x.flip(1)).flip(1)], -1)
    torch.testing.assert_close(projected(x), both @ projected.merge_proj.weight.T)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, ()),
        ([], ()),
        ([3, 0, 3], (0, 3)),
        ("low", (0, 1)),
        ("high", (6, 7)),
        ("spread", (2, 6)),
        ("low 3", (0, 1, 2)),
        ("high 8", tuple(range(8))),
        ("spread 4", (1, 3, 5, 7)),
        ("every 3", (2, 5)),
        ("every 1", tuple(range(8))),
        ("every 9", ()),
    ],
)
def test_layers_that_attend(spec, expected):
    assert attention_layers(spec, 8) == expected


@pytest.mark.parametrize(
    "spec", ["middle", "low 0", "low 9", "every", "every x", "every 0", "", [8], [-1], [1.5], 3, {"low": 1}, "1 2 3"]
)
def test_bad_layers_are_named(spec):
    with pytest.raises(ValueError, match=r"attention_layers is .* from 0 to 7 .* 'every 4'"):
        attention_layers(spec, 8)


def test_a_few_layers_have_all_places_too():
    assert [attention_layers("low", count) for count in (1, 2, 5, 6)] == [(0,), (0,), (0,), (0, 1)]
    assert attention_layers("spread", 1) == attention_layers("high", 1) == (0,)


@pytest.mark.parametrize("d_model", [32, 64, 144, 1024])
@pytest.mark.parametrize("causal", [True, False])
def test_mixers_of_all_kinds_have_one_size(d_model, causal):
    config = {"d_state": 16, "expand": 2, "d_conv": 4}
    for kind in MIXERS:
        for form in BIDIRECTIONAL[: 1 if causal or kind == "attention" else 3]:
            plan = plan_mixers(1, d_model, causal, mixer=kind, bidirectional=form, mamba_config=config)
            size = count_parameters(plan.build, 0)
            assert abs(size / plan.budget - 1) < TOLERANCE, (kind, form, size, plan.budget)
            assert plan.parameters[kind] == size
    reference = plan_mixers(1, d_model, causal, mixer="mamba", mamba_config=config)
    assert reference.options["mamba"] == config


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
@pytest.mark.parametrize("causal", [True, False])
def test_mixers_get_the_size_of_attention(kind, causal):
    plan = plan_mixers(2, 128, causal, mixer=kind, reference="attention", attention={"nhead": 4})
    assert plan.budget == 4 * (128 * 128 + 128)
    assert abs(count_parameters(plan.build, 0) / plan.budget - 1) < TOLERANCE


@pytest.mark.parametrize(("d_model", "form", "states"), [(128, "inner", 64), (128, "outer", 16), (512, "outer", 64)])
def test_the_states_of_a_small_layer_leave_something_to_its_width(d_model, form, states):
    plan = plan_mixers(1, d_model, False, mixer="mamba2", bidirectional=form, reference="attention")
    assert plan.options["mamba2"]["d_state"] == states and plan.options["mamba2"]["expand"] >= 0.5
    assert abs(plan.parameters["mamba2"] / plan.budget - 1) < TOLERANCE


def test_widths_and_options_that_are_given_stay():
    given = {"mamba2": {"expand": 1, "headdim": 16, "d_state": 8}, "attention": {"nhead": 4, "d_attention": 32}}
    plan = plan_mixers(2, 64, mixer="mamba2", attention_layers=[1], attention_window=9, mixer_config=given)
    first, second = plan.build(0), plan.build(1)
    assert (first.d_inner, first.headdim, first.d_state) == (64, 16, 8)
    assert (second.nhead, second.q_proj.out_features, second.window) == (4, 32, 9)
    plan = plan_mixers(1, 64, mixer="mamba2", mamba_config={"d_conv": 3, "dt_rank": 2}, attention={"nhead": 4})
    assert (plan.build(0).d_conv, plan.build(0).d_state) == (3, 64)
    outer = plan_mixers(1, 64, False, bidirectional="outer", mixer_config={"mamba": {"expand": 2}}).build(0)
    assert isinstance(outer, OuterBidirectional) and outer.forward_mixer.d_inner == 128
    heads = plan_mixers(1, 64, mixer="attention", attention={"nhead": 4}, mixer_config={"attention": {"nhead": 2}})
    assert heads.build(0).nhead == 2


def test_a_plan_says_what_it_has():
    text = plan_mixers(4, 64, attention_layers="high").describe()
    assert text.startswith("3 x mamba (layers 0, 1, 2) of 32,640 parameters, +0.0%; 1 x attention (layers 3) of 32,")


def test_planning_draws_no_random_numbers():
    before = torch.random.get_rng_state()
    plan_mixers(4, 64, mixer="mamba2", attention_layers="spread")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "mamba3"}, "mixer is 'mamba3', but must be one of mamba, mamba2, attention"),
        ({"bidirectional": "both"}, "bidirectional is 'both', but must be one of inner, outer, outer_concat"),
        ({"attention_window": 4}, "attention_window is 4, but no layer attends"),
        ({"mixer_config": {"mamba4": {}}}, "A key of mixer_config is 'mamba4'"),
        ({"mixer_config": {"mamba2": {"head_dim": 4}}}, "'head_dim' for mamba2.* did you mean 'headdim'"),
        ({"mixer": "mamba2", "mixer_config": {"mamba2": {"d_state": 4096}}}, "no width comes nearer: give expand"),
    ],
)
def test_bad_choices_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        plan_mixers(2, 16, **options)
