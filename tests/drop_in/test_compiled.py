"""The stand-ins of the compiled modules, called as the interface files of each version call them."""

import pytest
import torch
import torch.nn.functional as F

from speechbrain_mamba.drop_in import compiled_conv, compiled_scan
from tests.drop_in import formulas
from tests.drop_in.test_selective_scan import scan_tensors


def named(values, gated):
    """Tensors of the scan in the order of the extension."""
    u, delta, A, B, C, D, z, bias = values
    return u, delta, A, B, C, D, z if gated else None, bias


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("B", "C"), [(1, 1), (3, 0)])
def test_the_scan_and_its_gradients(B, C, gated):
    tensors = named(scan_tensors(B, C), gated)
    out, x, *rest = compiled_scan.fwd(*tensors, True)
    wide = [None if t is None else t.double().requires_grad_() for t in tensors]
    expected, state = formulas.scan(*wide[:6], None, wide[7])
    torch.testing.assert_close(out, expected.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x[:, :, -1, 1::2], state.float(), rtol=1e-4, atol=1e-5)
    if gated:
        expected = expected * F.silu(wide[6])
        torch.testing.assert_close(rest[0], expected.float(), rtol=1e-4, atol=1e-5)

    dout = torch.randn_like(out)
    expected.backward(dout.double())
    memory = torch.empty_like(tensors[0]) if gated else None
    *found, last = compiled_scan.bwd(*tensors, dout, x, out if gated else None, memory, True, gated)
    if gated:
        torch.testing.assert_close(last, rest[0])
        assert found[7] is memory
    else:
        found.append(last)
    order = [0, 1, 2, 3, 4, 5, 7, 6] if gated else [0, 1, 2, 3, 4, 5, 7]
    for gradient, number in zip(found, order, strict=True):
        torch.testing.assert_close(gradient, wide[number].grad.float(), rtol=1e-4, atol=1e-4)


def test_tensors_that_are_not_given_have_no_gradient():
    u, delta, A, B, C, *_ = scan_tensors(1, 1)
    out, x = compiled_scan.fwd(u, delta, A, B, C, None, None, None, False)
    gradients = compiled_scan.bwd(u, delta, A, B, C, None, None, None, out, x, None, None, False, False)
    assert [t is None for t in gradients] == [False] * 5 + [True] * 2


def test_the_states_of_long_inputs_stand_at_the_end():
    u, delta = torch.zeros(2, 1, 1, 2049).unbind()
    maps = torch.zeros(1, 1, 2, 2049)
    assert compiled_scan.fwd(u, delta, torch.zeros(1, 2), maps, maps, None, None, None, False)[1].shape == (1, 1, 2, 4)


@pytest.fixture
def conv():
    torch.manual_seed(0)
    x, before = torch.randn(2, 3, 6), torch.randn(2, 3, 3)
    return x, torch.randn(3, 4), torch.randn(3), before


FORWARD = {
    "1.0": lambda seq_idx, before, out, last: (),
    "1.1": lambda seq_idx, before, out, last: (seq_idx,),
    "1.2": lambda seq_idx, before, out, last: (seq_idx, before, last),
    "1.5.1": lambda seq_idx, before, out, last: (seq_idx, before, out, last),
}


@pytest.mark.parametrize("version", FORWARD)
def test_the_convolution_of_each_version(conv, version):
    x, weight, bias, before = conv
    seq_idx = torch.tensor([[0, 0, 1, 1, 1, 1]] * 2, dtype=torch.int32) if version == "1.1" else None
    before = before if version in ("1.2", "1.5.1") else None
    out, last = torch.empty_like(x), None if before is None else torch.empty(2, 3, 3)
    y = compiled_conv.causal_conv1d_fwd(x, weight, bias, *FORWARD[version](seq_idx, before, out, last), True)
    if seq_idx is None:
        expected = formulas.convolve(x, weight, bias, True, before)
    else:
        expected = torch.cat([formulas.convolve(part, weight, bias, True) for part in x.split([2, 4], -1)], -1)
    assert (y is None) == (version == "1.5.1")
    torch.testing.assert_close(out if y is None else y, expected)
    if last is not None:
        assert torch.equal(last, x[..., -3:])


@pytest.mark.parametrize("version", FORWARD)
def test_the_gradients_of_each_version(conv, version):
    x, weight, bias, before = conv
    dout, dlast = torch.randn(2, 3, 6), torch.randn(2, 3, 3)
    leaves = [t.double().requires_grad_() for t in conv]
    states = version in ("1.2", "1.5.1")
    y = formulas.convolve(*leaves[:3], True, leaves[3] if states else None)
    total = (y * dout).sum() + ((leaves[0][..., -3:] * dlast).sum() if states else 0)
    expected = [None if g is None else g.float() for g in torch.autograd.grad(total, leaves, allow_unused=True)]
    dx = torch.empty_like(x)
    if version == "1.5.1":
        found = [dx, torch.zeros_like(weight), torch.zeros_like(bias), torch.empty_like(before)]
        others = (None, before, dlast, *found)
    else:
        others = {"1.0": (dx,), "1.1": (None, dx), "1.2": (None, before, dlast, dx, True)}[version]
    returned = compiled_conv.causal_conv1d_bwd(x, weight, bias, dout, *others, True)
    found = found if version == "1.5.1" else returned
    assert len(found) == (4 if states else 3)
    assert found[0] is dx
    for gradient, right in zip(found, expected):
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-4)


def test_gradients_that_are_not_asked_for_are_none(conv):
    x, weight, _, before = conv
    _, _, dbias, dinitial = compiled_conv.causal_conv1d_bwd(x, weight, None, x, None, before, None, None, False, True)
    assert dbias is None and dinitial is None


@pytest.mark.parametrize("others", [(True,), (True, None), (True, None, None), ("out", True, None, None)])
def test_the_update_of_each_version(conv, others):
    x, weight, bias, state = conv
    frames = x[..., 0] if len(others) == 1 else x[..., :2]
    out = torch.empty_like(frames)
    others = tuple(out if value == "out" else value for value in others)
    expected = formulas.convolve(frames.view(2, 3, -1), weight, bias, True, state).view_as(frames)
    after = torch.cat([state, frames.view(2, 3, -1)], -1)[..., -3:]
    y = compiled_conv.causal_conv1d_update(frames, state, weight, bias, *others)
    torch.testing.assert_close(out if len(others) == 4 else y, expected)
    assert torch.equal(state, after)


def test_other_numbers_of_arguments_are_refused(conv):
    x, weight, bias, state = conv
    with pytest.raises(TypeError, match=r"causal_conv1d_fwd got 6 arguments, but .* takes 4, 5, 7 or 8"):
        compiled_conv.causal_conv1d_fwd(x, weight, bias, None, None, True)
    with pytest.raises(TypeError, match=r"causal_conv1d_bwd got 5 arguments, but .* takes 6, 7, 10 or 12"):
        compiled_conv.causal_conv1d_bwd(x, weight, bias, x, True)
    with pytest.raises(TypeError, match=r"causal_conv1d_update got 4 arguments, but .* takes 5, 6, 7 or 8"):
        compiled_conv.causal_conv1d_update(x, state, weight, bias)
