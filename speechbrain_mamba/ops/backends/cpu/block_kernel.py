"""One step of a residual block on the native kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.few_rows_kernel import linear_fields
from speechbrain_mamba.ops.backends.cpu.fields import ACTIVATIONS, DTYPES, norm_fields, parameter, pointer
from speechbrain_mamba.ops.backends.cpu.native import library
from speechbrain_mamba.ops.backends.cpu.step_kernel import pack_step
from speechbrain_mamba.ops.block_parts import FeedForwardPart, Linear, MixerPart, Norm
from speechbrain_mamba.ops.int8 import PackedWeight


class BlockWeights:
    """The parameters of a block as a step takes them: weights in place where they are contiguous, what is small copied.

    Arguments
    ---------
    mixer : MixerPart or None
        The Mamba layer.
    feed_forward : FeedForwardPart or None
        The feed-forward network.
    """

    def __init__(self, mixer: MixerPart | None, feed_forward: FeedForwardPart | None) -> None:
        self._held: list[Tensor | PackedWeight | None] = []
        width = (feed_forward.first if mixer is None else mixer.in_proj).weight.shape[1]  # type: ignore[union-attr]
        sizes = (0, 0, 0, 0)
        mixing: tuple[int, ...] = (*self._norm(None), *(0,) * 14, 0, 0)
        if mixer is not None:
            direction = mixer.direction
            (channels, states), filters = direction.A.shape, direction.conv_weight.shape[1]
            sizes = channels, states, filters, direction.dt_proj_weight.shape[1]
            projections = *self._linear(mixer.in_proj), *self._linear(mixer.out_proj)
            packed = self._hold(pack_step(direction))
            mixing = *self._norm(mixer.norm), *projections, pointer(packed), int(mixer.adds_input)
        network: tuple[int, ...] = (*self._norm(None), *(0,) * 14, 0)
        if feed_forward is not None:
            layers = *self._linear(feed_forward.first), *self._linear(feed_forward.last)
            network = *self._norm(feed_forward.norm), *layers, ACTIVATIONS[feed_forward.activation]
        self._fields = torch.tensor([width, *sizes, *mixing, *network], dtype=torch.int64, device="cpu")
        self.address = self._fields.data_ptr()

    def _hold(self, tensor: Tensor | None) -> Tensor | None:
        self._held.append(tensor)
        return tensor

    def _norm(self, norm: Norm | None) -> tuple[int, ...]:
        """Fields of the C struct ``norm_weights``."""
        fields, held = norm_fields(norm)
        self._held += held
        return fields

    def _linear(self, linear: Linear) -> tuple[int, ...]:
        weight = linear.weight if isinstance(linear.weight, PackedWeight) else linear.weight.detach().contiguous()
        self._held.append(weight)
        return linear_fields(weight, self._hold(parameter(linear.bias)))


def pack_block(mixer: MixerPart | None, feed_forward: FeedForwardPart | None) -> BlockWeights | None:
    """Pack the parameters of a block; None where a step has no form for them."""
    linears = [] if mixer is None else [mixer.in_proj, mixer.out_proj]
    linears += [] if feed_forward is None else [feed_forward.first, feed_forward.last]
    for linear in linears:
        if not isinstance(linear.weight, PackedWeight) and linear.weight.dtype not in DTYPES:
            return None
    with torch.no_grad():
        return BlockWeights(mixer, feed_forward)


def packed_block_step(x: Tensor, states: tuple[Tensor, Tensor] | None, block: BlockWeights) -> tuple[Tensor, ...]:
    """Output (batch, d_model), and the states after it if there are any."""
    x = x.contiguous()
    y, threads = torch.empty_like(x), torch.get_num_threads()
    if states is None:
        library().call(
            "block_step", block.address, x.shape[0], threads, x.data_ptr(), y.data_ptr(), 0, 0, 0, 0, 0
        )  # fmt: skip
        return (y,)
    conv, ssm = (state.contiguous() for state in states)
    conv_after, ssm_after = torch.empty_like(conv), torch.empty_like(ssm)
    library().call(
        "block_step", block.address, x.shape[0], threads, x.data_ptr(), y.data_ptr(), conv.data_ptr(),
        conv_after.data_ptr(), DTYPES[conv.dtype], ssm.data_ptr(), ssm_after.data_ptr(),
    )  # fmt: skip
    return y, conv_after, ssm_after
