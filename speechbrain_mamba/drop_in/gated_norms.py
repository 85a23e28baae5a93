"""The functions of ``mamba_ssm.ops.triton.layernorm_gated``: norms in groups of channels, with a gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layernorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> Tensor:
    """Normalize groups of channels and gate, computed in float32.

    Arguments
    ---------
    x : Tensor
        Input, (..., channels).
    weight, bias : Tensor
        Of the norm, (channels,).
    z : Tensor, optional
        Gate before its SiLU, like ``x``.
    eps : float
        Added to the variance or the mean square.
    group_size : int, optional
        Channels that are normalized together; all by default.
    norm_before_gate : bool
        Whether the gate multiplies the norm's output instead of its input.
    is_rms_norm : bool
        Whether to divide by the root of the mean square instead of normalizing mean and variance.

    Returns
    -------
    Tensor
        Like ``x``.

    Example
    -------
    >>> layernorm_fn(torch.randn(2, 8), torch.ones(8), None, z=torch.randn(2, 8), group_size=4).shape
    torch.Size([2, 8])
    """
    size = x.shape[-1] if group_size is None else group_size
    if x.shape[-1] % size:
        raise ValueError(f"layernorm_fn: {x.shape[-1]} channels do not divide into groups of group_size = {size}.")
    dtype, out_dtype = torch.promote_types(x.dtype, torch.float32), x.dtype
    y = x.to(dtype)
    gate = None if z is None else F.silu(z.to(dtype))
    if gate is not None and not norm_before_gate:
        y = y * gate
    y = y.unflatten(-1, (-1, size))
    y = F.rms_norm(y, (size,), eps=eps) if is_rms_norm else F.layer_norm(y, (size,), eps=eps)
    y = y.flatten(-2) * weight.to(dtype)
    y = y if bias is None else y + bias.to(dtype)
    return (y * gate if gate is not None and norm_before_gate else y).to(out_dtype)


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """:func:`layernorm_fn` with ``is_rms_norm``.

    Example
    -------
    >>> rmsnorm_fn(torch.tensor([[3.0, 3.0]]), torch.ones(2), None, eps=0.0)
    tensor([[1., 1.]])
    """
    return layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, True)


def rms_norm_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    upcast: bool = True,
) -> Tensor:
    """:func:`rmsnorm_fn` written out; without ``upcast``, in the type of ``x`` but for the weights.

    Example
    -------
    >>> rms_norm_ref(torch.tensor([[3.0, 3.0]]), torch.ones(2), None, eps=0.0)
    tensor([[1., 1.]])
    """
    dtype = x.dtype
    if upcast:
        x, z = x.float(), None if z is None else z.float()
    gate = 1.0 if z is None else z * z.sigmoid()
    groups = (x if norm_before_gate else x * gate).unflatten(-1, (-1, group_size or x.shape[-1]))
    mean_square = groups.square().mean(-1, keepdim=True)
    y = (groups / (mean_square + eps).sqrt()).flatten(-2) * weight.float()
    if bias is not None:
        y = y + bias.float()
    return (y * gate if norm_before_gate else y).to(dtype)


class _GatedNorm(nn.Module):
    """The common part of both norms: the weight, and how it is applied."""

    is_rms_norm: bool
    bias: nn.Parameter | None

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        bias = None if self.is_rms_norm else nn.Parameter(torch.zeros(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", bias)

    def reset_parameters(self) -> None:
        """Set the weights to one and the biases to zero."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Normalize and gate; see :func:`layernorm_fn`."""
        options = (self.eps, self.group_size, self.norm_before_gate, self.is_rms_norm)
        return layernorm_fn(x, self.weight, self.bias, z, *options)


class LayerNorm(_GatedNorm):
    """Layer norm in groups of channels, with a gate; arguments as :func:`layernorm_fn`.

    Example
    -------
    >>> LayerNorm(8, group_size=4)(torch.randn(2, 8), torch.randn(2, 8)).shape
    torch.Size([2, 8])
    """

    is_rms_norm = False


class RMSNorm(_GatedNorm):
    """RMS norm in groups of channels, with a gate; arguments as :func:`layernorm_fn`.

    Example
    -------
    >>> RMSNorm(8, group_size=4)(torch.randn(2, 8), torch.randn(2, 8)).shape
    torch.Size([2, 8])
    """

    is_rms_norm = True
