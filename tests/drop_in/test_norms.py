import pytest
import torch
import torch.nn.functional as F

from speechbrain_mamba.drop_in import gated_norms, norms
from tests.drop_in import formulas


@pytest.mark.parametrize("rms", [False, True])
def test_what_is_added_is_normalized_once_or_twice(rms):
    torch.manual_seed(0)
    x, x1, residual = torch.randn(3, 2, 5, 8).unbind()
    weight, bias, weight1, bias1 = torch.randn(4, 8).unbind()
    function = norms.rms_norm_fn if rms else norms.layer_norm_fn

    def ours(x, weight, bias, residual, x1, weight1, bias1):
        return function(x, weight, bias, residual, x1, weight1, bias1, eps=1e-3, prenorm=True)

    def formula(x, weight, bias, residual, x1, weight1, bias1):
        total = x + x1 + residual
        found = (formulas.normalize(total, w, b, 1e-3, rms) for w, b in ((weight, bias), (weight1, bias1)))
        return (*found, total)

    formulas.check(ours, formula, x, weight, bias, residual, x1, weight1, bias1)


def test_rows_are_scaled_and_types_kept():
    x, scale, weight = torch.randn(2, 5, 8), torch.rand(2, 5), torch.ones(8)
    y, total = norms.layer_norm_fn(x, weight, None, rowscale=scale, prenorm=True)
    torch.testing.assert_close(total, x * scale[..., None])
    torch.testing.assert_close(y, formulas.normalize(total, weight, None, 1e-6, False), rtol=1e-4, atol=1e-5)
    half = x.bfloat16()
    for options, dtype in (
        ({}, torch.bfloat16),
        ({"residual_in_fp32": True}, torch.float32),
        ({"residual": x}, torch.float32),
    ):
        y, total = norms.rms_norm_fn(half, weight, None, prenorm=True, **options)
        assert (y.dtype, total.dtype) == (torch.bfloat16, dtype)
    with pytest.raises(ValueError, match="rowscale does not go with x1"):
        norms.layer_norm_fn(x, weight, None, x1=x, rowscale=scale)


def test_dropped_values_are_those_of_the_masks():
    torch.manual_seed(0)
    x, weight = torch.ones(50, 8), torch.ones(8)
    _, total, mask, mask1 = norms.layer_norm_fn(
        x, weight, None, x1=2 * x, dropout_p=0.25, prenorm=True, return_dropout_mask=True
    )
    assert 0.6 < mask.float().mean() < 0.9
    assert not torch.equal(mask, mask1)
    torch.testing.assert_close(total, (mask.float() + 2 * mask1.float()) / 0.75)
    assert norms.layer_norm_fn(x, weight, None, return_dropout_mask=True)[1:] == (None, None)


def test_the_module_drops_in_training_only():
    norm = norms.RMSNorm(8, eps=1e-3, dropout_p=0.5)
    x, residual = torch.randn(2, 4, 8).unbind()
    _, total = norm(x, residual, prenorm=True)
    assert not torch.equal(total, x + residual)
    y, total = norm.eval()(x, residual, prenorm=True)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(y, formulas.normalize(total, norm.weight, None, 1e-3, True))
    assert dict(norm.named_parameters()).keys() == {"weight"}
    assert norm.bias is None


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("rms", [False, True])
def test_gated_norms_are_those_of_the_formula(rms, before, size):
    torch.manual_seed(0)
    x, z, weight, bias = torch.randn(2, 8), torch.randn(2, 8), torch.randn(8), None if rms else torch.randn(8)
    function = gated_norms.rmsnorm_fn if rms else gated_norms.layernorm_fn

    def ours(x, weight, bias, z):
        return function(x, weight, bias, z, 1e-3, size, before)

    def formula(x, weight, bias, z):
        y = x if before else x * F.silu(z)
        y = formulas.normalize(y.unflatten(-1, (-1, size or 8)), 1, None, 1e-3, rms).flatten(-2) * weight
        y = y if bias is None else y + bias
        return y * F.silu(z) if before else y

    formulas.check(ours, formula, x, weight, bias, z)
    module = (gated_norms.RMSNorm if rms else gated_norms.LayerNorm)(8, 1e-3, size, before)
    torch.testing.assert_close(module(x, z), ours(x, torch.ones(8), None if rms else torch.zeros(8), z))
    torch.testing.assert_close(module(x), ours(x, torch.ones(8), None if rms else torch.zeros(8), None))


@pytest.mark.parametrize("gated, before, size", [(True, True, 4), (True, False, None), (False, True, 2)])
def test_the_reference_of_gated_norms_is_the_same_norm(gated, before, size):
    torch.manual_seed(0)
    x, z, weight, bias = torch.randn(2, 8), torch.randn(2, 8) if gated else None, torch.randn(8), torch.randn(8)
    arguments = (weight, bias, z, 1e-3, size, before)
    right = gated_norms.rmsnorm_fn(x, *arguments)
    torch.testing.assert_close(gated_norms.rms_norm_ref(x, *arguments), right)
    assert gated_norms.rms_norm_ref(x.bfloat16(), *arguments, upcast=False).dtype == torch.bfloat16


def test_groups_have_to_fit():
    with pytest.raises(ValueError, match="8 channels do not divide into groups of group_size = 3"):
        gated_norms.rmsnorm_fn(torch.ones(8), torch.ones(8), None, group_size=3)
