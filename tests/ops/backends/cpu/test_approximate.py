"""The short exponentials of the native kernels: how far off they are, and who gets them."""

from __future__ import annotations

import math

import pytest
import torch

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends import cpu
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.cases import bidirectional_scan_inputs, run, scan_inputs

STATED = 6e-4
"""Relative error of rates, softplus and SiLU, as csrc/vmath.h states it; that of a decay itself is 4e-4."""


@pytest.fixture(autouse=True)
def _on_the_cpu_backend():
    with ops.use_backend("cpu"):
        yield


def decays(exponents: torch.Tensor) -> torch.Tensor:
    """exp of some exponents, as a scan of one frame with these rates multiplies a state of one by."""
    count, one = len(exponents), torch.ones(1, 1, 1)
    A, zeros = exponents.float()[:, None], torch.zeros(1, 1, count)
    _, last = ops.selective_scan(
        zeros, torch.ones_like(zeros), A, one, one, initial_state=torch.ones(1, count, 1), return_last_state=True
    )
    return last[0, :, 0].double()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_decays_have_a_rate_within_the_stated_error(name):
    """From 1 - 1e-2 to e^-80; above, single precision cannot tell the rate."""
    exponents = -torch.cat([torch.logspace(-2, math.log10(80), 20_001), torch.linspace(0.01, 3, 20_001)])
    with instruction_set(name), ops.approximate_exponentials():
        found = decays(exponents)
    exact = exponents.float().double()
    assert ((found.log() - exact) / exact).abs().max() < STATED
    assert (found / exact.exp() - 1).abs().max() < 4e-4


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_decays_at_the_ends_of_their_range(name):
    exponents = torch.tensor([0.0, -0.0, -1e-30, -1e-9, -math.log(2), -1e3, -1e30, -torch.inf, 1e3, torch.nan])
    with instruction_set(name), ops.approximate_exponentials():
        found = decays(exponents)
    assert found[:4].tolist() == [1.0] * 4
    assert found[4] == pytest.approx(0.5, rel=1e-6)
    assert found[5:8].tolist() == [0.0] * 3
    assert found[8] == torch.inf
    assert found[9].isnan()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_a_slow_decay_stays_right_over_many_frames(name):
    """1e-3 per frame over 4000 frames: an error that does not vanish with the rate would be multiplied by 4000."""
    frames, one = 4000, torch.ones(1, 4000, 1)
    with instruction_set(name), ops.approximate_exponentials():
        _, last = ops.selective_scan(
            0 * one, 1e-3 * one, -torch.ones(1, 1), one, one, initial_state=torch.ones(1, 1, 1), return_last_state=True
        )
    assert -math.log(last.item()) == pytest.approx(1e-3 * frames, rel=STATED)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_softplus_and_silu_are_within_the_stated_error(name):
    """With A = 0 and one frame the output is softplus(delta) u silu(z); a convolution of width 1 is silu(x)."""
    x = torch.cat([torch.linspace(-80, 80, 4001), torch.tensor([-1e3, 1e3])])[None, None]
    one, ones, none = torch.ones(1, 1, 1), torch.ones_like(x), torch.zeros(x.shape[-1], 1)
    with instruction_set(name), ops.approximate_exponentials():
        steps = ops.selective_scan(ones, x, none, one, one, delta_softplus=True).double()
        gates = ops.selective_scan(ones, ones, none, one, one, z=x).double()
        silu = ops.causal_conv1d(x, torch.ones(x.shape[-1], 1), activation="silu").double()
    exact = x.double()
    torch.testing.assert_close(steps, torch.logaddexp(exact, torch.zeros_like(exact)), rtol=STATED, atol=1e-34)
    for found in (gates, silu):
        torch.testing.assert_close(found, exact / (1 + (-exact).exp()), rtol=STATED, atol=1e-34)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_gelu_is_within_the_stated_error(name):
    x = torch.cat([torch.linspace(-9, 9, 8001), torch.tensor([-1e3, 1e3, 1e-20, -1e-20])])[None]
    y = torch.empty_like(x)
    with instruction_set(name), ops.approximate_exponentials():
        cpu.finish_rows(x, None, None, y, "gelu")
        cpu.finish_rows(torch.tensor([[torch.nan, torch.inf, 0]]), None, None, ends := torch.empty(1, 3), "gelu")
    exact = torch.nn.functional.gelu(x.double())
    assert ((y.double() - exact).abs() <= 3e-4 * x.double().abs()).all()  # of the input, as csrc/vmath.h states it
    assert ends[0, 0].isnan() and ends[0, 1] == torch.inf and ends[0, 2] == 0


def test_who_gets_the_short_form():
    """bfloat16 by itself, and whoever asks for it."""
    torch.manual_seed(0)
    inputs = scan_inputs(1, 70, 20, 16)
    rounded = {name: t.bfloat16() if t.dim() == 3 and name != "initial_state" else t for name, t in inputs.items()}

    def scanned(tensors, allowed=None):
        if allowed is None:
            return ops.selective_scan(**tensors, delta_softplus=True, return_last_state=True)[1]
        with ops.approximate_exponentials(allowed):
            return scanned(tensors)

    assert torch.equal(scanned(inputs), scanned(inputs, False))
    assert not torch.equal(scanned(inputs), scanned(inputs, True))
    assert torch.equal(scanned(rounded), scanned(rounded, True))
    assert not torch.equal(scanned(rounded), scanned(rounded, False))
    torch.testing.assert_close(scanned(inputs), scanned(inputs, True), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_gradients_in_the_short_form_are_close_to_exact_ones(name):
    torch.manual_seed(0)
    inputs = bidirectional_scan_inputs(2, 130, 37, 16)
    with instruction_set(name):
        exact = run(ops.bidirectional_selective_scan, inputs, delta_softplus=True)
        with ops.approximate_exponentials():
            found = run(ops.bidirectional_selective_scan, inputs, delta_softplus=True)
    assert any(not torch.equal(found[key], exact[key]) for key in exact)
    for key, right in exact.items():
        assert (found[key] - right).abs().max() < 3e-3 * right.abs().max(), key
