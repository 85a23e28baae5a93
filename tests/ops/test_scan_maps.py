"""Maps B and C in groups and constant over time, against the recurrence written out for each channel."""

import pytest
import torch
import torch.nn.functional as F

from speechbrain_mamba.ops import selective_scan, selective_state_update, use_backend

BATCH, TIME, CHANNELS, STATES = 2, 7, 6, 3


def by_channel(t, frames):
    """A map as (batch, time, channels, state), or without time, in float64."""
    if t.dim() == 2 and len(frames) == 2:  # constant over time
        return t.expand(*frames, CHANNELS, STATES)
    return (t[..., None, :] if t.dim() == len(frames) + 1 else t).repeat_interleave(
        CHANNELS // (t.shape[-2] if t.dim() == len(frames) + 2 else 1), -2
    )


def recurrence(u, delta, A, B, C, D=None, z=None, delta_bias=None, initial_state=None):
    B, C = (by_channel(t, u.shape[:2]) for t in (B, C))
    step = F.softplus(delta if delta_bias is None else delta + delta_bias)
    state = torch.zeros_like(A).expand(len(u), -1, -1) if initial_state is None else initial_state
    ys = []
    for t in range(u.shape[1]):
        state = torch.exp(step[:, t, :, None] * A) * state + (step[:, t] * u[:, t])[..., None] * B[:, t]
        ys.append((state * C[:, t]).sum(-1))
    y = torch.stack(ys, 1)
    y = y if D is None else y + D * u
    return (y if z is None else y * F.silu(z)), state


def draw(B, C, extras=True):
    """Inputs by name; maps as ``shared``, ``constant`` or a number of groups."""

    def one(kind):
        if kind == "constant":
            return torch.randn(CHANNELS, STATES)
        return torch.randn(BATCH, TIME, *(() if kind == "shared" else (kind,)), STATES)

    inputs = {
        "u": torch.randn(BATCH, TIME, CHANNELS),
        "delta": torch.randn(BATCH, TIME, CHANNELS),
        "A": -torch.rand(CHANNELS, STATES),
        "B": one(B),
        "C": one(C),
    }
    if extras:
        inputs |= {
            "D": torch.randn(CHANNELS),
            "z": torch.randn(BATCH, TIME, CHANNELS),
            "delta_bias": torch.randn(CHANNELS),
            "initial_state": torch.randn(BATCH, CHANNELS, STATES),
        }
    return inputs


def run(function, inputs, dtype):
    leaves = {name: t.to(dtype, copy=True).requires_grad_() for name, t in inputs.items()}
    outputs = function(**leaves)
    torch.manual_seed(1)
    sum((y * torch.randn(y.shape, dtype=torch.float64)).sum() for y in outputs).backward()
    return {"y": outputs[0], "state": outputs[1]} | {name: t.grad for name, t in leaves.items()}


def check_equal(found, expected, tolerance=2e-6):
    for name, value in expected.items():
        error = (found[name].double() - value).abs().max() / value.abs().max().clamp(min=1)
        assert error < tolerance, f"{name} is off by {error:.1e}"


KINDS = ["shared", "constant", 1, 3]


@pytest.mark.parametrize("extras", [True, False])
@pytest.mark.parametrize("C", KINDS)
@pytest.mark.parametrize("B", KINDS)
def test_outputs_and_gradients_are_those_of_the_recurrence(B, C, extras):
    torch.manual_seed(0)
    inputs = draw(B, C, extras)
    found = run(lambda **k: selective_scan(**k, delta_softplus=True, return_last_state=True), inputs, torch.float32)
    check_equal(found, run(recurrence, inputs, torch.float64))


@pytest.mark.parametrize("C", ["constant", 2])
@pytest.mark.parametrize("B", ["constant", 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_changes_nothing(B, C, reverse):
    torch.manual_seed(0)
    inputs, lengths = draw(B, C), torch.tensor([4, TIME])
    padded = {n: t.clone() for n, t in inputs.items()}
    over_time = [name for name, t in inputs.items() if t.dim() > 2 and name != "initial_state"]
    for name in over_time:
        padded[name][0, 4:] = torch.nan

    def of_batch(**tensors):
        y, state = selective_scan(
            **tensors, delta_softplus=True, return_last_state=True, lengths=lengths, reverse=reverse
        )
        assert not y[0, 4:].any()
        return y[0, :4], state[0]

    def alone(**tensors):
        valid = {n: t[:1, :4] for n, t in tensors.items() if n in over_time}
        valid = {n: t.flip(1) if reverse else t for n, t in valid.items()}
        y, state = recurrence(**tensors | valid | {"initial_state": tensors["initial_state"][:1]})
        return (y.flip(1) if reverse else y)[0], state[0]

    found, expected = run(of_batch, padded, torch.float32), run(alone, inputs, torch.float64)
    check_equal({n: found[n] for n in expected}, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_types_are_kept(dtype):
    torch.manual_seed(0)
    inputs = draw("constant", 2, extras=False)
    y, state = selective_scan(**{n: t.to(dtype) for n, t in inputs.items()}, return_last_state=True)
    assert y.dtype == dtype
    assert state.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_constant_maps_keep_no_tensor_per_state():
    torch.manual_seed(0)
    u, delta = torch.randn(2, 1, 50, 8).unbind()
    A, B, C = -torch.rand(8, 16), torch.randn(8, 16).requires_grad_(), torch.randn(8, 16)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        selective_scan(u, delta, A, B, C, delta_softplus=True)
    assert {t.data_ptr() for t in saved if t.numel() >= u.numel()} <= {u.data_ptr(), delta.data_ptr()}


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_step_with_groups_is_that_of_the_recurrence(groups):
    torch.manual_seed(0)
    state, u, delta = torch.randn(BATCH, CHANNELS, STATES), *torch.randn(2, BATCH, CHANNELS).unbind()
    A, D, bias, z = -torch.rand(CHANNELS, STATES), *torch.randn(2, CHANNELS).unbind(), torch.randn(BATCH, CHANNELS)
    B, C = torch.randn(2, BATCH, groups, STATES).unbind()
    y, after = selective_state_update(state, u, delta, A, B, C, D, z, bias, True)
    u, delta, B, C, z = (t[:, None] for t in (u, delta, B, C, z))
    expected = recurrence(*(t.double() for t in (u, delta, A, B, C, D, z, bias, state)))
    check_equal({"y": y[:, None], "state": after}, {"y": expected[0], "state": expected[1]})


def test_the_chosen_backend_serves_the_parts():
    inputs = draw(2, "constant")
    with pytest.raises(ValueError, match="'cpu' cannot serve"), use_backend("cpu"):
        selective_scan(**{n: t.double() for n, t in inputs.items()})


def test_the_backward_pass_keeps_the_backend():
    torch.manual_seed(0)
    inputs = {n: t.requires_grad_() for n, t in draw("constant", "shared").items()}
    with use_backend("reference"):
        y = selective_scan(**inputs)
    y.sum().backward()
    assert inputs["A"].grad.any()


def test_maps_that_do_not_fit_are_named():
    inputs = draw(3, 2)
    with pytest.raises(ValueError, match="B has 3 groups and C has 2, but they must have as many"):
        selective_scan(**inputs)
    with pytest.raises(ValueError, match="B has 4 groups, but 6 channels must divide"):
        selective_scan(**draw(4, "shared"))
    with pytest.raises(ValueError, match=r"C has shape .* but must be \(channels, state\) = \(6, 3\)"):
        selective_scan(**draw(3, 3) | {"C": torch.zeros(5, 3)})
    with pytest.raises(TypeError, match=r"A is complex .* only real A is served"):
        selective_scan(**draw("shared", "shared") | {"A": torch.zeros(CHANNELS, STATES, dtype=torch.complex64)})
