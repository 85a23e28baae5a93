"""``mamba_ssm.modules.mamba2.Mamba2``, on our operations."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.drop_in.chunk_scan import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined
from speechbrain_mamba.drop_in.convolution import causal_conv1d_update, causal_conv1d_varlen_states
from speechbrain_mamba.drop_in.gated_norms import RMSNorm
from speechbrain_mamba.drop_in.layer_state import CachedLayer, InferenceParams, keep_last, step_bias
from speechbrain_mamba.drop_in.selective_scan import frames_first
from speechbrain_mamba.ops import causal_conv1d, ssd_update
from speechbrain_mamba.ops.ssd import NO_LIMIT


class Mamba2(CachedLayer):
    """A Mamba-2 layer with the constructor, the weights and the methods of mamba-ssm's.

    Initial weights are drawn in its order, so that a seed gives the same layer. Models of ours are built on
    :class:`speechbrain_mamba.nnet.mamba2.Mamba2`, which takes lengths and returns its state; weights fit both.

    Arguments
    ---------
    d_model, d_state, d_conv, expand, headdim, d_ssm, ngroups, A_init_range, D_has_hdim, rmsnorm, norm_before_gate,
    dt_min, dt_max, dt_init_floor, dt_limit, bias, conv_bias, chunk_size
        As in :class:`speechbrain_mamba.nnet.mamba2.Mamba2`.
    conv_init : float, optional
        Half the range of the convolution's initial weights; that of PyTorch by default.
    use_mem_eff_path : bool
        Chooses a fused kernel in mamba-ssm; here it is kept, and both paths compute the same.
    layer_idx : int, optional
        Where the layer keeps its states in the ``inference_params``.
    process_group
        None: tensor parallelism is not served.
    sequence_parallel : bool
        Kept, as it has a meaning only with a ``process_group``.
    device, dtype
        Of the parameters; ``D`` is float32 whatever ``dtype``.

    Example
    -------
    >>> layer = Mamba2(d_model=8, d_state=4, headdim=4)
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
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
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
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        process_group: None = None,
        sequence_parallel: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if process_group is not None:
            raise ValueError("Mamba2: tensor parallelism (process_group) is not served: give None.")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.d_conv, self.conv_init = d_model, d_state, d_conv, conv_init
        self.expand, self.headdim, self.ngroups, self.D_has_hdim = expand, headdim, ngroups, D_has_hdim
        self.d_inner = int(expand * d_model)
        self.d_ssm = self.d_inner if d_ssm is None else d_ssm
        if self.d_ssm % headdim or (self.d_ssm // headdim) % ngroups:
            raise ValueError(
                f"Mamba2: {self.d_ssm} inner channels must divide into heads of headdim = {headdim}, and these into "
                f"ngroups = {ngroups}."
            )
        self.nheads = self.d_ssm // headdim
        self.rmsnorm, self.norm_before_gate, self.dt_limit = rmsnorm, norm_before_gate, (dt_limit[0], dt_limit[1])
        self.activation, self.chunk_size, self.use_mem_eff_path = "silu", chunk_size, use_mem_eff_path
        self.layer_idx, self.process_group, self.sequence_parallel = layer_idx, process_group, sequence_parallel
        self.world_size, self.local_rank = 1, 0
        maps = 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner + maps + self.nheads, bias=bias, **factory)
        inputs = self.d_ssm + maps
        self.conv1d = nn.Conv1d(inputs, inputs, d_conv, groups=inputs, padding=d_conv - 1, bias=conv_bias, **factory)
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        self.act = nn.SiLU()
        self.dt_bias = nn.Parameter(step_bias(self.nheads, dt_min, dt_max, dt_init_floor, **factory))
        rates = torch.empty(self.nheads, device=device, dtype=torch.float32).uniform_(*A_init_range)
        self.A_log = nn.Parameter(rates.log().to(dtype))
        self.D = nn.Parameter(torch.ones(self.d_ssm if D_has_hdim else self.nheads, device=device))
        for parameter in (self.dt_bias, self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]  # for optimizers that look for it
        if rmsnorm:
            size = self.d_ssm // ngroups
            self.norm = RMSNorm(self.d_ssm, group_size=size, norm_before_gate=norm_before_gate, **factory)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)

    def _rates(self) -> Tensor:
        return -torch.exp(self.A_log.float())

    def _skip(self) -> Tensor:
        return self._by_head(self.D) if self.D_has_hdim else self.D

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.nheads, self.headdim))

    def _split(self, features: Tensor) -> tuple[Tensor, ...]:
        """The parts of the input projection: of the gated MLP, gate z, input of the convolution, and steps."""
        inputs = self.conv1d.weight.shape[0]
        mlp_width = features.shape[-1] - self.d_ssm - inputs - self.nheads
        return features.split([mlp_width, self.d_ssm, inputs, self.nheads], dim=-1)

    def _maps(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The input of the scan by head, and B and C by group."""
        maps = self.ngroups * self.d_state
        x, B, C = convolved.split([self.d_ssm, maps, maps], dim=-1)
        B, C = (t.unflatten(-1, (self.ngroups, self.d_state)) for t in (B, C))
        return self._by_head(x), B, C

    def _project_out(self, mlp: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """The output, from the scan's (..., heads, head channels)."""
        y = y.flatten(-2)
        if self.rmsnorm:
            y = self.norm(y, z)
        if mlp.shape[-1]:
            gate, value = mlp.chunk(2, dim=-1)
            y = torch.cat([F.silu(gate) * value, y], dim=-1)
        return self.out_proj(y)

    def forward(
        self,
        u: Tensor,
        seqlen: int | None = None,
        seq_idx: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        inference_params: InferenceParams | None = None,
    ) -> Tensor:
        """Run the layer over sequences.

        Arguments
        ---------
        u : Tensor
            Input, (batch, time, d_model), or with ``seqlen`` (batch * time, d_model).
        seqlen : int, optional
            Frames of an example of the second layout.
        seq_idx : Tensor, optional
            Which packed sequence each frame belongs to, integers (batch, time).
        cu_seqlens : Tensor, optional
            Where the sequences of the only example begin, and where the last ends, for ``inference_params``.
        inference_params : InferenceParams, optional
            Where the layer's states are kept. With frames seen before, the input is one frame.

        Returns
        -------
        Tensor
            Output like ``u``.
        """
        if inference_params is not None:
            batch = u.shape[0] if seqlen is None else u.shape[0] // seqlen
            batch = batch if cu_seqlens is None else len(cu_seqlens) - 1
            states = self._get_states_from_cache(inference_params, batch)
            if inference_params.seqlen_offset > 0:
                return self.step(u, *states)[0]
        features = self.in_proj(u)
        if seqlen is not None:
            features = features.unflatten(0, (-1, seqlen))
        if inference_params is None:
            out = mamba_split_conv1d_scan_combined(
                features, self.conv1d.weight.squeeze(1), self.conv1d.bias, self.dt_bias, self._rates(), self._skip(),
                self.chunk_size, seq_idx=seq_idx, dt_limit=self.dt_limit,
                rmsnorm_weight=self.norm.weight if self.rmsnorm else None,
                rmsnorm_eps=self.norm.eps if self.rmsnorm else 1e-6, outproj_weight=self.out_proj.weight,
                outproj_bias=self.out_proj.bias, headdim=self.headdim, ngroups=self.ngroups,
                norm_before_gate=self.norm_before_gate,
            )  # fmt: skip
        else:
            out = self._forward_with_states(features, *states, seq_idx, cu_seqlens)
        out = cast(Tensor, out)
        return out if seqlen is None else out.flatten(0, 1)

    def _forward_with_states(
        self,
        features: Tensor,
        conv_state: Tensor,
        ssm_state: Tensor,
        seq_idx: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> Tensor:
        """Run the layer after its input projection, and write the states after it."""
        mlp, z, convolved, dt = self._split(features)
        if cu_seqlens is None:
            keep_last(conv_state, frames_first(convolved))
        else:
            conv_state.copy_(causal_conv1d_varlen_states(convolved[0], cu_seqlens, conv_state.shape[-1]))
        filters = self.conv1d.weight.squeeze(1), self.conv1d.bias
        x, B, C = self._maps(cast(Tensor, causal_conv1d(convolved, *filters, "silu", seq_idx=seq_idx)))
        y, last = mamba_chunk_scan_combined(
            x, dt, self._rates(), B, C, self.chunk_size, self._skip(), None if self.rmsnorm else self._by_head(z),
            self.dt_bias, seq_idx=seq_idx, cu_seqlens=cu_seqlens, dt_softplus=True, dt_limit=self.dt_limit,
            return_final_states=cu_seqlens is None, return_varlen_states=cu_seqlens is not None,
        )  # fmt: skip
        ssm_state.copy_(last)
        return self._project_out(mlp, y, z)

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the layer over one frame. The states are changed in place.

        Other than in mamba-ssm, ``D_has_hdim`` and ``dt_limit`` hold here too.

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
            raise ValueError(f"Mamba2: step takes one frame, but got {hidden_states.shape[1]}: call it for each one.")
        mlp, z, convolved, dt = self._split(self.in_proj(hidden_states[:, 0]))
        filters = self.conv1d.weight.squeeze(1), self.conv1d.bias
        x, B, C = self._maps(causal_conv1d_update(convolved, conv_state, *filters, "silu"))
        y, last = ssd_update(
            ssm_state, x, dt, self._rates(), B, C, self._skip(), None if self.rmsnorm else self._by_head(z),
            self.dt_bias, True, self.dt_limit,
        )  # fmt: skip
        ssm_state.copy_(last.detach())
        return self._project_out(mlp, y, z)[:, None], conv_state, ssm_state

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
            Of the convolution, (batch, d_ssm + 2 * ngroups * d_state, d_conv), and of the scan, (batch, heads,
            headdim, d_state).
        """
        weight = self.out_proj.weight
        shapes = (
            (batch_size, self.conv1d.weight.shape[0], self.d_conv),
            (batch_size, self.nheads, self.headdim, self.d_state),
        )
        options: dict[str, Any] = {"device": weight.device, "dtype": dtype or weight.dtype}
        conv_state, ssm_state = (torch.zeros(shape, **options) for shape in shapes)
        return conv_state, ssm_state
