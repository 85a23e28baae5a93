"""What tells voices apart in estimates of separated speakers: pitch and the shape of the spectrum."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torchaudio.functional
from speechbrain.processing.features import STFT, Filterbank, spectral_magnitude
from torch import Tensor

N_CEPSTRA = 10


class Voices(NamedTuple):
    """What is known of the voices in some estimates: for each a mean of features over the frames in which it is alone
    or much louder than the others, and for each feature the number of these frames. All arrays are (voices, features)
    of float64."""

    means: np.ndarray
    counts: np.ndarray


class VoiceModel(NamedTuple):
    """How features vary: their variance between frames of one voice, as independent ones, and between voices."""

    within: np.ndarray
    between: np.ndarray
    temper: float
    """Factor on logarithmic likelihoods, as features and frames are not independent."""


def dominant_frames(energies: Tensor) -> Tensor:
    """The frames (voices, frames) that tell about each voice, from all energies: active, and not masked by others."""
    others = energies.sum(0) - energies
    active = energies > 1e-3 * energies.amax().clamp(min=1e-30)
    return active & (energies > 4 * others)


class VoiceCues:
    """Pitch and spectral shape of voices: a cue that needs no trained model.

    Features are the fundamental frequency in semitones and mel-cepstral coefficients, which do not depend on the level.
    A voice has them in frames that are active, and in which it is 6 dB louder than all other voices together.

    Arguments
    ---------
    sample_rate : int
        Samples per second.

    Example
    -------
    >>> cues = VoiceCues(8000)
    >>> voices = cues(torch.randn(2, 8000) * torch.tensor([[1.0], [0.1]]))
    >>> voices.means.shape, bool(voices.counts[0, -1] > 50), bool(voices.counts[1, -1] == 0)
    ((2, 11), True, True)
    """

    model = VoiceModel(
        within=np.array([100, 140, 120, 65, 60, 35, 25, 16, 14, 14, 8.0]),
        between=np.array([25, 6, 1.5, 1.5, 1.7, 2.8, 0.6, 0.8, 0.3, 0.3, 0.4]),
        temper=0.5,
    )
    """Measured on the six speakers of the free spoken digit dataset, all men: pitch varies more between all people."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        options: dict[str, Any] = {"sample_rate": sample_rate, "win_length": 32, "hop_length": 16}
        self.n_fft = 2 ** math.ceil(math.log2(0.064 * sample_rate))  # twice the window: for autocorrelations
        self.stft = STFT(n_fft=self.n_fft, **options)
        self.mels = Filterbank(n_mels=24, n_fft=self.n_fft, sample_rate=sample_rate, f_max=min(4000, sample_rate // 2))
        bands = torch.arange(24) + 0.5
        self.cosines = torch.cos(torch.pi / 24 * bands[:, None] * torch.arange(1, N_CEPSTRA + 1)) * math.sqrt(2 / 24)
        self.lags = sample_rate // 400, min(sample_rate // 70, self.n_fft // 2)  # periods of voices, in samples

    @torch.no_grad()
    def __call__(self, estimates: Tensor) -> Voices:
        """Find the features of estimates (voices, samples), in any scale that they share."""
        stft = self.stft(estimates.cpu())
        power = spectral_magnitude(stft, power=1)  # (voices, frames, bins)
        dominates = dominant_frames(power.sum(-1))
        mels = self.mels(power) * (math.log(10) / 10)  # natural logarithms of band energies
        cepstra = mels @ self.cosines
        pitch, voiced = self._pitch(power)
        features = torch.cat([pitch[..., None], cepstra], -1).double()
        valid = dominates[..., None].expand_as(features).clone()
        valid[..., 0] &= voiced
        counts = valid.sum(1)
        means = torch.where(valid, features, 0).sum(1) / counts.clamp(min=1)
        return Voices(means.numpy(), counts.double().numpy())

    def _pitch(self, power: Tensor) -> tuple[Tensor, Tensor]:
        """Fundamental frequencies in semitones, and where there is one, (voices, frames)."""
        correlation = torch.fft.irfft(power)  # of each frame with itself
        window = torch.hamming_window(round(0.032 * self.sample_rate))
        norm = torch.fft.irfft(torch.fft.rfft(window, self.n_fft).abs().square())
        low, high = self.lags
        relative = correlation[..., low:high] / correlation[..., :1].clamp(min=1e-20)
        relative = relative / (norm[low:high] / norm[0]).clamp(min=0.05)
        peak = relative.amax(-1, keepdim=True)
        inner = relative[..., 1:-1]
        tops = (inner >= relative[..., :-2]) & (inner >= relative[..., 2:]) & (inner > 0.9 * peak)
        lag = tops.int().argmax(-1) + 1 + low  # the shortest, as all its multiples are periods, too
        return 12 * torch.log2(self.sample_rate / lag.float()), (peak[..., 0] > 0.6) & tops.any(-1)


class EmbeddingCues:
    """Embeddings of a trained speaker encoder as features of voices.

    Arguments
    ---------
    speaker_encoder : callable or SpeechBrain's EncoderClassifier
        Gives embeddings (1, features) or (1, 1, features) of waveforms (1, samples), at the rate of its
        ``hparams.sample_rate`` if it has one, else at that of the separator.
    sample_rate : int
        The rate of the separator.

    Example
    -------
    >>> cues = EmbeddingCues(lambda wavs: torch.stack([wavs.std(1), wavs.diff().std(1)], 1), 8000)
    >>> voices = cues(torch.randn(2, 8000) * torch.tensor([[1.0], [0.1]]))
    >>> voices.means.shape, voices.counts[:, 0].round(1).tolist()
    ((2, 2), [0.7, 0.0])
    """

    seconds = 1.5
    """Speech that counts as one independent observation, and a third of the least that is embedded."""

    def __init__(self, speaker_encoder: Any, sample_rate: int) -> None:
        self.encode: Any = getattr(speaker_encoder, "encode_batch", speaker_encoder)
        self.sample_rate = sample_rate
        self.rate = int(getattr(getattr(speaker_encoder, "hparams", None), "sample_rate", sample_rate))
        self.features: int | None = None

    @property
    def model(self) -> VoiceModel:
        """Embeddings of unit length whose cosines are 0.6 for one voice and 0 for two, as those of ECAPA-TDNN."""
        size = self.features or 1
        return VoiceModel(np.full(size, 0.4 / size), np.full(size, 0.6 / size), 0.5 * min(1.0, 30 / size))

    @torch.no_grad()
    def __call__(self, estimates: Tensor) -> Voices:
        """Embed estimates (voices, samples), where each is much louder than the others."""
        hop = round(0.016 * self.sample_rate)
        frames = estimates.cpu().unfold(1, hop, hop)
        means, seconds = [], []
        for voice, valid in zip(frames, dominant_frames(frames.square().sum(-1))):
            speech = voice[valid].reshape(1, -1)
            seconds.append(speech.shape[1] / self.sample_rate)
            means.append(self._embed(speech) if seconds[-1] > self.seconds / 3 else None)
        if self.features is None:  # nothing but short pieces so far: the size of embeddings is not known yet
            return Voices(np.zeros((len(means), 0)), np.zeros((len(means), 0)))
        none = np.zeros(self.features)
        counts = [0 if mean is None else duration / self.seconds for mean, duration in zip(means, seconds)]
        return Voices(
            np.stack([none if mean is None else mean for mean in means]),
            np.repeat(np.array(counts)[:, None], self.features, 1),
        )

    def _embed(self, speech: Tensor) -> np.ndarray:
        if self.rate != self.sample_rate:
            speech = torchaudio.functional.resample(speech, self.sample_rate, self.rate)
        embedding = self.encode(speech).double().flatten().cpu().numpy()
        self.features = len(embedding)
        return embedding / max(float(np.linalg.norm(embedding)), 1e-12)
