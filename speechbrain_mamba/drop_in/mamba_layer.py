"""``mamba_ssm.modules.mamba_simple.Mamba``, on our operations."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.drop_in.convolution import causal_conv1d_update
from speechbrain_mamba.drop_in.layer_state import CachedLayer, InferenceParams, keep_last, step_bias
from speechbrain_mamba.drop_in.selective_scan import frames_first, mamba_inner_fn
from speechbrain_mamba.drop_in.state_update import selective_state_update
from speechbrain_mamba.ops import causal_conv1d, selective_scan


class Mamba(CachedLayer):
    """A Mamba layer with the constructor, the weights and the methods of mamba-ssm's.

    Initial weights are drawn in its order, so that a seed gives the same layer. Models of ours are built on
    :class:`speechbrain_mamba.nnet.mamba.Mamba`, which takes lengths and returns its state; weights fit both.

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
        Rank of the projection to the step; ``auto`` is ceil(d_model / 16).
    dt_min, dt_max, dt_init_floor : float
        The steps are initialized log-uniformly in this range, but not below the floor.
    dt_init : str
        ``random`` or ``constant`` initial weights of the step's projection.
    dt_scale : float
        Their scale.
    conv_bias, bias : bool
        Whether the convolution has a bias, and whether the projections have one.
    use_fast_path : bool
        Chooses a fused kernel in mamba-ssm; here it is kept, and both paths compute the same.
    layer_idx : int, optional
        Where the layer keeps its states in the ``inference_params``.
    device, dtype
        Of the parameters; ``A_log`` and ``D`` are float32 whatever ``dtype``.

    Example
    -------
    >>> layer = Mamba(d_model=8, d_state=4)
    >>> x = torch.randn(2, 10, 8)
    >>> layer(x).shape
    torch.Size([2, 10, 8])
    >>> states = layer.allocate_inference_cache(batch_size=2, max_seqlen=10)
    >>> first, *states = layer.step(x[:, :1], *states)
    >>> torch.allclose(first, layer(x)[:, :1], atol=1e-5)
    True
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if dt_init not in ("random", "constant"):
            raise ValueError(f"Mamba: dt_init is {dt_init!r}, but must be 'random' or 'constant'.")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.use_fast_path, self.layer_idx = use_fast_path, layer_idx
        self.activation, self.act = "silu", nn.SiLU()
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **factory)
        self.conv1d = nn.Conv1d(
            self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1, bias=conv_bias, **factory
        )
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **factory)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner, **factory)
        scale = self.dt_rank**-0.5 * dt_scale
        with torch.no_grad():
            if dt_init == "constant":
                self.dt_proj.weight.fill_(scale)
            else:
                self.dt_proj.weight.uniform_(-scale, scale)
            self.dt_proj.bias.copy_(step_bias(self.d_inner, dt_min, dt_max, dt_init_floor, **factory))
        self.dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]  # for initializers that clear biases
        rates = torch.arange(1, d_state + 1, dtype=torch.float32, device=device).repeat(self.d_inner, 1)
        self.A_log = nn.Parameter(rates.log())
        self.D = nn.Parameter(torch.ones(self.d_inner, device=device))
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]  # for optimizers that look for it
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)

    def _filters(self) -> tuple[Tensor, Tensor | None]:
        return self.conv1d.weight.squeeze(1), self.conv1d.bias

    def _scan_arguments(self, x: Tensor) -> tuple[Tensor, ...]:
        """The inputs of the scan or a step, (..., channels): step, A, B, C, D; the step's bias is left to the scan."""
        factor, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return F.linear(factor, self.dt_proj.weight), -torch.exp(self.A_log.float()), B, C, self.D.float()

    def forward(self, hidden_states: Tensor, inference_params: InferenceParams | None = None) -> Tensor:
        """Run the layer over a sequence.

        Arguments
        ---------
        hidden_states : Tensor
            Input, (batch, time, d_model).
        inference_params : InferenceParams, optional
            Where the layer's states are kept. With frames seen before, the input is one frame.

        Returns
        -------
        Tensor
            Output (batch, time, d_model).
        """
        if inference_params is None:
            xz = self.in_proj(hidden_states)
            return mamba_inner_fn(
                frames_first(xz), self.conv1d.weight, self.conv1d.bias, self.x_proj.weight, self.dt_proj.weight,
                self.out_proj.weight, self.out_proj.bias, -torch.exp(self.A_log.float()), D=self.D.float(),
                delta_bias=self.dt_proj.bias.float(),
            )  # fmt: skip
        conv_state, ssm_state = self._get_states_from_cache(inference_params, hidden_states.shape[0])
        if inference_params.seqlen_offset > 0:
            return self.step(hidden_states, conv_state, ssm_state)[0]
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        keep_last(conv_state, frames_first(x))
        x = cast(Tensor, causal_conv1d(x, *self._filters(), "silu"))
        delta, A, B, C, D = self._scan_arguments(x)
        y, last_state = selective_scan(x, delta, A, B, C, D, z, self.dt_proj.bias.float(), True, return_last_state=True)
        ssm_state.copy_(last_state)
        return self.out_proj(y)

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the layer over one frame. The states are changed in place.

        Arguments
        ---------
        hidden_states : Tensor
            Input, (batch, 1, d_model).
        conv_state, ssm_state : Tensor
            States before the frame.

        Returns
        -------
        Tensor, Tensor, Tensor
            Output (batch, 1, d_model), and both states.
        """
        if hidden_states.shape[1] != 1:
            raise ValueError(f"Mamba: step takes one frame, but got {hidden_states.shape[1]}: call it for each one.")
        x, z = self.in_proj(hidden_states[:, 0]).chunk(2, dim=-1)
        x = causal_conv1d_update(x, conv_state, *self._filters(), "silu")
        delta, A, B, C, D = self._scan_arguments(x)
        y = selective_state_update(ssm_state, x, delta, A, B, C, D, z, self.dt_proj.bias, True)
        return self.out_proj(y)[:, None], conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The states before the first frame.

        Arguments
        ---------
        batch_size : int
            Number of examples.
        max_seqlen : int
            Not needed; mamba-ssm's models give it to all layers.
        dtype : torch.dtype, optional
            Of the states; that of the parameters by default.

        Returns
        -------
        Tensor, Tensor
            Of the convolution, (batch, d_inner, d_conv), and of the scan, (batch, d_inner, d_state).
        """
        weight = self.out_proj.weight
        shapes = ((batch_size, self.d_inner, self.d_conv), (batch_size, self.d_inner, self.d_state))
        options: dict[str, Any] = {"device": weight.device, "dtype": dtype or weight.dtype}
        conv_state, ssm_state = (torch.zeros(shape, **options) for shape in shapes)
        return conv_state, ssm_state
