"""Stand-ins for mamba-ssm and causal-conv1d on the CPU: what their functions compute, and what each version demands.

The demands were read in the packages' sources: all releases of mamba-ssm from 1.2.0 to 2.3.2.post1 and its newest
source of July 2026, and all of causal-conv1d from 1.2.0 to 1.7.0. ``test_mamba_ssm_sources.py`` compares them with
source distributions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from speechbrain_mamba.ops import registry
from speechbrain_mamba.ops.backends import mamba_ssm, reference

# Arguments of selective_scan_fn and causal_conv1d_fn, the same in all versions.
SCAN = "u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False"
_SSD = (
    "x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, {}dt_softplus=False, "
    "dt_limit=(0.0, float('inf')), return_final_states=False{}"
)
SSD = {
    "oldest": _SSD.format("", ""),
    "today": _SSD.format("cu_seqlens=None, ", ", return_varlen_states=False"),
    "newest": _SSD.format("cu_seqlens=None, ", ", return_varlen_states=False, state_dtype=None"),
}
"""Arguments of mamba_chunk_scan_combined."""
CONV = (
    "x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None, "
    "activation=None"
)


class MambaSsm(NamedTuple):
    """Facts about a version of mamba-ssm."""

    version: str
    step: str = "state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None"
    """Arguments of ``selective_state_update``."""
    step_compiles: bool = True
    """Whether its kernel compiles with Triton 3."""
    step_needs_all: bool = True
    """Whether it fails without D or dt_bias."""
    ssd: str = SSD["today"]
    """Arguments of ``mamba_chunk_scan_combined``."""
    has_scan: bool = True
    """Whether ``selective_scan_cuda`` is there; optional in the newest source only."""


class CausalConv1d(NamedTuple):
    """Facts about a version of causal-conv1d."""

    version: str
    step: str = "x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, conv_state_indices=None"
    """Arguments of ``causal_conv1d_update``."""
    state_has_width: bool = False
    """Whether the state has as many frames as the filter, rather than one less or more."""


_SHORT_STEP = "state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False"
MAMBA_SSM = {
    facts.version: facts
    for facts in (
        MambaSsm("1.2.0", _SHORT_STEP, step_compiles=False, step_needs_all=False),
        MambaSsm("1.2.2", _SHORT_STEP, step_compiles=False),
        MambaSsm("2.0.4", _SHORT_STEP, step_compiles=False, ssd=SSD["oldest"]),
        MambaSsm("2.1.0", _SHORT_STEP, ssd=SSD["oldest"]),
        MambaSsm("2.2.2", _SHORT_STEP),
        MambaSsm("2.2.5"),
        MambaSsm("2.2.6.post3"),
        MambaSsm("2.3.2.post1"),
    )
}
_STATELESS_STEP = "x, conv_state, weight, bias=None, activation=None"
CAUSAL_CONV1D = {
    facts.version: facts
    for facts in (
        CausalConv1d("1.2.2.post1", _STATELESS_STEP, state_has_width=True),
        CausalConv1d("1.3.0.post1", _STATELESS_STEP, state_has_width=True),
        CausalConv1d("1.4.0", f"{_STATELESS_STEP}, cache_seqlens=None"),
        CausalConv1d("1.5.3.post1"),
        CausalConv1d("1.6.2.post1"),
        CausalConv1d("1.7.0"),
    )
}
TOO_OLD = [
    (MAMBA_SSM["1.2.0"], CAUSAL_CONV1D["1.7.0"]),
    (MAMBA_SSM["1.2.2"], CAUSAL_CONV1D["1.7.0"]),
    (MAMBA_SSM["2.0.4"], CAUSAL_CONV1D["1.7.0"]),
    (MAMBA_SSM["2.3.2.post1"], CAUSAL_CONV1D["1.2.2.post1"]),
    (MAMBA_SSM["2.3.2.post1"], CAUSAL_CONV1D["1.3.0.post1"]),
]
SERVED = [
    (MAMBA_SSM["2.1.0"], CAUSAL_CONV1D["1.4.0"]),
    (MAMBA_SSM["2.2.5"], CAUSAL_CONV1D["1.5.3.post1"]),
    (MAMBA_SSM["2.3.2.post1"], CAUSAL_CONV1D["1.7.0"]),
]


class _LastState(torch.autograd.Function):
    """It has no gradient, and nobody is told: as in mamba-ssm."""

    @staticmethod
    def forward(ctx, state):
        return state.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


def bind(signature: str, arguments: tuple, named: dict) -> SimpleNamespace:
    """Arguments by name, as a function with this signature gets them; others are a TypeError."""
    scope: dict = {}
    exec(f"def function({signature}): return dict(locals())", scope)
    return SimpleNamespace(**scope["function"](*arguments, **named))


def check_scan(u, delta, A, B, C, D, z, delta_bias):
    """What ``selective_scan_cuda.fwd`` demands; B and C have an axis of groups."""
    batch, channels, time = u.shape
    assert u.dtype in mamba_ssm.DTYPES and A.dtype == torch.float32 and A.shape[0] == channels and A.shape[1] <= 256
    assert delta.dtype == B.dtype == C.dtype == u.dtype and delta.shape == u.shape
    assert B.shape == C.shape == (batch, 1, A.shape[1], time)
    assert all(t is None or (t.dtype == torch.float32 and t.shape == (channels,)) for t in (D, delta_bias))
    assert z is None or (z.dtype == u.dtype and z.shape == u.shape)
    assert all(t is None or t.stride(-1) == 1 or t.shape[-1] == 1 for t in (u, delta, B, C, D, z, delta_bias))


def check_conv(x, weight, bias):
    """What ``causal_conv1d_cuda.causal_conv1d_fwd`` demands."""
    _, channels, _ = x.shape
    assert x.dtype in mamba_ssm.DTYPES and 2 <= weight.shape[1] <= 4 and weight.shape[0] == channels
    assert x.stride(2) == 1 or x.stride(1) == 1
    if x.stride(1) == 1 and x.stride(2) > 1:
        assert channels % 8 == 0, "causal_conv1d only supports channel dimension divisible by 8 for now"
        assert x.stride(2) % 8 == 0 and x.stride(0) % 8 == 0
    assert bias is None or (bias.dtype == weight.dtype and bias.stride(-1) == 1 and bias.shape == (channels,))


def check_conv_step(facts: CausalConv1d, x, conv_state, weight, bias):
    """What ``causal_conv1d_cuda.causal_conv1d_update`` demands."""
    width = weight.shape[1]
    assert conv_state.dtype == x.dtype in mamba_ssm.DTYPES and 2 <= width <= 4
    frames = conv_state.shape[-1]
    assert frames == width if facts.state_has_width else frames >= width - 1
    assert bias is None or bias.dtype == weight.dtype


def scan_function(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """``selective_scan_fn``."""
    u, delta, B, C, z = (t if t is None or t.stride(-1) == 1 else t.contiguous() for t in (u, delta, B, C, z))
    check_scan(u, delta, A, B[:, None], C[:, None], D, z, delta_bias)
    u, delta, B, C, z = (None if t is None else t.transpose(1, 2) for t in (u, delta, B, C, z))
    y, last = reference.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state=True)
    return (y.transpose(1, 2), _LastState.apply(last)) if return_last_state else y.transpose(1, 2)


def scan_step(facts: MambaSsm):
    """``selective_state_update`` of a version."""

    def function(*arguments, **named):
        a = bind(facts.step, arguments, named)
        assert facts.step_compiles, "module 'triton.language.math' has no attribute 'log1p'"
        if facts.step_needs_all and (a.D is None or a.dt_bias is None):
            raise TypeError("print_function() argument after * must be an iterable, not int")
        step = step_of_heads if a.state.dim() == 4 else reference.selective_state_update
        y, after = step(a.state, a.x, a.dt, a.A, a.B, a.C, a.D, a.z, a.dt_bias, a.dt_softplus)
        a.state.copy_(after)  # in place
        return y

    return function


def step_of_heads(state, x, dt, A, B, C, D, z, dt_bias, softplus):
    """What the kernel of ``selective_state_update`` computes of heads, each number with its own parameters."""
    batch, heads, channels, _ = state.shape
    assert x.shape == dt.shape == (batch, heads, channels) and A.shape == state.shape[1:]
    assert B.shape == C.shape and B.shape[0] == batch and heads % B.shape[1] == 0
    assert D.shape == dt_bias.shape == (heads, channels) and (z is None or z.shape == x.shape)
    B, C = (t.float().repeat_interleave(heads // t.shape[1], 1)[:, :, None] for t in (B, C))
    step = dt.float() + dt_bias
    step = torch.nn.functional.softplus(step) if softplus else step
    after = torch.exp(step[..., None] * A) * state + (step * x.float())[..., None] * B
    y = (after * C).sum(-1) + D * x.float()
    return (y if z is None else y * torch.nn.functional.silu(z.float())).to(x.dtype), after


def check_ssd(x, dt, A, B, C, chunk_size, D, z, dt_bias, initial_states):
    """What ``mamba_chunk_scan_combined`` asserts, and what its kernels take."""
    batch, time, heads, channels = x.shape
    assert heads % B.shape[2] == 0 and B.shape[:2] == (batch, time) and C.shape == B.shape
    assert dt.shape == (batch, time, heads) and A.shape == (heads,)
    assert B.dtype == C.dtype == x.dtype in mamba_ssm.DTYPES and A.dtype == torch.float32
    assert z is None or (z.shape == x.shape and z.dtype == x.dtype)
    assert D is None or D.shape in ((heads, channels), (heads,))
    assert dt_bias is None or dt_bias.shape == (heads,)
    assert initial_states is None or initial_states.shape == (batch, heads, channels, B.shape[3])
    assert chunk_size & (chunk_size - 1) == 0


def ssd_function(facts: MambaSsm):
    """``mamba_chunk_scan_combined`` of a version."""

    def function(*arguments, **named):
        a = bind(facts.ssd, arguments, named)
        assert a.seq_idx is None
        check_ssd(a.x, a.dt, a.A, a.B, a.C, a.chunk_size, a.D, a.z, a.dt_bias, a.initial_states)
        y, last = reference.ssd(
            a.x, a.dt, a.A, a.B, a.C, a.D, a.z, a.dt_bias, a.dt_softplus, a.dt_limit,
            initial_state=a.initial_states, return_last_state=True,
        )  # fmt: skip
        return (y, last) if a.return_final_states else y

    return function


def conv_function(*arguments, **named):
    """``causal_conv1d_fn``."""
    a = bind(CONV, arguments, named)
    assert a.activation in (None, "silu", "swish") and a.initial_states is None and not a.return_final_states
    check_conv(a.x, a.weight, a.bias)
    return reference.causal_conv1d(a.x.transpose(1, 2), a.weight, a.bias, a.activation).transpose(1, 2)


def conv_step(facts: CausalConv1d):
    """``causal_conv1d_update`` of a version."""

    def function(*arguments, **named):
        a = bind(facts.step, arguments, named)
        check_conv_step(facts, a.x, a.conv_state, a.weight, a.bias)
        y, after = reference.causal_conv1d_update(a.x, a.conv_state, a.weight, a.bias, a.activation)
        a.conv_state.copy_(after)  # in place
        return y

    return function


def forget() -> None:
    """Let the adapters look for the packages again."""
    mamba_ssm._kernels.cache_clear()
    mamba_ssm._ssd_kernel.cache_clear()


@contextmanager
def installed(scan: MambaSsm, conv: CausalConv1d) -> Iterator[None]:
    """As if these versions were installed, for a device of type ``cpu``."""
    package, ops, triton = (ModuleType(name) for name in ("mamba_ssm", "ops", "triton"))
    interface, update, convolution = (ModuleType(name) for name in ("interface", "update", "causal_conv1d"))
    combined = ModuleType("ssd_combined")
    combined.mamba_chunk_scan_combined = ssd_function(scan)
    package.__version__, convolution.__version__ = scan.version, conv.version
    interface.selective_scan_fn, interface.selective_scan_cuda = scan_function, object() if scan.has_scan else None
    update.selective_state_update = scan_step(scan)
    convolution.causal_conv1d_fn, convolution.causal_conv1d_update = conv_function, conv_step(conv)
    modules = {
        "mamba_ssm": package,
        "mamba_ssm.ops": ops,
        "mamba_ssm.ops.triton": triton,
        "mamba_ssm.ops.selective_scan_interface": interface,
        "mamba_ssm.ops.triton.selective_state_update": update,
        "mamba_ssm.ops.triton.ssd_combined": combined,
        "causal_conv1d": convolution,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        patch.setattr(mamba_ssm, "DEVICE", "cpu")
        patch.setattr(registry, "_reasons", {})
        forget()
        yield
    forget()
