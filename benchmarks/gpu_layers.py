"""Bidirectional layers to compare: ours of Mamba and Mamba-2, those that users can make of mamba-ssm, and attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.nnet.mamba import BiMamba
from speechbrain_mamba.nnet.mamba2 import BiMamba2

try:
    from causal_conv1d import causal_conv1d_fn
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, selective_scan_fn
except Exception:  # these packages import much, which may be missing
    causal_conv1d_fn = mamba_inner_fn = selective_scan_fn = None


class Published(nn.Module):
    """The published layer with the parameters of one of this package, channels before time as its kernels want it.

    Arguments
    ---------
    layer : BiMamba
        The parameters.
    fused : bool
        Whether each direction is mamba-ssm's ``mamba_inner_fn``, which recomputes in the backward pass and brings its
        own output projection; otherwise convolution, projections and scan one after the other, and one projection.
    """

    def __init__(self, layer: BiMamba, fused: bool):
        super().__init__()
        self.layer, self.fused = layer, fused

    def _direction(self, xz: Tensor, suffix: str) -> Tensor:
        layer = self.layer
        conv, x_proj, dt_proj = (getattr(layer, f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj"))
        A, D = -torch.exp(getattr(layer, f"A{suffix}_log").float()), getattr(layer, f"D{suffix}").float()
        if self.fused:
            return mamba_inner_fn(
                xz, conv.weight, conv.bias, x_proj.weight, dt_proj.weight, layer.out_proj.weight, layer.out_proj.bias,
                A, None, None, D, delta_bias=dt_proj.bias.float(), delta_softplus=True,
            )  # fmt: skip
        x, z = xz.chunk(2, 1)
        batch, _, time = x.shape
        u = causal_conv1d_fn(x, conv.weight.squeeze(1).to(x.dtype), conv.bias.to(x.dtype), activation="silu")
        maps = x_proj(u.transpose(1, 2).reshape(batch * time, -1))
        factor, B, C = maps.split([layer.dt_rank, layer.d_state, layer.d_state], -1)
        delta = (dt_proj.weight.to(maps.dtype) @ factor.t()).unflatten(1, (batch, time)).transpose(0, 1)
        B, C = (t.unflatten(0, (batch, time)).transpose(1, 2).contiguous() for t in (B, C))
        return selective_scan_fn(u, delta, A, B, C, D, z, dt_proj.bias.float(), delta_softplus=True)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer over (batch, time, d_model)."""
        batch, time, _ = x.shape
        # the product comes out with channels first, without a transpose
        xz = F.linear(self.layer.in_proj.weight, x.reshape(batch * time, -1)).unflatten(1, (batch, time))
        xz = xz.transpose(0, 1)
        y, y_reverse = self._direction(xz, ""), self._direction(xz.flip(-1), "_b")
        if self.fused:
            return 0.5 * (y + y_reverse.flip(1))
        return self.layer.out_proj(0.5 * (y + y_reverse.flip(-1)).transpose(1, 2))


class Attention(nn.Module):
    """Self-attention with heads of 64 channels and projections in and out."""

    def __init__(self, d_model: int):
        super().__init__()
        self.heads = max(1, d_model // 64)
        self.in_proj, self.out_proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer over (batch, time, d_model)."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.in_proj(x).chunk(3, -1))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def mamba2(d_model: int, states: int) -> BiMamba2:
    """A bidirectional layer of Mamba-2, with heads of 64 channels if these divide its inner ones."""
    return BiMamba2(d_model, d_state=states, headdim=math.gcd(64, 2 * d_model))


def candidates(mamba2_states: Sequence[int] = ()) -> dict[str, Callable[[int], nn.Module]]:
    """Every layer that can be made here, by name, from the channels of input and output; ours of Mamba-2 with each of
    some numbers of states."""
    made: dict[str, Callable[[int], nn.Module]] = {"ours": BiMamba}
    made |= {f"ours, Mamba-2, {states} states": partial(mamba2, states=states) for states in mamba2_states}
    if mamba_inner_fn is not None:
        made["published, fused"] = lambda d_model: Published(BiMamba(d_model), fused=True)
        made["published, composed"] = lambda d_model: Published(BiMamba(d_model), fused=False)
    return made | {"attention": Attention}
