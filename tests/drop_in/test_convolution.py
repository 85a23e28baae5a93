import pytest
import torch

from speechbrain_mamba.drop_in import convolution as served
from speechbrain_mamba.drop_in.state_update import selective_state_update, selective_state_update_ref
from tests.drop_in import formulas


def test_the_convolution_takes_states_and_memory_for_them():
    torch.manual_seed(0)
    x, weight, bias, before = torch.randn(2, 4, 6), torch.randn(4, 3), torch.randn(4), torch.randn(2, 4, 2)

    def ours(x, weight, bias, before):
        return served.causal_conv1d_fn(
            x, weight, bias, initial_states=before, return_final_states=True, activation="silu"
        )

    def formula(x, weight, bias, before):
        return formulas.convolve(x, weight, bias, True, before), x[..., -2:]

    formulas.check(ours, formula, x, weight, bias, before)
    memory = torch.empty(2, 4, 2)
    _, last = served.causal_conv1d_ref(
        x[..., :1], weight, initial_states=before, return_final_states=True, final_states_out=memory
    )
    assert last is memory
    assert torch.equal(memory, torch.cat([before[..., 1:], x[..., :1]], -1))


@pytest.mark.parametrize("arguments", [("silu",), (None, "silu"), (None, None, False, None, "silu")])
def test_the_activation_has_its_place_of_each_version(arguments):
    x, weight, bias = torch.randn(1, 2, 5), torch.randn(2, 4), torch.randn(2)
    y = served.causal_conv1d_fn(x, weight, bias, *arguments)
    torch.testing.assert_close(y, formulas.convolve(x, weight, bias, silu=True))


def test_packed_sequences_do_not_see_each_other():
    x, weight = torch.randn(1, 2, 5), torch.randn(2, 4)
    y = served.causal_conv1d_fn(x, weight, seq_idx=torch.tensor([[3, 3, 3, 4, 4]], dtype=torch.int32))
    parts = [formulas.convolve(part, weight) for part in x.split([3, 2], -1)]
    torch.testing.assert_close(y, torch.cat(parts, -1))


@pytest.mark.parametrize("time", [None, 1, 3, 8])
@pytest.mark.parametrize("length", [3, 5])
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("pool", [False, True])
def test_frames_that_follow_see_those_before(pool, ring, length, time):
    torch.manual_seed(0)
    weight, bias, frames = torch.randn(2, 4), torch.randn(2), torch.randn(3, 2, time or 1)
    state = torch.randn(6 if pool else 3, 2, length)
    entries = torch.tensor([4, -1, 1], dtype=torch.int32) if pool else None
    seen = torch.tensor([0, 7, 12], dtype=torch.int32) if ring else None
    rows = [4, None, 1] if pool else [0, 1, 2]
    expected_state, expected = state.clone(), torch.zeros_like(frames)
    for example, row in enumerate(rows):
        if row is None:
            continue
        kept = state[row].roll(-int(seen[example]) % length, -1) if ring else state[row]
        kept = torch.cat([kept, frames[example]], -1)
        before = kept[None, :, length - 3 : length]
        expected[example] = formulas.convolve(frames[example][None], weight, bias, True, before)[0]
        kept = kept[:, -length:]
        expected_state[row] = kept.roll(int(seen[example]) + (time or 1), -1) if ring else kept
    y = served.causal_conv1d_update(frames if time else frames[..., 0], state, weight, bias, "silu", seen, entries)
    torch.testing.assert_close(y if time else y[..., None], expected)
    assert torch.equal(state, expected_state)


def test_the_reference_update_is_the_same_and_short_states_are_refused():
    x, state, weight = torch.randn(1, 2), torch.randn(1, 2, 3), torch.randn(2, 4)
    copy = state.clone()
    y = served.causal_conv1d_update_ref(x, copy, weight)
    torch.testing.assert_close(y, served.causal_conv1d_update(x, state, weight))
    assert torch.equal(copy, state)
    with pytest.raises(ValueError, match="conv_state keeps 2 frames, but a filter of 4 frames needs at least 3"):
        served.causal_conv1d_update(x, state[..., 1:], weight)


def test_last_frames_of_sequences_have_zeros_before_short_ones():
    x = torch.arange(1.0, 7)[:, None]
    for function in (served.causal_conv1d_varlen_states, served.causal_conv1d_varlen_states_ref):
        states = function(x, torch.tensor([0, 1, 1, 6]), 3)
        assert states[:, 0].tolist() == [[0, 0, 1], [0, 0, 0], [4, 5, 6]]


def step_tensors(heads, groups, batch=2):
    torch.manual_seed(0)
    shape = (heads, 4) if heads else (4,)
    x, dt, z = torch.randn(3, batch, *shape).unbind()
    D, bias = torch.randn(2, *shape).unbind()
    B, C = torch.randn(2, batch, *((groups,) if groups else ()), 3).unbind()
    return torch.randn(5, *shape, 3), x, dt, -torch.rand(*shape, 3), B, C, D, z, bias


def formula_step(state, x, dt, A, B, C, D, z, bias):
    """The step by the scan's formula, heads and their channels as one axis."""
    state, x, dt, z = (t.flatten(1, -2 if t is state else -1)[..., None] for t in (state, x, dt, z))
    A, D, bias = A.flatten(0, -2), D.flatten(), bias.flatten()
    B, C = (t.view(len(t), -1, t.shape[-1], 1) for t in (B, C))
    y, after = formulas.scan(x, dt, A, B, C, D, z, bias, True, state[..., 0])
    return y[..., 0], after


@pytest.mark.parametrize("function", [selective_state_update, selective_state_update_ref])
@pytest.mark.parametrize(("heads", "groups"), [(0, 0), (0, 1), (6, 0), (6, 3)])
def test_a_step_writes_the_state(function, heads, groups):
    state, *tensors = step_tensors(heads, groups)
    state = state[:2].clone()
    y, after = formula_step(state, *tensors)
    x, dt, A, B, C, D, z, bias = tensors
    found = function(state, x, dt, A, B, C, D, z=z, dt_bias=bias, dt_softplus=True)
    assert found.shape == x.shape
    torch.testing.assert_close(found.flatten(1), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state.flatten(1, -2), after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads", [0, 6])
def test_a_step_takes_states_from_a_pool(heads):
    pool, x, dt, A, B, C, *_ = step_tensors(heads, 0, batch=3)
    before, entries = pool.clone(), torch.tensor([4, -1, 0], dtype=torch.int32)
    chosen = pool[[4, 0]].clone()
    y = selective_state_update(pool, x, dt, A, B, C, state_batch_indices=entries)
    expected = selective_state_update(chosen, *(t[[0, 2]] for t in (x, dt)), A, B[[0, 2]], C[[0, 2]])
    torch.testing.assert_close(y[[0, 2]], expected)
    assert not y[1].any()
    assert torch.equal(pool[[4, 0]], chosen)
    assert torch.equal(pool[1:4], before[1:4])
