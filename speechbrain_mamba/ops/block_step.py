"""One step of a residual block as one operation: from the normalization before its Mamba layer to the end of its
feed-forward network.

A model makes dozens of such steps for a frame, each of which reads millions of weights for a few products each. On a
CPU one call of a kernel does it all, with weights of any type.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechbrain_mamba.ops.block_parts import FeedForwardPart, Linear, MixerPart, Norm
from speechbrain_mamba.ops.checks import check_dims, check_shape
from speechbrain_mamba.ops.few_rows import MOST_ROWS
from speechbrain_mamba.ops.int8 import PackedWeight, project
from speechbrain_mamba.ops.layer import check_parameters
from speechbrain_mamba.ops.registry import chosen_backend, cpu_kernels_serve, is_plain_call, load_backend
from speechbrain_mamba.ops.rowwise import ACTIVATIONS, activate, normalize
from speechbrain_mamba.ops.step import mamba_inner_update
from speechbrain_mamba.ops.torch_ops import asks_for_gradient

_OP = "block_step"
_STATE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
States = tuple[Tensor, Tensor]
"""Those of the convolution and of the scan, see :func:`~speechbrain_mamba.ops.mamba_inner_update`."""


class PackedBlock(NamedTuple):
    """Parameters of a block, packed for many steps by :func:`pack_block`. Weights of float32 are used where they are,
    but what is small is a copy, which does not follow changes."""

    mixer: MixerPart | None
    """Those of the Mamba layer themselves."""
    feed_forward: FeedForwardPart | None
    """Those of the feed-forward network."""
    backend: ModuleType | None
    """The backend that they are packed for, None if it has no such kernel."""
    packed: Any
    """What it takes."""

    @property
    def parameters(self) -> tuple[Tensor | None, ...]:
        """All tensors."""
        found: list[Any] = []
        for part in (self.mixer, self.feed_forward):
            for field in part or ():
                found += field if isinstance(field, tuple) else ()
        return tuple(value for value in found if isinstance(value, Tensor))


def pack_block(mixer: MixerPart | None, feed_forward: FeedForwardPart | None = None) -> PackedBlock:
    """Pack the parameters of a block for :func:`block_step`.

    Arguments
    ---------
    mixer : MixerPart, optional
        The Mamba layer.
    feed_forward : FeedForwardPart, optional
        The feed-forward network after it.

    Returns
    -------
    PackedBlock
        The parameters; packed where a backend has a kernel for them.

    Raises
    ------
    ValueError
        For shapes that do not fit, unknown kinds of normalization or activation, or if neither part is given.
    """
    tensors = _check_parts(mixer, feed_forward)
    block = PackedBlock(mixer, feed_forward, None, None)
    on_cpu = all(tensor.is_cpu and type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
    if not on_cpu or not cpu_kernels_serve():
        return block
    backend = load_backend("cpu")
    packed = backend.pack_block(mixer, feed_forward)
    return block if packed is None else block._replace(backend=backend, packed=packed)


def block_step(x: Tensor, states: States | None, block: PackedBlock) -> tuple[Tensor, States | None]:
    r"""One step of a residual block: :math:`h = x + \mathrm{mixer}(\mathrm{norm}(x))`, then :math:`h +
    \mathrm{network}(\mathrm{norm}(h))`, each where the block has it.

    Nothing is changed in place; differentiable in every tensor but weights of 8-bit integers. A kernel serves float32
    on a CPU, up to :data:`~speechbrain_mamba.ops.few_rows.MOST_ROWS` examples and where no gradient is asked for. It
    computes in float32 under autocast too.

    Arguments
    ---------
    x : Tensor
        Input (batch, d_model).
    states : tuple of Tensor, optional
        States of convolution (batch, channels, width - 1) and scan (batch, channels, state) before the step; None for a
        block without a Mamba layer.
    block : PackedBlock
        The parameters, from :func:`pack_block`.

    Returns
    -------
    y : Tensor
        Output (batch, d_model).
    states : tuple of Tensor or None
        The states after the step, of the types of those given.

    Raises
    ------
    ValueError
        For shapes that do not fit.

    Example
    -------
    >>> linear = Linear(torch.rand(6, 4)), Linear(torch.rand(4, 6))
    >>> block = pack_block(None, FeedForwardPart(Norm("rms", 1e-5), linear[0], "relu", linear[1]))
    >>> block_step(torch.randn(3, 4), None, block)[0].shape
    torch.Size([3, 4])
    """
    _check_inputs(x, states, block)
    if _serves(block, x, states):
        y, *after = block.backend.packed_block_step(x, states, block.packed)  # type: ignore[union-attr]
        return y, tuple(after) or None  # type: ignore[return-value]
    return _compose(x, states, block)


def _serves(block: PackedBlock, x: Tensor, states: States | None) -> bool:
    """Whether the kernel takes a call."""
    if block.packed is None or not is_plain_call(x, *(states or ())) or not 1 <= x.shape[0] <= MOST_ROWS:
        return False
    if torch.is_grad_enabled() and asks_for_gradient(*block.parameters):
        return False
    if x.dtype != torch.float32 or not x.is_cpu or chosen_backend() not in ("auto", "cpu"):
        return False
    if states is None:
        return True
    conv, ssm = states
    return conv.is_cpu and ssm.is_cpu and conv.dtype in _STATE_DTYPES and ssm.dtype == torch.float32


def _compose(x: Tensor, states: States | None, block: PackedBlock) -> tuple[Tensor, States | None]:
    """A step from other operations."""
    if block.mixer is not None and states is not None:
        mixer = block.mixer
        xz = _project(normalize(x, mixer.norm), mixer.in_proj)
        y, *after = mamba_inner_update(xz, *states, mixer.direction)
        y, states = _project(y, mixer.out_proj), (after[0], after[1])
        x = x + y.to(x.dtype) if mixer.adds_input else y
    if block.feed_forward is not None:
        network = block.feed_forward
        hidden = _project(normalize(x, network.norm), network.first)
        x = x + _project(activate(hidden, network.activation), network.last).to(x.dtype)
    return x, states


def _project(x: Tensor, linear: Linear) -> Tensor:
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return project(x, linear.weight, linear.bias, dtype)


def _check_parts(mixer: MixerPart | None, feed_forward: FeedForwardPart | None) -> list[Tensor]:
    """Check the shapes of a block's parameters; returns its tensors."""
    if mixer is None and feed_forward is None:
        raise ValueError("pack_block got neither a mixer nor a feed-forward network: give one of them, or both.")
    d_model = (mixer.in_proj if mixer is not None else feed_forward.first).weight.shape[1]  # type: ignore[union-attr]
    layers: list[tuple[str, Linear, int, int]] = []
    norms = []
    if mixer is not None:
        channels = check_parameters("pack_block", mixer.direction)[0]
        layers += [("in_proj", mixer.in_proj, 2 * channels, d_model), ("out_proj", mixer.out_proj, d_model, channels)]
        norms.append(mixer.norm)
    if feed_forward is not None:
        hidden, activation = feed_forward.first.weight.shape[0], feed_forward.activation
        if activation is not None and activation not in ACTIVATIONS:
            raise ValueError(f"pack_block: activation is '{activation}', but must be {', '.join(ACTIVATIONS)} or None.")
        layers += [("first", feed_forward.first, hidden, d_model), ("last", feed_forward.last, d_model, hidden)]
        norms.append(feed_forward.norm)
    tensors: list[Any] = [*(mixer.direction if mixer is not None else ())]
    for name, linear, outputs, inputs in layers:
        check_shape("pack_block", f"the weight of {name}", linear.weight, "(outputs, inputs)", (outputs, inputs))  # type: ignore[arg-type]
        check_shape("pack_block", f"the bias of {name}", linear.bias, "(outputs,)", (outputs,))
        tensors += linear
    for norm in norms:
        if norm is not None and norm.kind not in ("rms", "layer"):
            raise ValueError(f"pack_block: the kind of a normalization is '{norm.kind}', but must be rms or layer.")
        for tensor in (norm.weight, norm.bias) if norm is not None else ():
            check_shape("pack_block", "a normalization's parameter", tensor, "(d_model,)", (d_model,))
            tensors.append(tensor)
    return [tensor for tensor in tensors if tensor is not None and not isinstance(tensor, PackedWeight)]


def _check_inputs(x: Tensor, states: States | None, block: PackedBlock) -> None:
    """Check what changes from step to step."""
    check_dims(_OP, "x", x, "(batch, d_model)")
    linear = block.mixer.in_proj if block.mixer is not None else block.feed_forward.first  # type: ignore[union-attr]
    batch = x.shape[0]
    check_shape(_OP, "x", x, "(batch, d_model)", (batch, linear.weight.shape[1]))
    if (states is None) != (block.mixer is None):
        raise ValueError(f"{_OP}: states must be given exactly if the block has a Mamba layer.")
    if block.mixer is not None and states is not None:
        (channels, state), width = block.mixer.direction.A.shape, block.mixer.direction.conv_weight.shape[1]
        check_shape(
            _OP, "the convolution's state", states[0], "(batch, channels, width - 1)", (batch, channels, width - 1)
        )
        check_shape(_OP, "the scan's state", states[1], "(batch, channels, state)", (batch, channels, state))


__all__ = ["FeedForwardPart", "Linear", "MixerPart", "Norm", "PackedBlock", "block_step", "pack_block"]
