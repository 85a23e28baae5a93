"""What a codec's reconstruction is compared by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from speechbrain_mamba.ops import mask_frames

FLOOR = 1e-3
"""Added to the amplitudes of bands: those far below it, 60 dB under full scale, hardly count, so that what digital
silence becomes does not matter more than speech. Unlike a bound it leaves a way up to a codec that says nothing yet."""


class MultiScaleMelLoss(nn.Module):
    """Distance of mel spectrograms at several resolutions (EnCodec, arXiv 2210.13438, section 3.4).

    The sum of absolute differences and, in a weighted second term, root mean squared differences over the bands, of
    logarithms so that soft sounds count too.

    Arguments
    ---------
    sample_rate : int
        Samples per second.
    windows : sequence of int
        Lengths of the windows in samples, which hop by a quarter.
    n_mels : int
        Bands at most; short windows have fewer.

    Example
    -------
    >>> loss = MultiScaleMelLoss(8000)
    >>> wavs = torch.randn(2, 4000)
    >>> loss(wavs, wavs).item(), bool(loss(torch.randn(2, 4000), wavs) > 0.1)
    (0.0, True)
    """

    def __init__(self, sample_rate: int, windows: Sequence[int] = (64, 128, 256, 512, 1024), n_mels: int = 64):
        super().__init__()
        self.transforms = nn.ModuleList(
            MelSpectrogram(
                sample_rate,
                n_fft=max(window, 256),
                win_length=window,
                hop_length=window // 4,
                n_mels=min(n_mels, window // 8),
                power=1,
                normalized="window",
            )
            for window in windows
        )

    def forward(self, reconstruction: Tensor, wavs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The mean distance of waveforms (batch, samples), up to their lengths, integers (batch,)."""
        distances = []
        reconstruction, wavs = mask_frames(reconstruction, lengths), mask_frames(wavs, lengths)
        for transform in self.transforms:
            ours, theirs = ((transform(x.float()) + FLOOR).log10() for x in (reconstruction, wavs))
            difference = ours - theirs
            root = (difference.square().mean(1) + 1e-12).sqrt() - 1e-6
            distances.append(difference.abs().mean() + root.mean())
        return torch.stack(distances).mean()
