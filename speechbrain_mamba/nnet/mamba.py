"""Mamba layers: one direction, with a state to run step by step, and both directions.

Parameters carry the names of mamba-ssm (and its bidirectional descendants), so that published weights load.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.nnet.few_rows import linear_step, plain_linear
from speechbrain_mamba.nnet.mamba_layer import (
    BidirectionalLayer,
    CausalLayer,
    MambaLayer,
    MambaState,
    Parts,
    ScaledLinear,
    draw_step_bias,
)
from speechbrain_mamba.ops import (
    Direction,
    FeedForwardPart,
    MixerPart,
    Norm,
    PackedBlock,
    bidirectional_mamba_inner,
    block_step,
    mamba_inner,
    mamba_inner_update,
    pack_block,
    pack_step,
    scan_arguments,
    selective_scan,
)

__all__ = ["BiMamba", "DeltaProjection", "Mamba", "MambaState", "ScaledLinear"]


class DeltaProjection(nn.Linear):
    """The projection from the low-rank step to all channels, initialized so that softplus(bias) spreads over a range.

    Arguments
    ---------
    dt_rank : int
        Rank of the step.
    d_inner : int
        Number of channels.
    dt_min, dt_max : float
        The steps softplus(bias) are drawn log-uniformly from this range.
    dt_init_floor : float
        Smallest step drawn.
    dt_scale : float
        Scale of the weights, which are uniform in ±dt_scale / sqrt(dt_rank).

    Example
    -------
    >>> step = nn.functional.softplus(DeltaProjection(4, 16).bias)
    >>> bool((step >= 0.001 - 1e-6).all() and (step <= 0.1 + 1e-6).all())
    True
    """

    def __init__(
        self,
        dt_rank: int,
        d_inner: int,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_scale: float = 1.0,
    ):
        self.dt_min, self.dt_max, self.dt_init_floor, self.dt_scale = dt_min, dt_max, dt_init_floor, dt_scale
        super().__init__(dt_rank, d_inner)

    def reset_parameters(self) -> None:
        """Draw weight and bias again."""
        bound = self.dt_scale / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        with torch.no_grad():
            self.bias.copy_(draw_step_bias(self.out_features, self.dt_min, self.dt_max, self.dt_init_floor))


class _Mamba1Layer(MambaLayer):
    """The common part of both layers: their parameters, and how the scan takes them."""

    _scan_op = staticmethod(selective_scan)

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | Literal["auto"] = "auto",
        conv_bias: bool = True,
        bias: bool = False,
        out_proj_init_scale: float = 1.0,
        masks_input: bool = True,
        **dt_init: float,
    ):
        super().__init__(d_model, d_state, d_conv, expand, masks_input)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias)
        for suffix in self.suffixes:
            self._add_direction(suffix, conv_bias, dt_init)
        self.out_proj = ScaledLinear(self.d_inner, d_model, bias=bias, init_scale=out_proj_init_scale)
        self.reset_parameters()

    def _add_direction(self, suffix: str, conv_bias: bool, dt_init: dict[str, float]) -> None:
        """Register the parameters of one direction of time; the names of the reverse direction carry a suffix."""
        d_inner, d_state = self.d_inner, self.d_state
        self._add_convolution(suffix, d_inner, conv_bias)
        self.register_module(f"x_proj{suffix}", nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False))
        self.register_module(f"dt_proj{suffix}", DeltaProjection(self.dt_rank, d_inner, **dt_init))
        self.register_parameter(f"A{suffix}_log", nn.Parameter(torch.empty(d_inner, d_state)))
        self.register_parameter(f"D{suffix}", nn.Parameter(torch.empty(d_inner)))

    def reset_parameters(self) -> None:
        """Reset the scan's own parameters; each submodule has its own ``reset_parameters``."""
        with torch.no_grad():
            for name, parameter in self.named_parameters(recurse=False):
                if parameter.is_meta:  # only counted: torch would import its compiler to compute no numbers
                    continue
                if name.endswith("_log"):  # S4D-real: the states decay at rates 1, 2, ..., d_state
                    parameter.copy_(torch.arange(1, self.d_state + 1).log().expand_as(parameter))
                else:
                    parameter.fill_(1.0)

    def _direction(self, suffix: str) -> Direction:
        """The parameters of one direction, as the operations take them."""
        dt_proj = getattr(self, f"dt_proj{suffix}")
        return Direction(
            *self._filters(suffix),
            x_proj_weight=getattr(self, f"x_proj{suffix}").weight,
            dt_proj_weight=dt_proj.weight,
            delta_bias=dt_proj.bias,
            A=self._rates(suffix),
            D=self.get_parameter(f"D{suffix}"),
        )

    def _project_in(self, x: Tensor) -> Parts:
        """The inner input and its gate, (..., d_inner) each."""
        return self.in_proj(x).chunk(2, dim=-1)

    def _scan_arguments(self, convolved: Tensor, parts: Parts, suffix: str) -> tuple:
        u, delta, A, B, C, D, delta_bias = scan_arguments(convolved, self._direction(suffix))
        return u, delta, A, B, C, D, parts[1], delta_bias, True

    def _project_out(self, y: Tensor, parts: Parts) -> Tensor:
        return self.out_proj(y)


class Mamba(CausalLayer, _Mamba1Layer):
    """A Mamba layer: gated selective scan over a short causal convolution (Gu and Dao, arXiv 2312.00752, figure 3).

    It sees the past only, and can run in chunks or step by step from a state, with the same output as in one go.

    Arguments
    ---------
    d_model : int
        Channels of input and output.
    d_state : int
        States per inner channel.
    d_conv : int
        Width of the convolution, in frames.
    expand : float
        Inner channels per channel of ``d_model``.
    dt_rank : int or str
        Rank of the projection to the scan's step; ``auto`` is ceil(d_model / 16).
    conv_bias : bool
        Whether the convolution has a bias.
    bias : bool
        Whether the input and output projections have one.
    out_proj_init_scale : float
        Factor on the initial weights of the output projection; stacks of residual layers set 1 / sqrt(layers).
    masks_input : bool
        Whether the layer sets the frames past the lengths to zero first, since even an infinite value there must not
        reach a gradient. A stack that has masked its own input switches it off: what it hands on is finite.
    **dt_init
        ``dt_min``, ``dt_max``, ``dt_init_floor`` and ``dt_scale`` of :class:`DeltaProjection`.

    Example
    -------
    >>> layer = Mamba(d_model=8, d_state=4)
    >>> x = torch.randn(2, 10, 8)
    >>> y = layer(x, lengths=torch.tensor([7, 10]))
    >>> y.shape
    torch.Size([2, 10, 8])
    >>> head, state = layer(x[:, :4], return_state=True)
    >>> fifth, state = layer.step(x[:, 4], state)
    >>> torch.allclose(fifth, y[:, 4], atol=1e-5)
    True
    """

    projections_kept = ("x_proj", "dt_proj")
    """What goes into the operation of a step as it is."""

    def step(self, x_t: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Run the layer over one frame, see :meth:`CausalLayer.step`: as one operation, or one between projections that
        have to be called."""
        block = self.keep_for_steps((self,), self.pack_block)
        if block is not None:
            return self.step_block(x_t, state, block)
        inner = self._kept.get((self,), lambda: pack_step(self._direction("")), (self.in_proj, self.out_proj))
        inner = self._direction("") if inner is None else inner
        xz = linear_step(self.in_proj, x_t)
        y, conv, ssm = mamba_inner_update(xz, state["conv"], state["ssm"], inner)
        return linear_step(self.out_proj, y), {"conv": conv, "ssm": ssm}

    def pack_block(
        self, norm: Norm | None = None, network: FeedForwardPart | None = None, adds_input: bool = False
    ) -> PackedBlock | None:
        """Pack the layer for steps with the normalization before it and the feed-forward network after it.

        Arguments
        ---------
        norm : Norm, optional
            The normalization before the layer.
        network : FeedForwardPart, optional
            The feed-forward network after it.
        adds_input : bool
            Whether the input of the normalization is added to the layer's output.

        Returns
        -------
        PackedBlock or None
            What :meth:`step_block` takes; None where no kernel does, or a projection is more than its weights.
        """
        in_proj, out_proj = plain_linear(self.in_proj), plain_linear(self.out_proj)
        if in_proj is None or out_proj is None or type(self).step is not Mamba.step:
            return None
        block = pack_block(MixerPart(norm, in_proj, self._direction(""), out_proj, adds_input), network)
        return None if block.packed is None else block

    def step_block(self, x_t: Tensor, state: MambaState, block: PackedBlock) -> tuple[Tensor, MambaState]:
        """Run a block packed by :meth:`pack_block` over one frame, (batch, d_model), as :meth:`step` does the layer."""
        y, after = block_step(x_t, (state["conv"], state["ssm"]), block)
        assert after is not None
        return y, {"conv": after[0], "ssm": after[1]}

    def _state_shapes(self) -> tuple[int, tuple[int, ...]]:
        return self.d_inner, (self.d_inner, self.d_state)


class BiMamba(BidirectionalLayer, _Mamba1Layer):
    """A bidirectional Mamba layer: two scans, each with its own parameters, averaged between shared projections.

    ``out_proj(0.5 * y_forward + 0.5 * y_reverse)``, each direction gated by the same ``silu(z)``: the bidirectional
    layer of "Speech Slytherin" (arXiv 2407.09732). It has no state, as it sees the future.

    Arguments
    ---------
    d_model, d_state, d_conv, expand, dt_rank, conv_bias, bias, out_proj_init_scale, masks_input, **dt_init
        As in :class:`Mamba`.

    Example
    -------
    >>> layer = BiMamba(d_model=8, d_state=4)
    >>> x, lengths = torch.randn(2, 10, 8), torch.tensor([7, 10])
    >>> y = layer(x, lengths)
    >>> alone = layer(x[:1, :7])
    >>> torch.allclose(y[:1, :7], alone, atol=1e-5)
    True
    """

    projections_kept = ("dt_proj", "dt_proj_b")
    """What is multiplied out within the scan."""

    def _both_directions(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        forward, reverse = (self._direction(suffix) for suffix in self.suffixes)
        weight, bias = self.out_proj.weight, self.out_proj.bias
        return bidirectional_mamba_inner(self.in_proj(x), forward, reverse, weight, bias, lengths=lengths)

    def _project_scanned(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self._project_rows(x, slice(self.d_inner)),)

    def _scan_piece(
        self, scanned: tuple[Tensor, ...], lengths: Tensor | None, suffix: str, state: Any
    ) -> tuple[Tensor, Any]:
        direction = self._direction(suffix)
        return mamba_inner(scanned[0], direction, lengths=lengths, reverse=suffix == "_b", initial_state=state)

    def _finish_piece(self, y: Tensor, x: Tensor, lengths: Tensor | None) -> Tensor:
        gate = F.silu(self._project_rows(x, slice(self.d_inner, None)))
        return self._finish(y.mul_(gate), (), lengths)
