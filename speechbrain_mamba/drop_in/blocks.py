"""Residual blocks of mamba-ssm: ``modules.block``, ``modules.mamba_simple.Block`` (before 2.0), ``modules.mlp`` and the
functions of ``models.mixer_seq_simple`` that build them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.drop_in.layer_state import InferenceParams
from speechbrain_mamba.drop_in.mamba2_layer import Mamba2
from speechbrain_mamba.drop_in.mamba_layer import Mamba
from speechbrain_mamba.drop_in.norms import RMSNorm, layer_norm_fn


class GatedMLP(nn.Module):
    """A gated MLP (``mamba_ssm.modules.mlp.GatedMLP``).

    Arguments
    ---------
    in_features, hidden_features, out_features : int
        Sizes; 8/3 of the input and that of the input by default. The hidden one is rounded up.
    activation : callable
        Of the gate.
    bias : bool
        Whether the projections have one.
    multiple_of : int
        What the hidden size is rounded up to a multiple of.
    device, dtype
        Of the parameters.

    Example
    -------
    >>> GatedMLP(8)(torch.randn(2, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        activation: Callable[[Tensor], Tensor] = F.silu,
        bias: bool = False,
        multiple_of: int = 128,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        hidden = int(8 * in_features / 3) if hidden_features is None else hidden_features
        hidden = math.ceil(hidden / multiple_of) * multiple_of
        self.fc1 = nn.Linear(in_features, 2 * hidden, bias=bias, **factory)
        self.activation = activation
        self.fc2 = nn.Linear(hidden, in_features if out_features is None else out_features, bias=bias, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Project, gate and project back, (..., in_features) to (..., out_features)."""
        value, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(value * self.activation(gate))


class Block(nn.Module):
    """A residual block that adds first: ``residual + x``, norm, mixer, and the same with an MLP if there is one.

    The last output is not added: the next block, or the model's last norm, does it.

    Arguments
    ---------
    dim : int
        Channels.
    mixer_cls, mlp_cls, norm_cls : callable
        Each builds its layer for ``dim`` channels. ``nn.Identity`` as ``mlp_cls`` means none.
    fused_add_norm : bool
        Whether sum and norm are one function, as :func:`layer_norm_fn` computes them: in float32.
    residual_in_fp32 : bool
        Whether the residual is kept in float32.

    Example
    -------
    >>> block = Block(8, partial(Mamba, d_state=4), nn.Identity, norm_cls=RMSNorm)
    >>> y, residual = block(torch.randn(2, 10, 8))
    >>> y.shape, residual.shape
    (torch.Size([2, 10, 8]), torch.Size([2, 10, 8]))
    """

    def __init__(
        self,
        dim: int,
        mixer_cls: Callable[..., nn.Module],
        mlp_cls: Callable[..., nn.Module],
        norm_cls: Callable[..., nn.Module] = nn.LayerNorm,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
    ):
        super().__init__()
        self.residual_in_fp32, self.fused_add_norm = residual_in_fp32, fused_add_norm
        self.norm = norm_cls(dim)
        self.mixer = mixer_cls(dim)
        self.mlp: nn.Module | None = None
        if mlp_cls is not nn.Identity:
            self.norm2 = norm_cls(dim)
            self.mlp = mlp_cls(dim)
        if fused_add_norm and not isinstance(self.norm, (nn.LayerNorm, RMSNorm)):
            raise TypeError(
                f"Block: fused_add_norm takes nn.LayerNorm or RMSNorm, but the norm is {type(self.norm).__name__}."
            )

    def _add_and_normalize(self, norm: nn.Module, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.fused_add_norm:
            outputs = layer_norm_fn(
                x, cast(Tensor, norm.weight), cast(Tensor, norm.bias), residual, eps=cast(float, norm.eps),
                prenorm=True, residual_in_fp32=self.residual_in_fp32, is_rms_norm=isinstance(norm, RMSNorm),
            )  # fmt: skip
            return cast(tuple[Tensor, Tensor], outputs)
        residual = x if residual is None else x + residual
        y = norm(residual.to(cast(Tensor, norm.weight).dtype))
        return y, residual.float() if self.residual_in_fp32 else residual

    def forward(
        self,
        hidden_states: Tensor,
        residual: Tensor | None = None,
        inference_params: InferenceParams | None = None,
        **mixer_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Run the block; ``residual`` is what the block before returned."""
        y, residual = self._add_and_normalize(self.norm, hidden_states, residual)
        y = self.mixer(y, inference_params=inference_params, **mixer_kwargs)
        if self.mlp is not None:
            y, residual = self._add_and_normalize(self.norm2, y, residual)
            y = self.mlp(y)
        return y, residual

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> Any:
        """The mixer's states before the first frame."""
        return cast(Any, self.mixer).allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **kwargs)


class MixerBlock(Block):
    """:class:`Block` as before mamba-ssm 2.0: it never has an MLP, and its constructor takes no class of one.

    Example
    -------
    >>> MixerBlock(8, partial(Mamba, d_state=4), norm_cls=RMSNorm).mlp
    """

    def __init__(
        self,
        dim: int,
        mixer_cls: Callable[..., nn.Module],
        norm_cls: Callable[..., nn.Module] = nn.LayerNorm,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
    ):
        super().__init__(dim, mixer_cls, nn.Identity, norm_cls, fused_add_norm, residual_in_fp32)


def init_weights(
    module: nn.Module,
    n_layer: int,
    initializer_range: float = 0.02,
    rescale_prenorm_residual: bool = True,
    n_residuals_per_layer: int = 1,
) -> None:
    """Draw a module's weights for a stack of ``n_layer`` blocks: ``_init_weights``, for ``nn.Module.apply``.

    Biases of linear layers are cleared unless they are marked, embeddings are normal, and projections at the end of a
    residual branch (``out_proj``, ``fc2``) are scaled by the root of the number of branches.

    Example
    -------
    >>> layer = Mamba(8)
    >>> before = layer.out_proj.weight.abs().mean()
    >>> _ = layer.apply(partial(init_weights, n_layer=100))
    >>> bool(layer.out_proj.weight.abs().mean() < before / 5)
    True
    """
    if isinstance(module, nn.Linear) and module.bias is not None:
        if not vars(module.bias).get("_no_reinit", False):
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=initializer_range)
    if rescale_prenorm_residual:
        for name, parameter in module.named_parameters():
            if name in ("out_proj.weight", "fc2.weight"):
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
                with torch.no_grad():
                    parameter.div_(math.sqrt(n_residuals_per_layer * n_layer))


def create_block(
    d_model: int,
    d_intermediate: int = 0,
    ssm_cfg: dict[str, Any] | None = None,
    attn_layer_idx: list[int] | None = None,
    attn_cfg: dict[str, Any] | None = None,
    norm_epsilon: float = 1e-5,
    rms_norm: bool = False,
    residual_in_fp32: bool = False,
    fused_add_norm: bool = False,
    layer_idx: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Block:
    """Build a :class:`Block` as ``mamba_ssm.models.mixer_seq_simple`` does.

    Arguments
    ---------
    d_model : int
        Channels.
    d_intermediate : int
        Hidden size of the MLP; 0 means none.
    ssm_cfg : dict, optional
        Arguments of the layer; ``layer`` is ``Mamba1`` or ``Mamba2``.
    attn_layer_idx, attn_cfg
        Empty: mamba-ssm's attention is not served.
    norm_epsilon, rms_norm, residual_in_fp32, fused_add_norm
        Of the block's norms.
    layer_idx : int, optional
        Of the layer.
    device, dtype
        Of the parameters.

    Example
    -------
    >>> create_block(8, 0, {"layer": "Mamba2", "headdim": 4}, layer_idx=3).layer_idx
    3
    """
    if layer_idx in (attn_layer_idx or []):
        raise ValueError("create_block: the attention of mamba-ssm (attn_layer_idx) is not served: give none.")
    factory: dict[str, Any] = {"device": device, "dtype": dtype}
    options = copy.deepcopy(ssm_cfg or {})
    layers: dict[str, Callable[..., nn.Module]] = {"Mamba1": Mamba, "Mamba2": Mamba2}
    kind = options.pop("layer", "Mamba1")
    if kind not in layers:
        raise ValueError(f"create_block: ssm_cfg names the layer '{kind}', but only {' and '.join(layers)} are served.")
    norm: Callable[..., nn.Module] = partial(RMSNorm if rms_norm else nn.LayerNorm, eps=norm_epsilon, **factory)
    mlp: Callable[..., nn.Module] = nn.Identity
    if d_intermediate:
        mlp = partial(GatedMLP, hidden_features=d_intermediate, out_features=d_model, **factory)
    mixer = partial(layers[kind], layer_idx=layer_idx, **options, **factory)
    block = Block(d_model, mixer, mlp, norm, fused_add_norm, residual_in_fp32)
    block.layer_idx = layer_idx  # type: ignore[assignment]
    return block
