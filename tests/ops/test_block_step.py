"""One step of a residual block as one operation: against the reference in float64, and what it leaves to others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from speechbrain_mamba.ops import FeedForwardPart, Linear, MixerPart, Norm
from speechbrain_mamba.ops.backends import cpu
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from speechbrain_mamba.ops.int8 import PackedWeight
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.test_int8 import needs_int8
from tests.ops.test_step import assert_near, step_inputs


def make_linear(outputs: int, inputs: int, bias: bool) -> Linear:
    return Linear(torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs) if bias else None)


def make_norm(kind: str | None, channels: int) -> Norm | None:
    if kind is None:
        return None
    bias = torch.randn(channels) if kind == "layer" else None
    return Norm(kind, 1e-5, torch.rand(channels) + 0.5, bias)


def make_case(
    batch=2, d_model=20, channels=24, state=4, rank=3, width=4, hidden=30, norm="layer", activation="gelu", bias=True,
    adds_input=True, parts="both",
) -> tuple:  # fmt: skip
    """Input, states and parts of a block."""
    mixer = network = states = None
    if parts != "network":
        _, conv, ssm, direction = step_inputs(batch, channels, state, rank, width, bias)
        in_proj, out_proj = make_linear(2 * channels, d_model, bias), make_linear(d_model, channels, bias)
        mixer = MixerPart(make_norm(norm, d_model), in_proj, direction, out_proj, adds_input)
        states = conv, ssm
    if parts != "mixer":
        first, last = make_linear(hidden, d_model, bias), make_linear(d_model, hidden, bias)
        network = FeedForwardPart(make_norm(norm, d_model), first, activation, last)
    return torch.randn(batch, d_model), states, mixer, network


def flattened(result: tuple) -> tuple:
    y, states = result
    return (y, *(states or ()))


def exact(x, states, mixer, network) -> tuple:
    """The step by the reference in float64."""
    x, states, mixer, network = mapped_parts(torch.Tensor.double, (x, states, mixer, network))
    with ops.use_backend("reference"):
        return flattened(ops.block_step(x, states, ops.pack_block(mixer, network)))


def mapped_parts(change, value):
    """A function on all tensors in nested tuples; weights of integers become what they stand for before."""
    if isinstance(value, PackedWeight):
        return change(value.integers.float() * value.scales[:, None])
    if isinstance(value, torch.Tensor):
        return change(value.float())
    if isinstance(value, tuple):
        parts = [mapped_parts(change, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def with_weights(change, part):
    """A part with other weights in its linear layers."""
    if part is None:
        return None
    fields = {name: value for name, value in part._asdict().items() if isinstance(value, Linear)}
    return part._replace(**{name: value._replace(weight=change(value.weight)) for name, value in fields.items()})


@st.composite
def cases(draw) -> tuple:
    torch.manual_seed(draw(st.integers(0, 1000)))
    number = st.integers(1, 40)
    return make_case(
        draw(st.integers(1, 9) | st.just(16)), draw(number | st.just(130)), draw(number), draw(st.integers(1, 20)),
        draw(st.integers(1, 20)), draw(st.integers(1, 5)), draw(number | st.just(70)),
        draw(st.sampled_from([None, "rms", "layer"])), draw(st.sampled_from([None, "relu", "gelu"])),
        draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from(["both", "both", "mixer", "network"])),
    )  # fmt: skip


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=cases())
def test_steps_agree_with_the_reference(name, case):
    x, states, mixer, network = case
    with instruction_set(name), torch.no_grad():
        block = ops.pack_block(mixer, network)
        assert block.packed is not None
        assert_near(flattened(ops.block_step(x, states, block)), exact(*case), 1e-5)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_are_multiplied_in_float32(name, dtype):
    torch.manual_seed(0)
    x, states, mixer, network = make_case(3, 37)
    mixer, network = (with_weights(lambda weight: weight.to(dtype), part) for part in (mixer, network))
    with instruction_set(name), torch.no_grad():
        block = ops.pack_block(mixer, network)
        results = flattened(ops.block_step(x, states, block))
    assert_near(results, exact(x, states, mixer, network), 1e-5)


@needs_int8
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_weights_of_integers(name, batch):
    torch.manual_seed(0)
    x, states, mixer, network = make_case(batch, 150, 70, hidden=200)
    mixer, network = (with_weights(PackedWeight, part) for part in (mixer, network))
    with instruction_set(name), torch.no_grad():
        block = ops.pack_block(mixer, network)
        results = flattened(ops.block_step(x, states, block))
        with ops.use_backend("reference"):
            composed = flattened(ops.block_step(x, states, block))
    # an input that rounds the other way moves an output by a hundredth of a weight
    assert_near(results, composed, 2e-3)
    assert_near(results, exact(x, states, mixer, network), 0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_the_convolution_keep_their_type(dtype):
    torch.manual_seed(0)
    x, (conv, ssm), mixer, network = make_case(3, channels=37, width=5)
    states = conv.to(dtype), ssm
    with torch.no_grad():
        y, after = ops.block_step(x, states, ops.pack_block(mixer, network))
    assert y.dtype == torch.float32 and [state.dtype for state in after] == [dtype, torch.float32]
    _, conv_after, ssm_after = exact(x, states, mixer, network)
    assert_near((after[0], after[1]), (conv_after, ssm_after), 1e-2)
    assert torch.equal(after[0][..., :-1], states[0][..., 1:])


def test_nothing_is_changed_in_place():
    torch.manual_seed(0)
    x, states, mixer, network = make_case()
    before = [tensor.clone() for tensor in (x, *states)]
    with torch.no_grad():
        ops.block_step(x, states, ops.pack_block(mixer, network))
    assert all(torch.equal(one, other) for one, other in zip((x, *states), before))


@pytest.fixture
def served(monkeypatch):
    """How often the kernel was called."""
    calls, kernel = [], cpu.packed_block_step
    monkeypatch.setattr(cpu, "packed_block_step", lambda *arguments: calls.append(1) or kernel(*arguments))
    return calls


def many_rows(x, states, block):
    y, after = ops.block_step(*mapped_parts(lambda t: torch.cat([t] * 9), (x, states)), block)
    return y[:2], tuple(state[:2] for state in after)


OTHERS = {
    "many rows": many_rows,
    "no rows": lambda x, states, block: ops.block_step(x[:0], tuple(s[:0] for s in states), block) and None,
    "float64": lambda x, states, block: ops.block_step(
        *mapped_parts(torch.Tensor.double, (x, states)), ops.pack_block(*mapped_parts(torch.Tensor.double, block[:2]))
    ),
    "vmap": lambda x, states, block: mapped_parts(
        lambda t: t[:, 0],
        torch.vmap(lambda *t: ops.block_step(t[0], t[1:], block))(*(t[:, None] for t in (x, *states))),
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_calls_are_composed(served, other):
    torch.manual_seed(0)
    x, states, mixer, network = make_case()
    with torch.no_grad(), ops.use_backend("reference" if other == "vmap" else "auto"):
        result = OTHERS[other](x, states, ops.pack_block(mixer, network))
    assert not served
    if result is not None:
        assert_near(flattened(result), exact(x, states, mixer, network), 1e-5)


def test_gradients_are_those_of_the_composition(served):
    torch.manual_seed(0)
    x, states, mixer, network = make_case()
    weight = mixer.in_proj.weight.requires_grad_()
    block = ops.pack_block(mixer, network)
    ops.block_step(x, states, block)[0].square().sum().backward()
    with torch.no_grad():
        ops.block_step(x, states, block)
    assert weight.grad.abs().sum() > 0 and len(served) == 1


def test_the_choice_of_a_backend_is_respected(served):
    x, states, mixer, network = make_case()
    block = ops.pack_block(mixer, network)
    with torch.no_grad():
        with ops.use_backend("reference"):
            ops.block_step(x, states, block)
            assert not served and ops.pack_block(mixer, network).packed is None
        with ops.use_backend("cpu"):
            ops.block_step(x, states, block)
    assert served


def test_the_default_device_does_not_matter():
    torch.manual_seed(0)
    x, states, mixer, network = make_case()
    with torch.no_grad(), torch.device("meta"):
        results = flattened(ops.block_step(x, states, ops.pack_block(mixer, network)))
    assert_near(results, exact(x, states, mixer, network), 1e-5)


def test_autocast_leaves_steps_in_float32(served):
    torch.manual_seed(0)
    x, states, mixer, network = make_case()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        results = flattened(ops.block_step(x, states, ops.pack_block(mixer, network)))
    assert_near(results, exact(x, states, mixer, network), 1e-5)
    assert served


WRONG = {
    "x": (lambda x, states, m, n: ops.block_step(x[:, :5], states, ops.pack_block(m, n)), r"x has shape \(2, 5\)"),
    "axes": (
        lambda x, states, m, n: ops.block_step(x[None], states, ops.pack_block(m, n)),
        r"must be \(batch, d_model\)",
    ),
    "no states": (
        lambda x, states, m, n: ops.block_step(x, None, ops.pack_block(m, n)),
        "states must be given exactly",
    ),
    "states": (
        lambda x, states, m, n: ops.block_step(x, (states[0], states[1][:1]), ops.pack_block(m, n)),
        "the scan's state has shape",
    ),
    "out_proj": (
        lambda x, states, m, n: ops.pack_block(m._replace(out_proj=m.in_proj), n),
        "the weight of out_proj has shape",
    ),
    "activation": (lambda x, states, m, n: ops.pack_block(m, n._replace(activation="tanh")), "activation is 'tanh'"),
    "norm": (
        lambda x, states, m, n: ops.pack_block(m, n._replace(norm=n.norm._replace(kind="group"))),
        "is 'group', but must be rms or layer",
    ),
    "norm's weight": (
        lambda x, states, m, n: ops.pack_block(m._replace(norm=Norm("rms", 1e-5, torch.ones(3))), n),
        r"parameter has shape \(3,\)",
    ),
    "nothing": (lambda x, states, m, n: ops.pack_block(None), "neither a mixer nor a feed-forward network"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_are_told(wrong):
    call, message = WRONG[wrong]
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        call(*make_case())
