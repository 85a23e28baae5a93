"""Dual-path models on long recordings, for inference: chunks are overwritten, and all else is there in pieces.

What grows with a recording is two tensors of chunks, which hold each frame twice. At once there are ten of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from speechbrain.lobes.models.dual_path import Dual_Computation_Block, Dual_Path_Model, SBTransformerBlock
from torch import Tensor, nn

from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.pieces import FRAMES, slices

_ALONE = (MambaBlocksSequential, SBTransformerBlock)
"""Models within and across chunks whose examples do not meet, whatever else is in a batch."""


def runs_in_pieces(model: Dual_Path_Model) -> bool:
    """Whether :func:`compute_chunks` knows all parts of a dual-path model.

    Example
    -------
    >>> parts = [MambaBlocksSequential(1, True, 8) for _ in range(2)]
    >>> runs_in_pieces(Dual_Path_Model(16, 8, *parts, K=10)), runs_in_pieces(Dual_Path_Model(16, 8, *parts, norm="gln"))
    (True, False)
    """
    blocks: Any = model.dual_mdl
    norms = [model.norm, *(norm for block in blocks for norm in (block.intra_norm, block.inter_norm))]
    models = [part for block in blocks for part in (block.intra_mdl, block.inter_mdl)]
    return (
        not model.use_global_pos_enc
        and model.prelu.weight.dtype in (torch.float32, torch.float64)
        and all(isinstance(norm, nn.GroupNorm) and norm.num_groups == 1 for norm in norms)
        and all(isinstance(part, _ALONE) for part in models)
    )


def compute_chunks(
    model: Dual_Path_Model, read: Callable[[slice], Tensor], pieces: Sequence[slice], lengths: Tensor | None
) -> Tensor:
    """Run a dual-path model up to its output layers.

    Arguments
    ---------
    model : speechbrain.lobes.models.dual_path.Dual_Path_Model
        The model.
    read : callable
        Gives the encoded mixture (batch, channels, frames) of some frames.
    pieces : sequence of slice
        Consecutive frames, from the first one to the last.
    lengths : Tensor, optional
        Valid frames per example, integers (batch,).

    Returns
    -------
    Tensor
        (batch, pairs of chunks, 2, chunk size, channels), zero in chunks that an example does not have. The
        second chunk of a pair begins half a chunk after the first.
    """
    time = pieces[-1].stop
    mix_w = read(slice(0, time))
    counts = [time] * len(mix_w) if lengths is None else lengths.tolist()
    channels = model.conv1d.out_channels
    dtype = torch.promote_types(mix_w.dtype, torch.float32)
    chunks = mix_w.new_zeros(len(mix_w), _count_pairs(time, model.K), 2, model.K, channels, dtype=dtype)
    valid = []
    for index, count in enumerate(counts):
        if count:  # each example alone, as if it had no padding
            valid.append(chunks[index, : _count_pairs(count, model.K)])
            _cut(_bottleneck(model, mix_w[index, :, :count]), valid[-1])
    del mix_w  # the blocks need its memory
    for x in valid:
        _run(model, x)
    return chunks


def chunk_masks(model: Dual_Path_Model, chunks: Tensor, piece: slice) -> Tensor:
    """The masks (speakers, batch, channels, frames) of some frames.

    Arguments
    ---------
    model : speechbrain.lobes.models.dual_path.Dual_Path_Model
        The model.
    chunks : Tensor
        What :func:`compute_chunks` returned.
    piece : slice
        The frames.
    """
    batch, size, hop = len(chunks), model.K, model.K // 2
    # frame t is at t + hop of the first chunks of all pairs, laid one after another, and at t of the second ones
    first, last = max(0, (piece.start + hop) // size - 1), (piece.stop - 1 + hop) // size + 1
    x = chunks[:, first:last].flatten(1, 2).permute(0, 3, 2, 1)  # (batch, channels, size, chunks)
    x = model.conv2d(model.prelu(x))
    pairs = x.reshape(batch * model.num_spks, -1, size, last - first, 2).transpose(2, 3)
    start, frames = piece.start - first * size, piece.stop - piece.start
    x = pairs[..., 0].flatten(2).narrow(2, start + hop, frames) + pairs[..., 1].flatten(2).narrow(2, start, frames)
    x = model.end_conv1x1(model.output(x) * model.output_gate(x))
    return model.activation(x.reshape(batch, model.num_spks, -1, frames)).transpose(0, 1)


def _count_pairs(time: int, size: int) -> int:
    """The pairs of chunks that SpeechBrain segments some frames into."""
    return (time + size // 2) // size + 1


def _run(model: Dual_Path_Model, x: Tensor) -> None:
    """Run all blocks over chunks (pairs, 2, size, channels) in place."""
    chunks, memory = x.flatten(0, 1), torch.empty_like(x).flatten(0, 1)
    result = chunks
    for block in model.dual_mdl:
        result, memory = _update(block, result, memory)
    if result is not chunks:
        chunks.copy_(result)


def _bottleneck(model: Dual_Path_Model, mix_w: Tensor) -> Tensor:
    """The normalized and projected frames (time, channels)."""
    frames = mix_w.T
    scale, shift = _normalization(model.norm, frames)
    cut = slices(len(frames), FRAMES)
    projected = [model.conv1d((frames[piece] * scale + shift).T[None])[0].T for piece in cut]
    return torch.cat(projected)


def _cut(frames: Tensor, x: Tensor) -> None:
    """Cut frames (time, channels) into x, zeros (pairs, 2, size, channels)."""
    size, (time, _) = x.shape[2], frames.shape
    for which, before in enumerate((size // 2, 0)):  # zeros before the first frame
        for pair in range(len(x)):
            start = pair * size - before
            found = frames[max(start, 0) : max(min(start + size, time), 0)]
            at = max(-start, 0)
            x[pair, which, at : at + len(found)] = found


def _update(block: Dual_Computation_Block, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Run a block over x (chunks, size, channels); returns the output and the memory that is free, which are both
    tensors given, in any order."""
    count, size, _ = x.shape

    def within(part: slice) -> None:
        memory[part] = _linear(block, "intra_linear", block.intra_mdl(x[part]))

    _in_groups(within, count, size)
    _normalize(block.intra_norm, memory)
    if block.skip_around_intra:
        x += memory
    else:
        x, memory = memory, x

    def across(part: slice) -> None:
        y = _linear(block, "inter_linear", block.inter_mdl(x[:, part].transpose(0, 1).contiguous()))
        memory[:, part] = y.transpose(0, 1)

    _in_groups(across, size, count)
    _normalize(block.inter_norm, memory)
    x += memory
    return x, memory


def _linear(block: Dual_Computation_Block, name: str, y: Tensor) -> Tensor:
    return getattr(block, name)(y) if block.linear_layer_after_inter_intra else y


def _in_groups(run: Callable[[slice], None], examples: int, frames: int) -> None:
    """Run over groups of examples that have few frames together."""
    for part in slices(examples, max(FRAMES // frames, 1)):
        run(part)


def _normalize(norm: nn.GroupNorm, x: Tensor) -> None:
    """Normalize x (..., channels) in place."""
    scale, shift = _normalization(norm, x)
    x.mul_(scale).add_(shift)


def _normalization(norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a normalization over all values of x (..., channels) multiplies by and adds, (channels,) each."""
    parts = x.split(max(FRAMES * len(x) * x.shape[-1] // x.numel(), 1))
    mean = sum(float(part.double().sum()) for part in parts) / x.numel()
    variance = sum(float((part.double() - mean).square().sum()) for part in parts) / x.numel()
    scale = norm.weight * (variance + norm.eps) ** -0.5
    return scale, norm.bias - mean * scale


__all__ = ["chunk_masks", "compute_chunks", "runs_in_pieces"]
