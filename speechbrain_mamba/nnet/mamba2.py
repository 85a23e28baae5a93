"""Mamba-2 layers: one direction, with a state to run step by step, and both directions.

Parameters carry the names of mamba-ssm's ``Mamba2``, so that its weights load; the reverse direction adds ``_b``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.nnet.mamba_layer import (
    BidirectionalLayer,
    CausalLayer,
    MambaLayer,
    Parts,
    ScaledLinear,
    draw_step_bias,
)
from speechbrain_mamba.ops import SsdInputs, bidirectional_causal_conv1d, bidirectional_ssd, ssd, ssd_update
from speechbrain_mamba.ops.ssd import NO_LIMIT


class GatedRMSNorm(nn.Module):
    """RMS norm within groups of channels, gated by ``silu(z)`` before or after; computed in float32.

    Arguments
    ---------
    channels : int
        Number of channels.
    groups : int
        Groups of successive channels that are normalized separately.
    norm_before_gate : bool
        Whether the gate multiplies the norm's output instead of its input.
    eps : float
        Added to the mean square.

    Example
    -------
    >>> GatedRMSNorm(8, groups=2)(torch.randn(2, 10, 8), torch.randn(2, 10, 8)).shape
    torch.Size([2, 10, 8])
    """

    def __init__(self, channels: int, groups: int = 1, norm_before_gate: bool = False, eps: float = 1e-5):
        super().__init__()
        self.groups, self.norm_before_gate, self.eps = groups, norm_before_gate, eps
        self.weight = nn.Parameter(torch.ones(channels))

    def reset_parameters(self) -> None:
        """Set the weights to one."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Normalize and gate.

        Arguments
        ---------
        x, z : Tensor
            Input and gate before its SiLU, (..., channels).

        Returns
        -------
        Tensor
            Output, like ``x``.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        y, gate = x.to(dtype), F.silu(z.to(dtype))
        if not self.norm_before_gate:
            y = y * gate
        y = y.unflatten(-1, (self.groups, -1))
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        y = y.flatten(-2) * self.weight.to(dtype)
        return (y * gate if self.norm_before_gate else y).to(x.dtype)


class _Mamba2Layer(MambaLayer):
    """The common part of both layers: their parameters, and how the scan takes them."""

    _scan_op = staticmethod(ssd)

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: float = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = NO_LIMIT,
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int | None = None,
        out_proj_init_scale: float = 1.0,
        masks_input: bool = True,
    ):
        super().__init__(d_model, d_state, d_conv, expand, masks_input)
        name = type(self).__name__
        self.headdim, self.ngroups, self.D_has_hdim, self.rmsnorm = headdim, ngroups, D_has_hdim, rmsnorm
        self.dt_min, self.dt_max, self.dt_init_floor = dt_min, dt_max, dt_init_floor
        self.dt_limit, self.A_init_range = (dt_limit[0], dt_limit[1]), (A_init_range[0], A_init_range[1])
        self.chunk_size = chunk_size
        self.d_ssm = self.d_inner if d_ssm is None else d_ssm
        self.d_mlp = self.d_inner - self.d_ssm
        if not 0 < self.d_ssm <= self.d_inner:
            raise ValueError(f"{name}: d_ssm is {d_ssm}, but must be between 1 and the {self.d_inner} inner channels.")
        if self.d_ssm % headdim:
            raise ValueError(f"{name}: {self.d_ssm} inner channels do not divide into heads of headdim = {headdim}.")
        self.nheads = self.d_ssm // headdim
        if self.nheads % ngroups:
            raise ValueError(
                f"{name}: {self.nheads} heads ({self.d_ssm} inner channels by headdim = {headdim}) do not divide into "
                f"ngroups = {ngroups}."
            )
        if not 0 < self.A_init_range[0] <= self.A_init_range[1]:
            raise ValueError(f"{name}: A_init_range is {A_init_range}, but must be two positive numbers in order.")
        self.conv_dim = self.d_ssm + 2 * ngroups * d_state
        widths = 2 * self.d_mlp + self.d_ssm + self.conv_dim + self.nheads
        self.in_proj = nn.Linear(d_model, widths, bias=bias)
        for suffix in self.suffixes:
            self._add_convolution(suffix, self.conv_dim, conv_bias)
            self.register_parameter(f"dt_bias{suffix}", nn.Parameter(torch.empty(self.nheads)))
            self.register_parameter(f"A{suffix}_log", nn.Parameter(torch.empty(self.nheads)))
            skips = self.d_ssm if D_has_hdim else self.nheads
            self.register_parameter(f"D{suffix}", nn.Parameter(torch.empty(skips)))
        if rmsnorm:
            self.norm = GatedRMSNorm(self.d_ssm, ngroups, norm_before_gate)
        self.out_proj = ScaledLinear(self.d_inner, d_model, bias=bias, init_scale=out_proj_init_scale)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the scan's own parameters; each submodule has its own ``reset_parameters``."""
        if self.in_proj.weight.is_meta:  # only counted: torch would import its compiler to compute no numbers
            return
        with torch.no_grad():
            for suffix in self.suffixes:
                bias = draw_step_bias(self.nheads, self.dt_min, self.dt_max, self.dt_init_floor)
                self.get_parameter(f"dt_bias{suffix}").copy_(bias)
                self.get_parameter(f"A{suffix}_log").uniform_(*self.A_init_range).log_()
                self.get_parameter(f"D{suffix}").fill_(1.0)

    def _project_in(self, x: Tensor) -> Parts:
        """The input of the convolution, the gate z, the steps, and the input of the gated MLP."""
        widths = [2 * self.d_mlp, self.d_ssm, self.conv_dim, self.nheads]
        mlp, z, inputs, delta = self.in_proj(x).split(widths, dim=-1)
        return inputs, z, delta, mlp

    def _scan_arguments(self, convolved: Tensor, parts: Parts, suffix: str) -> tuple:
        _, z, delta, _ = parts
        maps = self.ngroups * self.d_state
        x, B, C = convolved.split([self.d_ssm, maps, maps], dim=-1)
        D = self.get_parameter(f"D{suffix}")
        skip = self._by_head(D) if self.D_has_hdim else D
        gate = None if self.rmsnorm or z is None else self._by_head(z)
        B, C = (t.unflatten(-1, (self.ngroups, self.d_state)) for t in (B, C))
        dt_bias = self.get_parameter(f"dt_bias{suffix}")
        return self._by_head(x), delta, self._rates(suffix), B, C, skip, gate, dt_bias, True, self.dt_limit

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.nheads, self.headdim))

    def _scan_options(self) -> dict[str, Any]:
        return {"chunk_size": self.chunk_size}

    def _project_out(self, y: Tensor, parts: Parts) -> Tensor:
        """The output, from the scan's (..., heads, headdim)."""
        _, z, _, mlp = parts
        y = y.flatten(-2)
        if self.rmsnorm:
            y = self.norm(y, z)
        if self.d_mlp:
            gate, value = mlp.chunk(2, dim=-1)
            y = torch.cat([F.silu(gate) * value, y], dim=-1)
        return self.out_proj(y)

    def _fills_padding(self) -> bool:
        return self.d_mlp > 0 or super()._fills_padding()


class Mamba2(CausalLayer, _Mamba2Layer):
    """A Mamba-2 layer: a scan with one decay per head, gated, between projections (Dao and Gu, arXiv 2405.21060).

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
    headdim : int
        Channels of a head.
    d_ssm : int, optional
        Inner channels that are scanned, all by default; the others are a gated MLP.
    ngroups : int
        Groups of heads that share B and C, and of channels that are normalized together.
    A_init_range : tuple of float
        The heads' rates of decay are drawn from this range.
    D_has_hdim : bool
        Whether the skip connection has a weight per channel instead of one per head.
    rmsnorm : bool
        Whether the gated output is normalized.
    norm_before_gate : bool
        Whether it is normalized before the gate instead of after it.
    dt_min, dt_max, dt_init_floor : float
        The steps are initialized log-uniformly in this range, but not below the floor.
    dt_limit : tuple of float
        Smallest and largest step.
    bias : bool
        Whether the input and output projections have one.
    conv_bias : bool
        Whether the convolution has a bias.
    chunk_size : int, optional
        A hint for the scan's speed and memory, see :func:`speechbrain_mamba.ops.ssd`; the result is the same.
    out_proj_init_scale : float
        Factor on the initial weights of the output projection; stacks of residual layers set 1 / sqrt(layers).
    masks_input : bool
        As in :class:`speechbrain_mamba.nnet.mamba.Mamba`.

    Example
    -------
    >>> layer = Mamba2(d_model=8, d_state=4, headdim=4)
    >>> x = torch.randn(2, 10, 8)
    >>> y = layer(x, lengths=torch.tensor([7, 10]))
    >>> y.shape
    torch.Size([2, 10, 8])
    >>> head, state = layer(x[:, :4], return_state=True)
    >>> fifth, state = layer.step(x[:, 4], state)
    >>> torch.allclose(fifth, y[:, 4], atol=1e-5)
    True
    """

    _step_op = staticmethod(ssd_update)

    def _state_shapes(self) -> tuple[int, tuple[int, ...]]:
        return self.conv_dim, (self.nheads, self.headdim, self.d_state)


class BiMamba2(BidirectionalLayer, _Mamba2Layer):
    """A bidirectional Mamba-2 layer: two scans, averaged between shared projections.

    It is to :class:`Mamba2` what :class:`speechbrain_mamba.nnet.mamba.BiMamba` is to Mamba (arXiv 2407.09732): input
    projection, gate, norm and output projection are shared, and each direction has its own convolution, ``dt_bias``,
    ``A_log`` and ``D``. It has no state, as it sees the future.

    Arguments
    ---------
    d_model, d_state, d_conv, expand, headdim, d_ssm, ngroups, ...
        As in :class:`Mamba2`.

    Example
    -------
    >>> layer = BiMamba2(d_model=8, d_state=4, headdim=4)
    >>> x, lengths = torch.randn(2, 10, 8), torch.tensor([7, 10])
    >>> y = layer(x, lengths)
    >>> alone = layer(x[:1, :7])
    >>> torch.allclose(y[:1, :7], alone, atol=1e-5)
    True
    """

    def _both_directions(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        parts = self._project_in(x)
        forward, reverse = (self._filters(suffix) for suffix in self.suffixes)
        both = bidirectional_causal_conv1d(parts[0], forward, reverse, "silu", lengths=lengths)
        arguments = [self._scan_arguments(convolved, parts, suffix) for convolved, suffix in zip(both, self.suffixes)]
        *_, gate, _, softplus, limits = arguments[0]
        forward_scan, reverse_scan = (
            SsdInputs(x, delta, A, B, C, D, bias) for x, delta, A, B, C, D, _, bias, _, _ in arguments
        )
        y = bidirectional_ssd(
            forward_scan, reverse_scan, gate, softplus, limits, lengths=lengths, chunk_size=self.chunk_size
        )
        return self._finish(y, parts, lengths)

    def _project_scanned(self, x: Tensor) -> tuple[Tensor, ...]:
        beside = 2 * self.d_mlp + self.d_ssm
        return self._project_rows(x, slice(beside, None)).split([self.conv_dim, self.nheads], dim=-1)

    def _scan_piece(
        self, scanned: tuple[Tensor, ...], lengths: Tensor | None, suffix: str, state: Any
    ) -> tuple[Tensor, Any]:
        inputs, delta = scanned
        return self._scan((inputs, None, delta, None), lengths, suffix, state, reverse=suffix == "_b")

    def _finish_piece(self, y: Tensor, x: Tensor, lengths: Tensor | None) -> Tensor:
        mlp, z = self._project_rows(x, slice(2 * self.d_mlp + self.d_ssm)).split([2 * self.d_mlp, self.d_ssm], dim=-1)
        if not self.rmsnorm:
            y = y.mul_(F.silu(self._by_head(z)))
        return self._finish(y, (None, z, None, mlp), lengths)
