"""Time-domain speech separation from its three parts: encoder, mask network, decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.nnet.pieces import find_pieces
from speechbrain_mamba.ops import absolute_lengths, mask_frames, valid_frames


def check_frames(encoder: Any, decoder: Any) -> None:
    """Check that an encoder and a decoder have the same frames; arguments as for :func:`separate`.

    Raises
    ------
    ValueError
        When their kernels or strides differ: the estimates would be as a recording that is played too fast or slowly.

    Example
    -------
    >>> from speechbrain.lobes.models.dual_path import Decoder, Encoder
    >>> check_frames(Encoder(32, 16), Decoder(16, 1, 32, stride=16, bias=False))
    """
    conv, deconv = _unwrap(encoder).conv1d, _unwrap(decoder)
    ours, theirs = (layer.kernel_size + layer.stride for layer in (conv, deconv))
    if ours != theirs:
        raise ValueError(
            f"The encoder has a kernel of {ours[0]} samples and a stride of {ours[1]}, but the decoder has {theirs[0]} "
            f"and {theirs[1]}: they must be the same. SpeechBrain's encoder has a stride of half its kernel: leave "
            "kernel_stride at kernel_size // 2."
        )


def check_length(encoder: Any, samples: int, name: str) -> tuple[int, int]:
    """Check that a mixture is not shorter than the encoder's kernel; returns kernel and stride, in samples.

    Raises
    ------
    ValueError
        When it is shorter.

    Example
    -------
    >>> from speechbrain.lobes.models.dual_path import Encoder
    >>> check_length(Encoder(16, 16), 100, "The mixture")
    (16, 8)
    """
    conv = _unwrap(encoder).conv1d
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    if samples < kernel:
        count = f"{samples} sample{'s' if samples != 1 else ''}"
        raise ValueError(f"{name} has {count}, but the encoder's kernel needs at least {kernel}.")
    return kernel, stride


def _unwrap(module: Any) -> Any:
    return getattr(module, "module", module)  # DistributedDataParallel wraps it


def separate(
    encoder: nn.Module, masknet: nn.Module, decoder: nn.Module, mix: Tensor, mix_lens: Tensor | None = None
) -> Tensor:
    """Separate mixtures into speakers (batch, samples, speakers), as in TasNet (arXiv 1809.07454).

    In a padded batch each example gets the estimate that it gets alone, whatever its padding holds, and zeros past its
    length. Lengths become absolute here, and padding is masked here: the parts get lengths in frames and finite values.

    Arguments
    ---------
    encoder, decoder : torch.nn.Module
        SpeechBrain's ``dual_path.Encoder`` and ``dual_path.Decoder``.
    masknet : torch.nn.Module
        Called with the encoded mixture (batch, channels, frames) and lengths in frames, gives masks (speakers, batch,
        channels, frames): :class:`~speechbrain_mamba.lobes.models.separation.mamba_tasnet.MaskNet` or
        :class:`~speechbrain_mamba.lobes.models.separation.dual_path.DualPathModel`.
    mix : Tensor
        Mixtures (batch, samples).
    mix_lens : Tensor, optional
        Lengths relative to the longest mixture, (batch,) in [0, 1], as in SpeechBrain's batches.

    Raises
    ------
    ValueError
        When the mixtures are shorter than the encoder's kernel, or encoder and decoder differ in kernel or stride.

    Example
    -------
    >>> import torch
    >>> from speechbrain.lobes.models.dual_path import Decoder, Encoder
    >>> from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet
    >>> from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
    >>> masknet = MaskNet(N=16, B=8, C=2, mamba_net=MambaBlocksSequential(2, True, 8))
    >>> encoder, decoder = Encoder(16, 16), Decoder(16, 1, 16, stride=8, bias=False)
    >>> separate(encoder, masknet, decoder, torch.randn(3, 800), torch.tensor([1.0, 0.5, 0.2])).shape
    torch.Size([3, 800, 2])
    """
    check_frames(encoder, decoder)
    samples = mix.shape[1]
    kernel, stride = check_length(encoder, samples, "The mixture")
    lengths = absolute_lengths(mix_lens, samples, mix.device)
    frame_lengths = None
    if lengths is not None:
        mix = mask_frames(mix, lengths)
        frame_lengths = ((lengths - kernel) // stride + 1).clamp(min=0)

    pieces = None
    if getattr(masknet, "in_pieces", False) and _unwrap(decoder).bias is None:
        parts = nn.ModuleList([encoder, masknet, decoder])
        pieces = find_pieces(parts, mix, (samples - kernel) // stride + 1)
    if pieces is None:
        mix_w = encoder(mix)
        estimate = _decode(decoder, masknet(mix_w, frame_lengths) * mix_w)
        estimate = F.pad(estimate, (0, samples - estimate.shape[-1]))
    else:
        estimate = _separate_pieces(encoder, masknet, decoder, mix, frame_lengths, pieces)
    return estimate.permute(1, 2, 0)


def _separate_pieces(
    encoder: nn.Module, masknet: Any, decoder: nn.Module, mix: Tensor, lengths: Tensor | None, pieces: Sequence[slice]
) -> Tensor:
    """Waveforms (speakers, batch, samples) of mixtures (batch, samples). Encoded mixture, masks and sources are there
    in pieces only."""
    kernel, stride = check_length(encoder, mix.shape[1], "The mixture")

    def encode(piece: slice) -> Tensor:
        return encoder(mix[:, piece.start * stride : (piece.stop - 1) * stride + kernel])

    features = masknet.features(encode, pieces, lengths)
    estimate: Any = None
    for piece in pieces:  # the waveforms of successive ones overlap
        masked = masknet.masks(features, piece) * encode(piece)
        if lengths is not None:  # features past them may be of no account
            masked = masked.masked_fill(~valid_frames(lengths - piece.start, masked.shape[-1])[:, None], 0)
        decoded = _decode(decoder, masked)
        estimate = decoded.new_zeros(masknet.num_spks, *mix.shape) if estimate is None else estimate
        estimate[..., piece.start * stride :][..., : decoded.shape[-1]] += decoded
    return estimate


def _decode(decoder: nn.Module, sources_w: Tensor) -> Tensor:
    """Waveforms (speakers, batch, samples) of encoded sources (speakers, batch, channels, frames)."""
    speakers, batch = sources_w.shape[:2]
    return decoder(sources_w.flatten(0, 1)).reshape(speakers, batch, -1)
