"""SpeechBrain's dual-path model for padded batches, used by DPMamba and its baseline SepFormer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.lobes.models.dual_path import CumulativeLayerNorm, Dual_Computation_Block, Dual_Path_Model
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.separation.dual_path_pieces import chunk_masks, compute_chunks, runs_in_pieces
from speechbrain_mamba.nnet.attention import check_window
from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.group_norm import OneGroupNorm
from speechbrain_mamba.nnet.mixers import attention_layers as find_attention_layers
from speechbrain_mamba.nnet.self_attention import SelfAttention
from speechbrain_mamba.ops import lengths_on, valid_frames
from speechbrain_mamba.utils._compat import OwnChunks


def _normalize(norm: nn.GroupNorm | CumulativeLayerNorm, x: Tensor, valid: Tensor) -> Tensor:
    """Apply a normalization, with statistics of the valid positions only; ``valid`` broadcasts to ``x``."""
    if isinstance(norm, CumulativeLayerNorm):  # normalizes each position on its own
        return norm(x)
    axes = tuple(range(1, x.dim()))
    shape = (1, -1) + (1,) * (x.dim() - 2)
    count = valid.expand_as(x).sum(axes, keepdim=True).clamp(min=1)
    x = torch.where(valid, x.float(), 0)
    mean = x.sum(axes, keepdim=True) / count
    variance = torch.where(valid, x - mean, 0).square().sum(axes, keepdim=True) / count
    y = (x - mean) * torch.rsqrt(variance + norm.eps)
    return y * norm.weight.reshape(shape) + norm.bias.reshape(shape)


def _with_attention(name: str, model: nn.Module) -> nn.Module:
    """A model within or across chunks with attention in place of its mixers."""
    if not isinstance(model, MambaBlocksSequential):
        raise ValueError(
            f"attention_layers is given, but {name} is a {type(model).__name__}, which has no mixers to replace: use "
            "MambaBlocksSequential, or leave attention_layers out."
        )
    return model.with_attention()


class DualPathModel(OwnChunks, Dual_Path_Model):
    """SpeechBrain's ``Dual_Path_Model`` (Luo et al., arXiv 1910.06379) with lengths: same arguments, same weights.

    Without lengths it is ``Dual_Path_Model``. With them, each example of a padded batch gets the masks that it gets
    alone: its normalizations see only its own frames and chunks, and its inter model only its own chunks. Examples are
    run one by one if the intra or inter model takes no ``lengths``, such as SpeechBrain's transformer and RNN blocks,
    or if the normalization mixes examples.

    Arguments
    ---------
    *args, **kwargs
        Those of ``speechbrain.lobes.models.dual_path.Dual_Path_Model``.
    attention_layers : list of int, str or None
        Dual-path blocks whose intra and inter model get attention in place of their mixers, see
        :func:`~speechbrain_mamba.nnet.mixers.attention_layers`; for models that are ``MambaBlocksSequential``.
    attention_window : int, optional
        The frames, or chunks, that each attention of these models sees. All by default.

    Raises
    ------
    ValueError
        For blocks that there are not, intra or inter models that have no mixers, or a window that nothing uses.

    Example
    -------
    >>> intra, inter = MambaBlocksSequential(1, True, 8), MambaBlocksSequential(1, True, 8)
    >>> masknet = DualPathModel(16, 8, intra, inter, K=10, linear_layer_after_inter_intra=False)
    >>> masknet(torch.rand(3, 16, 50), torch.tensor([50, 20, 1])).shape
    torch.Size([2, 3, 16, 50])
    """

    def __init__(
        self,
        *args: Any,
        attention_layers: Sequence[int] | str | None = None,
        attention_window: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for i in find_attention_layers(attention_layers, len(self.dual_mdl)):
            for name in ("intra_mdl", "inter_mdl"):
                setattr(self.dual_mdl[i], name, _with_attention(name, getattr(self.dual_mdl[i], name)))
        self._limit_attention(attention_window)
        self._share_out_norms()
        block = self.dual_mdl[0]
        takes_lengths = all(
            "lengths" in inspect.signature(model.forward).parameters for model in (block.intra_mdl, block.inter_mdl)
        )
        masks_apply = isinstance(self.norm, (nn.GroupNorm, CumulativeLayerNorm)) and not self.use_global_pos_enc
        self._batched = takes_lengths and masks_apply

    @property
    def batched(self) -> bool:
        """Whether the examples of a padded batch run together, and not one by one."""
        return self._batched

    @property
    def in_pieces(self) -> bool:
        """Whether :meth:`features` and :meth:`masks` know all its parts."""
        return runs_in_pieces(self)

    def features(
        self, read: Callable[[slice], Tensor], pieces: Sequence[slice], lengths: Tensor | None = None
    ) -> Tensor:
        """The first part of :meth:`forward` for inference on long recordings, with the arguments of :meth:`MaskNet's
        <speechbrain_mamba.lobes.models.separation.mamba_tasnet.MaskNet.features>`: the chunks that
        :func:`~speechbrain_mamba.lobes.models.separation.dual_path_pieces.compute_chunks` returns."""
        return compute_chunks(self, read, pieces, lengths)

    def masks(self, features: Tensor, piece: slice) -> Tensor:
        """The second part: masks (speakers, batch, channels, time) of some frames, of no account past the lengths."""
        return chunk_masks(self, features, piece)

    def cut_chunks(self, x: Tensor, size: int) -> tuple[Tensor, int]:
        """Cut (batch, channels, time) into chunks that overlap by half, as SpeechBrain does. Returns them, (batch,
        channels, size, chunks), and the frames that were padded.

        Shapes follow from the number of pairs of chunks, which stays open while a program is exported. No zeros are
        made on the CPU for whose copy a GPU waits.
        """
        hop, time = size // 2, x.shape[2]
        pairs = (time + hop) // size + 1
        gap = pairs * size - hop - time
        padded = F.pad(x, (hop, gap + hop))
        first, second = (padded.narrow(2, start, pairs * size).reshape(*x.shape[:2], pairs, size) for start in (0, hop))
        chunks = torch.stack([first, second], 3).flatten(2, 3)
        return chunks.transpose(2, 3).contiguous(), gap

    def join_chunks(self, chunks: Tensor, gap: int) -> Tensor:
        """Add the chunks returned by :meth:`cut_chunks` up to (batch, channels, time)."""
        batch, channels, size, count = chunks.shape
        hop, pairs = size // 2, count // 2
        whole = chunks.transpose(2, 3).reshape(batch, channels, pairs, 2, size)
        first, second = (whole[:, :, :, i].reshape(batch, channels, pairs * size) for i in (0, 1))
        time = pairs * size - hop - gap
        return first.narrow(2, hop, time) + second.narrow(2, 0, time)

    def _share_out_norms(self) -> None:
        """Let a GPU compute the norms over all channels and frames of an example with more than one multiprocessor."""
        for module in [*self.modules()]:
            for name, norm in [*module.named_children()]:
                if type(norm) is nn.GroupNorm and norm.num_groups == 1 and norm.affine:
                    setattr(module, name, OneGroupNorm.taking(norm))

    def _limit_attention(self, window: int | None) -> None:
        if window is None:
            return
        attention = [module for module in self.modules() if isinstance(module, SelfAttention)]
        if not attention:
            raise ValueError(f"attention_window is {window}, but no layer attends: set attention_layers.")
        for module in attention:
            check_window(window)
            module.window = window

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Estimate the masks (speakers, batch, channels, time), not negative, of an encoded mixture (batch, channels,
        time). ``lengths`` are valid frames per example, integers (batch,); the masks are zero past them."""
        time = x.shape[2]
        # Lengths on a GPU are not looked at where they need not be: that would wait, and fail in a CUDA graph.
        # Nor while a program is exported: it takes any lengths.
        waits_not = lengths is not None and lengths.device.type == "cpu" and not torch.compiler.is_exporting()
        looks = lengths is not None and (waits_not or not self._batched)
        if lengths is None or (looks and bool((lengths == time).all())):
            return super().forward(x)
        if self._batched:
            return self._forward_padded(x, lengths_on(lengths, x.device))
        alone = [
            F.pad(super(DualPathModel, self).forward(example[None, :, :length]), (0, time - length))
            if length
            else example.new_zeros(self.num_spks, 1, *example.shape)
            for example, length in zip(x, lengths.tolist())
        ]
        return torch.cat(alone, 1)

    def _forward_padded(self, x: Tensor, lengths: Tensor) -> Tensor:
        batch, _, time = x.shape
        valid = valid_frames(lengths, time)[:, None]
        x = torch.where(valid, x, 0)
        x = self.conv1d(_normalize(self.norm, x, valid))
        x, gap = self.cut_chunks(torch.where(valid, x, 0), self.K)
        chunks = self._chunks(lengths)
        for block in self.dual_mdl:
            x = self._dual_computation(block, x, chunks)
        x = self.conv2d(self.prelu(x))
        chunk_size, n_chunks = x.shape[2:]
        x = torch.where(valid_frames(chunks, n_chunks)[:, None, None], x, 0)
        x = self.join_chunks(x.reshape(batch * self.num_spks, -1, chunk_size, n_chunks), gap)
        x = self.end_conv1x1(self.output(x) * self.output_gate(x))
        masks = self.activation(x.reshape(batch, self.num_spks, -1, time))
        return torch.where(valid[:, None], masks, 0).transpose(0, 1)

    def _chunks(self, lengths: Tensor) -> Tensor:
        """The number of chunks that SpeechBrain segments an example of each length into."""
        hop = self.K // 2
        gap = self.K - (hop + lengths % self.K) % self.K
        chunks = 2 * (lengths + gap + hop) // self.K
        return torch.where(lengths > 0, chunks, 0)

    def _dual_computation(self, block: Dual_Computation_Block, x: Tensor, chunks: Tensor) -> Tensor:
        """``Dual_Computation_Block`` over x, (batch, channels, chunk size, chunks), with the chunks that are valid."""
        batch, channels, chunk_size, n_chunks = x.shape
        valid = valid_frames(chunks, n_chunks)[:, None, None]

        intra = block.intra_mdl(x.permute(0, 3, 2, 1).reshape(batch * n_chunks, chunk_size, channels))
        if block.linear_layer_after_inter_intra:
            intra = block.intra_linear(intra)
        intra = intra.reshape(batch, n_chunks, chunk_size, channels).permute(0, 3, 2, 1)
        if block.norm is not None:
            intra = _normalize(block.intra_norm, intra, valid)
        if block.skip_around_intra:
            intra = intra + x

        inter = intra.permute(0, 2, 3, 1).reshape(batch * chunk_size, n_chunks, channels)
        inter = block.inter_mdl(inter, lengths=chunks.repeat_interleave(chunk_size))
        if block.linear_layer_after_inter_intra:
            inter = block.inter_linear(inter)
        inter = inter.reshape(batch, chunk_size, n_chunks, channels).permute(0, 3, 1, 2)
        if block.norm is not None:
            inter = _normalize(block.inter_norm, inter, valid)
        return torch.where(valid, inter + intra, 0)
