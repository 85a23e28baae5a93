"""From waveforms to the features of a recognizer, with exact lengths."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from speechbrain_mamba.ops import absolute_lengths, mask_frames


def compute_padded_features(compute_features: nn.Module, wavs: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
    """Compute features of a padded batch, and their lengths.

    There is one frame more than whole hops, so the number of frames is not in proportion to that of samples: the
    relative lengths of the waveforms would cut off an example's last frame, or count one of padding.

    Arguments
    ---------
    compute_features : torch.nn.Module
        SpeechBrain's ``Fbank``, whose frames are centered.
    wavs, wav_lens : Tensor
        Waveforms (batch, samples), and their lengths relative to the longest, floats (batch,) in [0, 1].

    Returns
    -------
    feats, feat_lens : Tensor
        Features (batch, frames, features), and their lengths relative to the longest, floats (batch,).

    Example
    -------
    >>> import torch
    >>> from speechbrain.lobes.features import Fbank
    >>> feats, feat_lens = compute_padded_features(Fbank(), torch.randn(2, 32000), torch.tensor([1.0, 0.5]))
    >>> feats.shape, absolute_lengths(feat_lens, feats.shape[1])
    (torch.Size([2, 201, 40]), tensor([201, 101]))
    """
    lengths = absolute_lengths(wav_lens, wavs.shape[1], wavs.device)
    feats = compute_features(mask_frames(wavs, lengths))
    stft: Any = compute_features.compute_STFT
    return feats, (lengths // stft.hop_length + 1) / feats.shape[1]
