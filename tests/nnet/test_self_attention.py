"""Self-attention as a mixer: what a frame sees, lengths, chunks and states."""

import pytest
import torch

from speechbrain_mamba.nnet.self_attention import LEAST_BLOCK, SelfAttention, rotate, usual_heads

TIME = 2 * LEAST_BLOCK + 27


def make(**options):
    torch.manual_seed(0)
    return SelfAttention(8, nhead=2, **options).double()


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def slow(layer, x, sees):
    """The definition: a softmax over the keys that a query sees, (time, time), one head and one query at a time."""
    parts = [project(x).unflatten(-1, (layer.nhead, -1)) for project in (layer.q_proj, layer.k_proj, layer.v_proj)]
    query, key, value = parts
    if layer.rotary:
        query, key = (rotate(part, torch.arange(x.shape[1])[None]) for part in (query, key))
    y = torch.zeros_like(query)
    for t in range(x.shape[1]):
        keys = sees[t].nonzero()[:, 0]
        weight = torch.einsum("bhc,bkhc->bkh", query[:, t], key[:, keys]) / query.shape[-1] ** 0.5
        y[:, t] = torch.einsum("bkh,bkhc->bhc", weight.softmax(1), value[:, keys])
    return layer.out_proj(y.flatten(-2))


@pytest.mark.parametrize("time", [9, TIME])
@pytest.mark.parametrize("window", [None, 1, 5, LEAST_BLOCK + 3])
@pytest.mark.parametrize(("causal", "chunk_size"), [(True, None), (False, None), (False, 4)])
def test_a_frame_sees_what_it_should(time, window, causal, chunk_size):
    layer, x = make(causal=causal, window=window), noise(2, time, 8)
    t, j = torch.arange(time)[:, None], torch.arange(time)
    if causal:
        sees = j <= t
    elif chunk_size:
        sees = j // chunk_size <= t // chunk_size
    else:
        sees = torch.ones(time, time, dtype=torch.bool) if window is None else j < t + window
    if window:
        sees = sees & (j > t - window)
    options = {"chunk_size": chunk_size} if chunk_size else {}
    torch.testing.assert_close(layer(x, **options), slow(layer, x, sees))


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("causal", "chunk_size"), [(True, None), (False, None), (False, 4)])
def test_padding_has_no_effect(window, causal, chunk_size):
    layer, x = make(causal=causal, window=window), noise(4, TIME, 8)
    lengths, options = torch.tensor([TIME, 70, 0, 1]), {"chunk_size": chunk_size} if chunk_size else {}
    for i, length in enumerate(lengths):
        x[i, length:] = float("nan")
    x.requires_grad_()
    y = layer(x, lengths, **options)
    y.sum().backward()
    for i, length in enumerate(lengths):
        alone = x[i : i + 1, :length].detach().requires_grad_()
        expected = layer(alone, **options)
        torch.testing.assert_close(y[i : i + 1, :length], expected)
        assert not y[i, length:].any() and not x.grad[i, length:].any()
        if length:
            expected.sum().backward()
            torch.testing.assert_close(x.grad[i : i + 1, :length], alone.grad)
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("window", [None, 1, 5, LEAST_BLOCK + 3])
def test_chunks_and_steps_are_the_whole(window):
    layer, x = make(window=window), noise(2, TIME, 8)
    whole = layer(x)
    state, parts = layer.init_state(2), []
    for piece in x.split([0, 3, 1, LEAST_BLOCK + 30, TIME - LEAST_BLOCK - 38, 4], 1):
        part, state = layer(piece, state=state, return_state=True)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    state, parts = layer.init_state(2), []
    for frame in x[:, :12].unbind(1):
        before = {name: value.clone() for name, value in state.items()}
        part, after = layer.step(frame, state)
        assert all(torch.equal(before[name], value) for name, value in state.items())  # not changed
        parts, state = [*parts, part], after
    torch.testing.assert_close(torch.stack(parts, 1), whole[:, :12])


@pytest.mark.parametrize("window", [None, 5])
def test_a_state_of_a_padded_batch_goes_on_after_each_length(window):
    layer, x = make(window=window), noise(3, 20, 8)
    lengths = torch.tensor([12, 2, 0])
    _, state = layer(x[:, :12], lengths, return_state=True)
    assert state["position"].tolist() == [12, 2, 0]
    rest, _ = layer(x[:, 12:], state=state, return_state=True)
    step, _ = layer.step(x[:, 12], state)
    for i, length in enumerate(lengths):
        alone = layer(torch.cat([x[i : i + 1, :length], x[i : i + 1, 12:]], 1))
        torch.testing.assert_close(rest[i], alone[0, length:])
        torch.testing.assert_close(step[i], alone[0, length])


@pytest.mark.parametrize("window", [None, 6])
def test_chunks_of_a_layer_that_sees_ahead_within_them(window):
    layer, x = make(causal=False, window=window), noise(2, 22, 8)
    whole, state, parts = layer(x, chunk_size=4), None, []
    for piece in x.split([8, 4, 8, 2], 1):
        part, state = layer(piece, state=state, return_state=True, chunk_size=4)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_a_windows_state_is_as_large_after_any_time():
    layer = make(window=7)
    empty = layer.init_state(2)
    for time in (0, 3, 6, 7, 50):
        _, state = layer(noise(2, time, 8), state=empty, return_state=True)
        _, first = layer(noise(2, time, 8), return_state=True)
        shapes = [{name: value.shape for name, value in part.items()} for part in (empty, state, first)]
        assert shapes[0] == shapes[1] == shapes[2]


def test_a_state_can_be_reordered():
    layer, x, order = make(), noise(3, 10, 8), torch.tensor([2, 2, 0])
    _, state = layer(x[:, :9], torch.tensor([9, 4, 6]), return_state=True)
    moved = {name: value.index_select(0, order) for name, value in state.items()}
    expected, _ = layer.step(x[:, 9], state)
    torch.testing.assert_close(layer.step(x[order, 9], moved)[0], expected[order])


def test_long_streams_keep_their_precision():
    """After ten hours of frames of 1 ms, distances are still what counts."""
    q, k = torch.randn(2, 1, 1, 1, 8)
    late = torch.tensor([[36_000_000]])
    expected = (rotate(q, torch.tensor([[3]])) * k).sum()
    torch.testing.assert_close((rotate(q, late + 3) * rotate(k, late)).sum(), expected, atol=1e-5, rtol=1e-5)


def test_bfloat16_of_autocast_goes_into_the_state_and_out_of_it():
    layer, x = SelfAttention(8, nhead=2, window=4), torch.randn(2, 10, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x[:, :6], state=layer.init_state(2), return_state=True)
        rest = layer(x[:, 6:], state=state)
        torch.testing.assert_close(torch.cat([y, rest], 1).float(), layer(x).float(), atol=2e-2, rtol=2e-2)
    assert state["key"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nhead": 3}, "d_model is 8, which nhead, 3, does not divide"),
        ({"nhead": 5, "d_attention": 12}, "d_attention is 12"),
        ({"nhead": 8}, "has 1 of the 8 channels .* even number"),
        ({"nhead": 2, "window": 0}, "must see at least 1, itself"),
    ],
)
def test_bad_sizes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SelfAttention(8, **options)


def test_a_layer_that_sees_the_future_has_no_first_state():
    with pytest.raises(TypeError, match="set causal to True"):
        make(causal=False).init_state(1)


def test_heads_have_about_64_channels():
    assert [usual_heads(channels) for channels in (8, 64, 100, 128, 150, 1024)] == [1, 1, 1, 2, 1, 16]
    assert SelfAttention(24, d_attention=40).q_proj.weight.shape == (40, 24)
    assert SelfAttention(8, nhead=8, rotary=False)(torch.randn(1, 3, 8)).shape == (1, 3, 8)
