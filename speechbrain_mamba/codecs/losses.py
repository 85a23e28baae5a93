"""Losses between a codec's reconstruction and the recording."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from speechbrain_mamba.ops import mask_frames


class MultiScaleMelLoss(nn.Module):
    """Distance of mel spectrograms at several resolutions (EnCodec, arXiv 2210.13438, section 3.4).

    It has two terms. The first compares logarithms, so that soft sounds count too: mean absolute plus root mean squared
    differences over the bands. The second compares amplitudes, so that peaks such as formants count more: mean absolute
    differences relative to the mean amplitude.

    Arguments
    ---------
    sample_rate : int
        Samples per second.
    windows : sequence of int
        Lengths of the windows in samples; the hop is a quarter of each.
    n_mels : int
        Largest number of bands; short windows have fewer.
    floor : float
        Added to amplitudes (full scale is 1) before the logarithm. Amplitudes far below it hardly count; otherwise
        noise in digital silence would outweigh speech. Unlike a lower bound it keeps a gradient for a codec whose
        output is still silent.
    amplitude_weight : float
        Weight of the second term.

    Example
    -------
    >>> loss = MultiScaleMelLoss(8000)
    >>> wavs = torch.randn(2, 4000)
    >>> loss(wavs, wavs).item(), bool(loss(torch.randn(2, 4000), wavs) > 0.1)
    (0.0, True)
    """

    def __init__(
        self,
        sample_rate: int,
        windows: Sequence[int] = (64, 128, 256, 512, 1024),
        n_mels: int = 64,
        floor: float = 0.003,
        amplitude_weight: float = 0.3,
    ) -> None:
        super().__init__()
        self.floor, self.amplitude_weight = floor, amplitude_weight
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
        self._shortest = max(*windows, 256) // 2 + 1

    def forward(self, reconstruction: Tensor, wavs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The mean distance of waveforms (batch, samples), up to their lengths, integers (batch,)."""
        short = max(self._shortest - wavs.shape[1], 0)  # windows mirror the first and last samples
        pair = [F.pad(mask_frames(x, lengths).float(), (0, short)) for x in (reconstruction, wavs)]
        distances = []
        for transform in self.transforms:
            ours, theirs = map(transform, pair)
            difference = (ours + self.floor).log10() - (theirs + self.floor).log10()
            root = (difference.square().mean(1) + 1e-12).sqrt() - 1e-6
            amplitude = (ours - theirs).abs().mean() / (theirs.mean() + self.floor)
            distances.append(difference.abs().mean() + root.mean() + self.amplitude_weight * amplitude)
        return torch.stack(distances).mean()
