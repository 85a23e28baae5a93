import pytest
import torch

from speechbrain_mamba.drop_in import selective_scan as served
from speechbrain_mamba.ops import use_backend
from tests.drop_in import formulas

BATCH, CHANNELS, STATES, TIME = 2, 6, 3, 7
FUNCTIONS = [served.selective_scan_fn, served.selective_scan_ref]


def scan_tensors(B, C, gated=True):
    torch.manual_seed(0)
    maps = [torch.randn(BATCH, n, STATES, TIME) if n else torch.randn(CHANNELS, STATES) for n in (B, C)]
    u, delta, z = torch.randn(3, BATCH, CHANNELS, TIME).unbind()
    D, bias = torch.randn(2, CHANNELS).unbind()
    return u, delta, -torch.rand(CHANNELS, STATES), *maps, D, z if gated else None, bias


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("B", "C"), [(1, 1), (2, 2), (0, 3), (0, 0)])
def test_the_scan_is_that_of_the_formula(function, B, C):
    def ours(u, delta, A, B, C, D, z, bias):
        return function(u, delta, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True, return_last_state=True)

    formulas.check(ours, formulas.scan, *scan_tensors(B, C))


def test_maps_of_three_axes_serve_all_channels():
    u, delta, A, B, C, *_ = scan_tensors(1, 1)
    y = served.selective_scan_fn(u, delta, A, B[:, 0], C[:, 0])
    torch.testing.assert_close(y, served.selective_scan_fn(u, delta, A, B, C))


def test_the_reference_runs_whatever_backend_is_chosen(monkeypatch):
    called = []
    monkeypatch.setattr("speechbrain_mamba.ops.backends.cpu.selective_scan", lambda *a, **k: called.append(1))
    with use_backend("auto"):
        served.selective_scan_ref(*scan_tensors(1, 1)[:5])
    assert not called


def test_complex_matrices_are_refused_by_name():
    u, delta, A, B, C, *_ = scan_tensors(1, 1)
    with pytest.raises(TypeError, match=r"A is complex .* only real A is served"):
        served.selective_scan_fn(u, delta, torch.complex(A, A), B, C)


def inner_tensors():
    torch.manual_seed(0)
    rank = 2
    return (
        torch.randn(BATCH, 2 * CHANNELS, TIME), torch.randn(CHANNELS, 1, 4), torch.randn(CHANNELS),
        torch.randn(rank + 2 * STATES, CHANNELS), torch.randn(CHANNELS, rank), torch.randn(5, CHANNELS),
        -torch.rand(CHANNELS, STATES), torch.randn(CHANNELS), torch.randn(CHANNELS),
    )  # fmt: skip


@pytest.mark.parametrize("function", [served.mamba_inner_fn, served.mamba_inner_ref])
def test_the_layer_is_that_of_the_formula(function):
    def ours(xz, conv, conv_bias, x_proj, dt_proj, out_proj, A, D, bias):
        return function(xz, conv, conv_bias, x_proj, dt_proj, out_proj, None, A, D=D, delta_bias=bias)

    formulas.check(ours, formulas.layer, *inner_tensors())


def test_the_layer_takes_given_maps_biases_and_norms():
    xz, conv, conv_bias, x_proj, dt_proj, out_proj, A, D, bias = inner_tensors()
    B, B_bias, c_weight, dt_weight, out_bias = (
        torch.randn(n) for n in ((CHANNELS, STATES), STATES, STATES, CHANNELS, 5)
    )

    def ours(B):
        return served.mamba_inner_fn(
            xz, conv, conv_bias, x_proj[: 2 + STATES], dt_proj, out_proj, out_bias, A, B, None, D, bias, None,
            B_bias, c_rms_weight=c_weight, dt_rms_weight=dt_weight,
        )  # fmt: skip

    def formula(B):
        x, z = xz.double().chunk(2, 1)
        x = formulas.convolve(x, conv.double()[:, 0], conv_bias, silu=True)
        factor, C = torch.einsum("fc,bct->bft", x_proj[: 2 + STATES].double(), x).split([2, STATES], 1)
        C = formulas.normalize((C + B_bias[:, None]).mT, c_weight, None, 1e-6, True).mT
        delta = torch.einsum("cr,brt->bct", dt_proj.double(), factor)
        delta = formulas.normalize(delta.mT, dt_weight, None, 1e-6, True).mT
        y, _ = formulas.scan(x, delta, A.double(), B, C[:, None], D, z, bias)
        return torch.einsum("dc,bct->btd", out_proj.double(), y) + out_bias

    formulas.check(ours, formula, B)
    with pytest.raises(ValueError, match="checkpoint_lvl is 2, but must be 0 or 1"):
        served.mamba_inner_fn(xz, conv, None, x_proj, dt_proj, out_proj, None, A, checkpoint_lvl=2)


def test_the_layer_runs_under_autocast():
    xz, conv, conv_bias, x_proj, dt_proj, out_proj, A, D, bias = inner_tensors()
    with torch.autocast("cpu", torch.bfloat16):
        y = served.mamba_inner_fn(
            xz.bfloat16(), conv, conv_bias, x_proj, dt_proj, out_proj, None, A, D=D, delta_bias=bias
        )
    assert y.dtype == torch.bfloat16
    expected = formulas.layer(xz, conv, conv_bias, x_proj, dt_proj, out_proj, A, D, bias)
    assert (y.float() - expected).abs().max() < 0.03 * expected.abs().max()
