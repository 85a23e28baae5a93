"""Steps of residual blocks as one operation, where the modules of a block are plain ones.

A module is more than its parameters if it has hooks, an adapter, or another class: then it is called.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from speechbrain_mamba.nnet.few_rows import feed_forward_step, parts_of_network, plain_linear
from speechbrain_mamba.nnet.kept import KeptForSteps
from speechbrain_mamba.nnet.plain_parts import name_of_activation, norm_part
from speechbrain_mamba.ops import FeedForwardPart, PackedBlock, block_step, pack_block


class Network(NamedTuple):
    """A feed-forward network with what stands before it."""

    norm: nn.Module
    """Normalization over the channels."""
    layers: nn.Sequential
    """Linear layer, activation, dropout and linear layer."""


def residual_step(
    x_t: Tensor,
    state: Any,
    norm: nn.Module,
    mixer: Any,
    network: Network | None = None,
    kept: KeptForSteps | None = None,
) -> tuple[Tensor, Any]:
    """Run a pre-norm residual block over one frame: ``x + mixer(norm(x))``, then its feed-forward network likewise.

    Arguments
    ---------
    x_t : Tensor
        Input frame (batch, d_model).
    state : nested dict
        State of the mixer before the frame.
    norm, mixer : torch.nn.Module
        Normalization, and a causal mixer with the methods of :class:`~speechbrain_mamba.nnet.mamba.Mamba`.
    network : Network, optional
        The feed-forward network.
    kept : KeptForSteps, optional
        Where the block keeps what is made of a network after other mixers than Mamba.

    Returns
    -------
    y_t : Tensor
        Output frame (batch, d_model).
    state : nested dict
        State of the mixer after the frame.

    Example
    -------
    >>> import torch
    >>> from speechbrain_mamba.nnet.mamba import Mamba
    >>> norm, mixer, x = nn.RMSNorm(8, eps=1e-5), Mamba(8), torch.randn(2, 8)
    >>> with torch.no_grad():
    ...     y, _ = residual_step(x, mixer.init_state(2), norm, mixer)
    ...     expected = x + mixer.step(norm(x), mixer.init_state(2))[0]
    >>> torch.allclose(y, expected, atol=1e-5)
    True
    """
    stepper = getattr(mixer, "stepper", mixer)
    if hasattr(stepper, "pack_block"):
        modules = (norm, stepper, *(network or ()))
        block = stepper.keep_for_steps(modules, lambda: _pack(norm, stepper, network))
        if block is not None:
            return stepper.step_block(x_t, state, block)
    y_t, state = mixer.step(norm(x_t), state)
    x_t = x_t + y_t.to(x_t.dtype)
    return x_t if network is None else network_step(x_t, network, kept), state


def network_step(x_t: Tensor, network: Network, kept: KeptForSteps | None = None) -> Tensor:
    """Run a pre-norm feed-forward network over one frame, (batch, d_model), and add its input.

    Example
    -------
    >>> import torch
    >>> network = Network(nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 4)))
    >>> x = torch.randn(2, 4)
    >>> y = network_step(x, Network(network.norm, network.layers.eval()), KeptForSteps())
    >>> torch.allclose(y, x + network.layers(network.norm(x)), atol=1e-5)
    True
    """
    block = None if kept is None else kept.get((network.norm, network.layers), lambda: _pack_network(network))
    if block is not None:
        return block_step(x_t, None, block)[0]
    return feed_forward_step(network.layers, network.norm(x_t), x_t)


def _pack(norm: nn.Module, mixer: Any, network: Network | None) -> PackedBlock | None:
    before, after = norm_part(norm), None if network is None else network_part(network)
    if before is None or (network is not None and after is None):
        return None
    return mixer.pack_block(before, after, adds_input=True)


def _pack_network(network: Network) -> PackedBlock | None:
    part = network_part(network)
    block = None if part is None else pack_block(None, part)
    return None if block is None or block.packed is None else block


def network_part(network: Network) -> FeedForwardPart | None:
    """The parameters of a feed-forward network and its normalization, None if some are more than those."""
    layers = parts_of_network(network.layers)
    if layers is None:
        return None
    norm, first, last = norm_part(network.norm), plain_linear(layers[0]), plain_linear(layers[2])
    name = name_of_activation(layers[1])
    if norm is None or first is None or last is None or name is None:
        return None
    return FeedForwardPart(norm, first, name, last)
