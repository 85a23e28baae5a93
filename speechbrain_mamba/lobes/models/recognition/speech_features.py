"""From waveforms to the features of a recognizer: with exact lengths, and without a look ahead for streams."""

from __future__ import annotations

import math
from typing import Any

import torch
from speechbrain.lobes.features import Fbank
from torch import Tensor, nn

from speechbrain_mamba.ops import absolute_lengths, mask_frames


class StreamableFbank(Fbank):
    """SpeechBrain's log-mel features, which can be the same for a stream as for the whole utterance.

    SpeechBrain clips the log-mel energies of an utterance 80 dB below the loudest one in all of it. A stream does not
    know what comes. With ``running`` each frame is clipped 80 dB below the loudest energy so far, its own included: a
    frame depends on nothing that is later than its window, and
    :class:`~speechbrain_mamba.lobes.models.recognition.streaming_frontend.StreamingFrontEnd` gives the same. The two
    differ in frames that are quieter than what follows by more than 80 dB: silence before speech, and mel bands
    without any energy, as in audio that was resampled from a lower rate.

    Arguments
    ---------
    running : bool
        Whether to clip below the loudest so far. By default the features are SpeechBrain's.
    **options
        As in SpeechBrain's ``Fbank``; ``deltas`` and ``context`` look ahead and cannot be ``running``.

    Raises
    ------
    ValueError
        When the features would look ahead.

    Example
    -------
    >>> wav = torch.cat([torch.zeros(1, 1600), torch.ones(1, 1600)], 1)
    >>> for running in (False, True):
    ...     feats = StreamableFbank(running)(wav)
    ...     print(feats.shape, round((feats.max() - feats[:, 0].max()).item()))
    torch.Size([1, 21, 40]) 80
    torch.Size([1, 21, 40]) 139
    """

    def __init__(self, running: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if running and (self.deltas or self.context):
            raise ValueError("deltas or context are on, but look ahead: leave them out, or set running to False.")
        self.running, self.top_db = running, self.compute_fbanks.top_db
        if running:
            self.compute_fbanks.top_db = math.inf

    def forward(self, wav: Tensor) -> Tensor:
        """Features (batch, frames, features) of waveforms (batch, samples)."""
        feats = super().forward(wav)
        return clip_below_loudest(feats, self.top_db)[0] if self.running else feats


def clip_below_loudest(feats: Tensor, top_db: float, loudest: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Clip log-mel energies below the loudest one so far.

    Arguments
    ---------
    feats : Tensor
        Energies in dB (batch, frames, features).
    top_db : float
        How far below, in dB.
    loudest : Tensor, optional
        The loudest energy before the first frame (batch, 1, 1).

    Returns
    -------
    feats, loudest : Tensor
        The clipped energies; and the loudest one up to the last frame (batch, 1, 1), for the frames that follow.

    Example
    -------
    >>> clip_below_loudest(torch.tensor([[[-90.0], [0.0], [-90.0]]]), 80.0)[0].flatten().tolist()
    [-90.0, 0.0, -80.0]
    """
    so_far = feats.amax(2, keepdim=True).cummax(1).values
    if loudest is not None:
        so_far = torch.maximum(so_far, loudest)
    return torch.maximum(feats, so_far - top_db), so_far[:, -1:]


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
    >>> feats, feat_lens = compute_padded_features(Fbank(), torch.randn(2, 32000), torch.tensor([1.0, 0.5]))
    >>> feats.shape, absolute_lengths(feat_lens, feats.shape[1])
    (torch.Size([2, 201, 40]), tensor([201, 101]))
    """
    lengths = absolute_lengths(wav_lens, wavs.shape[1], wavs.device)
    feats = compute_features(mask_frames(wavs, lengths))
    stft: Any = compute_features.compute_STFT
    return feats, (lengths // stft.hop_length + 1) / feats.shape[1]


def encoder_input(
    compute_features: nn.Module, normalize: nn.Module, frontend: nn.Module, wavs: Tensor, wav_lens: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the input of a trained recognizer's encoder, for a padded batch of waveforms.

    Arguments
    ---------
    compute_features, wavs, wav_lens
        As in :func:`compute_padded_features`.
    normalize, frontend : torch.nn.Module
        SpeechBrain's ``InputNormalization``, and a
        :class:`~speechbrain_mamba.lobes.models.recognition.convolution.ConvolutionFrontEnd`.

    Returns
    -------
    src, lens : Tensor
        The input (batch, frames, ...), and its lengths relative to the longest, floats (batch,).
    """
    feats, feat_lens = compute_padded_features(compute_features, wavs, wav_lens)
    front: Any = frontend
    return front(normalize(feats, feat_lens), feat_lens), front.output_lens(feat_lens, feats.shape[1])
