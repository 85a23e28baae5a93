"""Mamba layers: one direction, with a state to run step by step, and both directions.

Parameters carry the names of mamba-ssm (and its bidirectional descendants), so that published weights load.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from speechbrain_mamba.ops import (
    Direction,
    bidirectional_mamba_inner,
    causal_conv1d,
    causal_conv1d_update,
    mask_frames,
    scan_arguments,
    selective_scan,
    selective_state_update,
)
from speechbrain_mamba.ops.checks import check_lengths

MambaState = dict[str, Tensor]
"""The state of a causal layer between two frames.

``conv``, the last inputs of the convolution, is (batch, d_inner, d_conv - 1), and ``ssm``, the state of the scan,
(batch, d_inner, d_state) in float32 or float64.
"""


def draw_step_bias(count: int, dt_min: float, dt_max: float, dt_init_floor: float) -> Tensor:
    """Draw biases (count,) whose softplus, the step, is log-uniform in a range but not below a floor."""
    low, high = math.log(dt_min), math.log(dt_max)
    step = torch.exp(torch.rand(count) * (high - low) + low).clamp(min=dt_init_floor)
    return step + torch.log(-torch.expm1(-step))  # the inverse of softplus


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


class ScaledLinear(nn.Linear):
    """A linear layer whose initial weights, Kaiming-uniform(a=sqrt 5), are scaled: the end of a residual branch.

    Arguments
    ---------
    in_features, out_features : int
        Sizes.
    bias : bool
        Whether to add a bias.
    init_scale : float
        Factor on the initial weights.

    Example
    -------
    >>> bool(ScaledLinear(4, 4, init_scale=0.0).weight.any())
    False
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, init_scale: float = 1.0):
        self.init_scale = init_scale
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        """Draw weight and bias again."""
        super().reset_parameters()
        with torch.no_grad():
            self.weight.mul_(self.init_scale)


class _MambaLayer(nn.Module):
    """The common part of both layers: projections in and out, a convolution and a scan for each direction of time."""

    _suffixes: tuple[str, ...]
    """The ends of the names of each direction's parameters."""

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
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.masks_input = masks_input
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias)
        for suffix in self._suffixes:
            self._add_direction(suffix, conv_bias, dt_init)
        self.out_proj = ScaledLinear(self.d_inner, d_model, bias=bias, init_scale=out_proj_init_scale)
        self.reset_parameters()

    def _add_direction(self, suffix: str, conv_bias: bool, dt_init: dict[str, float]) -> None:
        """Register the parameters of one direction of time; the names of the reverse direction carry a suffix."""
        d_inner, d_state = self.d_inner, self.d_state
        conv1d = nn.Conv1d(d_inner, d_inner, self.d_conv, groups=d_inner, bias=conv_bias)
        self.register_module(f"conv1d{suffix}", conv1d)
        self.register_module(f"x_proj{suffix}", nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False))
        self.register_module(f"dt_proj{suffix}", DeltaProjection(self.dt_rank, d_inner, **dt_init))
        self.register_parameter(f"A{suffix}_log", nn.Parameter(torch.empty(d_inner, d_state)))
        self.register_parameter(f"D{suffix}", nn.Parameter(torch.empty(d_inner)))

    def reset_parameters(self) -> None:
        """Reset the scan's own parameters; each submodule has its own ``reset_parameters``."""
        with torch.no_grad():
            for name, parameter in self.named_parameters(recurse=False):
                if name.endswith("_log"):  # S4D-real: the states decay at rates 1, 2, ..., d_state
                    parameter.copy_(torch.arange(1, self.d_state + 1).log().expand_as(parameter))
                else:
                    parameter.fill_(1.0)

    def _direction(self, suffix: str) -> Direction:
        """The parameters of one direction, as the operations take them."""
        conv1d, dt_proj = getattr(self, f"conv1d{suffix}"), getattr(self, f"dt_proj{suffix}")
        A_log = getattr(self, f"A{suffix}_log")
        return Direction(
            conv_weight=conv1d.weight.squeeze(1),
            conv_bias=conv1d.bias,
            x_proj_weight=getattr(self, f"x_proj{suffix}").weight,
            dt_proj_weight=dt_proj.weight,
            delta_bias=dt_proj.bias,
            A=-torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32))),
            D=getattr(self, f"D{suffix}"),
        )

    def _project_in(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The inner input and its gate, (batch, time, 2 * d_inner)."""
        return self.in_proj(mask_frames(x, lengths) if self.masks_input else x)

    def _scan(
        self,
        x: Tensor,
        z: Tensor,
        lengths: Tensor | None,
        suffix: str = "",
        state: MambaState | None = None,
        reverse: bool = False,
    ) -> tuple[Tensor, MambaState]:
        """Convolution and scan of one direction, from a state; returns the gated output and the state after it."""
        direction = self._direction(suffix)
        u, conv = causal_conv1d(
            x, *direction.filters, "silu", lengths=lengths, reverse=reverse,
            initial_state=None if state is None else state["conv"], return_final_state=True,
        )  # fmt: skip
        _, delta, A, B, C, D, delta_bias = scan_arguments(u, direction)
        y, ssm = selective_scan(
            u, delta, A, B, C, D, z, delta_bias, True, lengths=lengths, reverse=reverse,
            initial_state=None if state is None else state["ssm"], return_last_state=True,
        )  # fmt: skip
        return y, {"conv": conv, "ssm": ssm}

    def _project_out(self, y: Tensor, lengths: Tensor | None) -> Tensor:
        y = self.out_proj(y)
        return y if self.out_proj.bias is None else mask_frames(y, lengths)


class Mamba(_MambaLayer):
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
    expand : int
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

    _suffixes = ("",)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: MambaState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, MambaState]:
        """Run the layer over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model).
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); frames past them give zeros.
        state : dict, optional
            State to start from, returned by :meth:`init_state` or an earlier call.
        return_state : bool
            Whether to return the state after each example's last valid frame too.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state.
        """
        lengths = check_lengths("Mamba", lengths, x.shape[0], x.shape[1], x.device)
        x, z = self._project_in(x, lengths).chunk(2, dim=-1)
        y, state = self._scan(x, z, lengths, state=state)
        y = self._project_out(y, lengths)
        return (y, state) if return_state else y

    def init_state(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MambaState:
        """The state before the first frame.

        Arguments
        ---------
        batch_size : int
            Number of examples.
        device : torch.device, optional
            Device; that of the parameters by default.
        dtype : torch.dtype, optional
            Type of the convolution's state; that of the parameters by default. The scan's state is always float32.

        Returns
        -------
        dict of str to Tensor
            ``conv`` (batch, d_inner, d_conv - 1) and ``ssm`` (batch, d_inner, d_state).
        """
        weight = self.in_proj.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        scan_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        return {
            "conv": torch.zeros(batch_size, self.d_inner, self.d_conv - 1, device=device, dtype=dtype),
            "ssm": torch.zeros(batch_size, self.d_inner, self.d_state, device=device, dtype=scan_dtype),
        }

    def step(self, x_t: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Run the layer over one frame.

        Arguments
        ---------
        x_t : Tensor
            Input frame (batch, d_model).
        state : dict
            State before the frame.

        Returns
        -------
        y_t : Tensor
            Output frame (batch, d_model).
        state : dict
            State after the frame; the given one is not changed.
        """
        x, z = self.in_proj(x_t).chunk(2, dim=-1)
        direction = self._direction("")
        u, conv_state = causal_conv1d_update(x, state["conv"], *direction.filters, "silu")
        _, delta, A, B, C, D, delta_bias = scan_arguments(u, direction)
        y, ssm_state = selective_state_update(state["ssm"], u, delta, A, B, C, D, z, delta_bias, True)
        return self.out_proj(y), {"conv": conv_state, "ssm": ssm_state}


class BiMamba(_MambaLayer):
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

    _suffixes = ("", "_b")

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Run the layer over whole sequences.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model).
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); frames past them give zeros.

        Returns
        -------
        Tensor
            Output (batch, time, d_model).
        """
        lengths = check_lengths("BiMamba", lengths, x.shape[0], x.shape[1], x.device)
        forward, reverse = (self._direction(suffix) for suffix in self._suffixes)
        weight, bias = self.out_proj.weight, self.out_proj.bias
        return bidirectional_mamba_inner(self._project_in(x, lengths), forward, reverse, weight, bias, lengths=lengths)
