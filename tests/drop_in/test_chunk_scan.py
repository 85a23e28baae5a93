"""The scan of Mamba-2 and its layer, by the selective scan written out: each head's rate for all of its channels."""

import pytest
import torch
import torch.nn.functional as F

from speechbrain_mamba.drop_in.chunk_scan import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined
from tests.drop_in import formulas

BATCH, TIME, HEADS, HEADDIM, GROUPS, STATES = 2, 7, 4, 3, 2, 5
CHANNELS = HEADS * HEADDIM


def scan(x, dt, A, B, C, D, z, dt_bias, state=None):
    """The scan in the layout of the heads; the state is (batch, channels, state)."""

    def over_time(t):
        return None if t is None else t.flatten(2, 3).mT

    step = F.softplus(dt + dt_bias).repeat_interleave(HEADDIM, 2).mT
    rates = A.repeat_interleave(HEADDIM)[:, None].expand(-1, STATES)
    skip = D.flatten() if D.dim() == 2 else D.repeat_interleave(HEADDIM)
    B, C = (t.permute(0, 2, 3, 1) for t in (B, C))
    y, after = formulas.scan(over_time(x), step, rates, B, C, skip, over_time(z), None, False, state)
    return y.mT.unflatten(2, (HEADS, HEADDIM)), after


def tensors(wide_skip=False, gated=True):
    torch.manual_seed(0)
    x, z = torch.randn(2, BATCH, TIME, HEADS, HEADDIM).unbind()
    B, C = torch.randn(2, BATCH, TIME, GROUPS, STATES).unbind()
    D = torch.randn(HEADS, HEADDIM) if wide_skip else torch.randn(HEADS)
    dt, bias = torch.randn(BATCH, TIME, HEADS), torch.randn(HEADS)
    return x, dt, -torch.rand(HEADS), B, C, D, z if gated else None, bias


@pytest.mark.parametrize(("wide_skip", "gated"), [(False, True), (True, False)])
def test_the_scan_is_that_of_the_formula(wide_skip, gated):
    state = torch.randn(BATCH, HEADS, HEADDIM, STATES)

    def ours(x, dt, A, B, C, D, z, bias, state):
        return mamba_chunk_scan_combined(
            x, dt, A, B, C, 4, D, z, bias, state, dt_softplus=True, return_final_states=True
        )

    def formula(*given):
        y, after = scan(*given[:-1], given[-1].flatten(1, 2))
        return y, after.unflatten(1, (HEADS, HEADDIM))

    formulas.check(ours, formula, *tensors(wide_skip, gated), state)


def test_packed_sequences_begin_without_a_state():
    x, dt, A, B, C, D, z, bias = tensors()
    seq_idx = torch.tensor([[0, 0, 1, 1, 1, 2, 2], [5, 5, 5, 5, 5, 5, 5]], dtype=torch.int32)

    def ours(x, dt, B, C, z):
        return mamba_chunk_scan_combined(
            x, dt, A, B, C, 4, D, z, bias, seq_idx=seq_idx, dt_softplus=True, return_final_states=True,
            state_dtype=torch.float64,
        )  # fmt: skip

    def formula(x, dt, B, C, z):
        parts = [(0, slice(0, 2)), (0, slice(2, 5)), (0, slice(5, 7)), (1, slice(0, 7))]
        found = [
            scan(*(t[n : n + 1, frames] for t in (x, dt)), A, *(t[n : n + 1, frames] for t in (B, C)), D,
                 z[n : n + 1, frames], bias)
            for n, frames in parts
        ]  # fmt: skip
        y = torch.cat([torch.cat([y for y, _ in found[:3]], 1), found[3][0]])
        return y, torch.cat([found[2][1], found[3][1]]).unflatten(1, (HEADS, HEADDIM))

    formulas.check(ours, formula, x, dt, B, C, z)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("mlp", [0, 3])
def test_the_layer_is_that_of_the_formula(mlp, normalized):
    torch.manual_seed(0)
    inputs = CHANNELS + 2 * GROUPS * STATES
    zxbcdt = torch.randn(BATCH, TIME, 2 * mlp + CHANNELS + inputs + HEADS)
    weights = torch.randn(inputs, 4), torch.randn(inputs), torch.randn(HEADS), -torch.rand(HEADS), torch.randn(HEADS)
    norm, project = torch.randn(CHANNELS) if normalized else None, torch.randn(5, mlp + CHANNELS)

    def ours(zxbcdt, filters, filter_bias, dt_bias, A, D, norm, project):
        return mamba_split_conv1d_scan_combined(
            zxbcdt, filters, filter_bias, dt_bias, A, D, 4, rmsnorm_weight=norm, rmsnorm_eps=1e-3,
            outproj_weight=project, headdim=HEADDIM, ngroups=GROUPS, norm_before_gate=False,
        )  # fmt: skip

    def formula(zxbcdt, filters, filter_bias, dt_bias, A, D, norm, project):
        first, second, z, convolved, dt = zxbcdt.split([mlp, mlp, CHANNELS, inputs, HEADS], -1)
        convolved = formulas.convolve(convolved.mT, filters, filter_bias, True).mT
        x, B, C = convolved.split([CHANNELS, GROUPS * STATES, GROUPS * STATES], -1)
        x, B, C = x.unflatten(2, (HEADS, -1)), B.unflatten(2, (GROUPS, -1)), C.unflatten(2, (GROUPS, -1))
        gate = None if normalized else z.unflatten(2, (HEADS, -1))
        y = scan(x, dt, A, B, C, D, gate, dt_bias)[0].flatten(2)
        if normalized:
            y = (y * F.silu(z)).unflatten(-1, (GROUPS, -1))
            y = formulas.normalize(y, 1, None, 1e-3, True).flatten(-2) * norm
        return torch.cat([F.silu(first) * second, y], -1) @ project.T

    formulas.check(ours, formula, zxbcdt, *weights, norm, project)


def test_what_does_not_fit_is_named():
    x, dt, A, B, C, *_ = tensors()
    numbers, state = torch.zeros(BATCH, TIME, dtype=torch.int32), torch.zeros(BATCH, HEADS, HEADDIM, STATES)
    with pytest.raises(ValueError, match="initial_states does not go with seq_idx"):
        mamba_chunk_scan_combined(x, dt, A, B, C, 4, initial_states=state, seq_idx=numbers)
    with pytest.raises(ValueError, match="return_varlen_states needs cu_seqlens and seq_idx, and one example"):
        mamba_chunk_scan_combined(x, dt, A, B, C, 4, return_varlen_states=True)
    zxbcdt, filters = torch.zeros(1, 3, 60), torch.zeros(CHANNELS + 2 * STATES, 4)
    with pytest.raises(ValueError, match=r"headdim is missing"):
        mamba_split_conv1d_scan_combined(zxbcdt, filters, None, A, A, A, 4)
    with pytest.raises(ValueError, match=r"zxbcdt has 37 features, but 4 heads of 3 channels .* take 38, and"):
        mamba_split_conv1d_scan_combined(zxbcdt[..., :37], filters, None, A, A, A, 4, headdim=HEADDIM)
