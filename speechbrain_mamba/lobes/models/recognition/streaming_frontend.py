"""From pieces of a waveform to the input of a recognizer's encoder, equal to that of the whole waveform."""

from __future__ import annotations

import copy
import math

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.nnet.CNN import Conv2d
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd


class StreamingFrontEnd(nn.Module):
    """Features, normalization and convolutional front end of a recognizer, for audio that comes in pieces.

    Each output frame is emitted as soon as all samples that it depends on are there: with the published front end 43 ms
    after its middle. The concatenated output equals that of the whole waveform; work and memory per piece do not grow.
    One difference is unavoidable: SpeechBrain clips log-mel features at 80 dB below the loudest of the whole utterance,
    here they are clipped below the loudest so far. This matters in digital silence only, and in mel filters so narrow
    that they catch nothing (many filters with a short FFT).

    Arguments
    ---------
    compute_features : Fbank
        SpeechBrain's features, without deltas or context.
    normalize : torch.nn.Module
        SpeechBrain's ``InputNormalization`` with global statistics, already estimated.
    frontend : ConvolutionFrontEnd
        The convolutional front end; it must pad by reflection.

    Example
    -------
    >>> fbank = Fbank(n_mels=80)
    >>> cnn = ConvolutionFrontEnd((8, 10, 80), 2, 1, (64, 32), (3, 3), (2, 2), residuals=(False, False)).eval()
    >>> wav = torch.randn(1, 16000)
    >>> stream = StreamingFrontEnd(fbank, nn.Identity(), cnn)
    >>> with torch.no_grad():
    ...     pieces = [stream(piece) for piece in wav.split(5120, 1)] + [stream.finish()]
    ...     whole = cnn(fbank(wav))
    >>> [piece.shape[1] for piece in pieces], torch.allclose(torch.cat(pieces, 1), whole, atol=1e-4)
    ([7, 8, 8, 1, 2], True)
    """

    def __init__(self, compute_features: Fbank, normalize: nn.Module, frontend: ConvolutionFrontEnd) -> None:
        super().__init__()
        self.compute_features = copy.deepcopy(compute_features)
        self.fbanks = self.compute_features.compute_fbanks
        self.top_db, self.fbanks.top_db = self.fbanks.top_db, math.inf
        self.normalize, self.frontend = normalize, frontend
        self.hop = compute_features.compute_STFT.hop_length
        self.half_window = compute_features.compute_STFT.n_fft // 2
        convs = [layer for block in frontend.values() for layer in block.convs.values() if isinstance(layer, Conv2d)]
        self.convs = [(conv.kernel_size[-1] // 2, conv.stride[-1]) for conv in convs]
        self.stride = math.prod(stride for _, stride in self.convs)
        self.warm_frames = 0  # output frames at the start of a window that see its border, unlike those of the stream
        for border, stride in self.convs:
            self.warm_frames = -(-(self.warm_frames + border) // stride)
        self.reset()

    def reset(self) -> None:
        """Forget the stream; the next piece begins another one."""
        self.samples: Tensor | None = None  # (batch, samples), from sample `self.start` of the stream on
        self.start = self.emitted = 0
        self.loudest = torch.tensor(-math.inf)  # of all features so far; (batch, 1, 1) after the first

    def _final_features(self, samples: int) -> int:
        """Count the features since the beginning that samples after the first ``samples`` cannot change."""
        return 0 if samples < self.half_window else (samples - self.half_window) // self.hop + 1

    def _final_frames(self, samples: int) -> int:
        """Count the output frames since the beginning that samples after the first ``samples`` cannot change."""
        frames = self._final_features(samples)
        for border, stride in self.convs:
            frames = max(0, (frames - 1 - border) // stride + 1)
        return frames

    def forward(self, wavs: Tensor) -> Tensor:
        """Take the next piece, any number of samples (batch, samples). Returns the output (batch, frames, ...), the new
        frames that no later sample can change; there may be none."""
        samples = self.samples = wavs if self.samples is None else torch.cat([self.samples, wavs], 1)
        final = self._final_frames(self.start + samples.shape[1])
        return self._emit(samples, final) if final > self.emitted else self._nothing(samples)

    def finish(self) -> Tensor:
        """End the stream; the next piece begins another one. Returns the remaining frames (batch, frames, ...), or
        raises a ValueError when there was no audio, or less than the front end needs."""
        if self.samples is None:
            raise ValueError("The stream ended without any audio.")
        y = self._emit(self.samples, None)
        self.reset()
        return y

    def _nothing(self, samples: Tensor) -> Tensor:
        with torch.no_grad():
            return self.frontend(samples.new_zeros(samples.shape[0], 4 * self.stride, self.fbanks.n_mels))[:, :0]

    def _emit(self, samples: Tensor, final: int | None) -> Tensor:
        """Compute the output from the last emitted frame to `final`, or to the end, and drop the samples used up."""
        first = max(0, self.emitted - self.warm_frames)  # output frame where the window of features begins
        drop = -(-self.half_window // self.hop) if first else 0  # features that see the cut, not the stream's beginning
        begin = (first * self.stride - drop) * self.hop
        if begin < 0:
            first = drop = begin = 0
        kept = samples[:, begin - self.start :]
        feats = self.compute_features(kept)[:, drop:]
        if final is not None:
            feats = feats[:, : self._final_features(begin + kept.shape[1]) - first * self.stride]
        self.loudest = torch.maximum(self.loudest, feats.amax((1, 2), keepdim=True))
        feats = self.normalize(torch.maximum(feats, self.loudest - self.top_db))
        y = self.frontend(feats)[:, self.emitted - first : None if final is None else final - first]
        self.samples, self.start = kept, begin
        self.emitted += y.shape[1]
        return y
