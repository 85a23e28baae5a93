"""From pieces of a waveform to what a recogniser's encoder takes, as if the waveform had come in one go."""

from __future__ import annotations

import copy
import math

import torch
from speechbrain.nnet.CNN import Conv2d
from torch import Tensor, nn


class StreamingFrontEnd(nn.Module):
    """Features, normalisation and convolutional front end of a recogniser, for audio that comes in pieces.

    Each output frame is emitted as soon as all samples that it depends on are there: with the published front end 43 ms
    after its middle. The output of all pieces is that of the whole waveform, with work and memory per piece that do not
    grow. One thing a stream cannot know: SpeechBrain's log-mel features are clipped at 80 dB below the loudest of the
    whole utterance. Here they are clipped below the loudest so far, which differs only in digital silence, and in mel
    filters so narrow that they catch nothing (with many filters and a short FFT).

    Arguments
    ---------
    compute_features : torch.nn.Module
        SpeechBrain's ``Fbank``, without deltas or context.
    normalize : torch.nn.Module
        SpeechBrain's ``InputNormalization`` with global statistics, already estimated.
    frontend : torch.nn.Module
        :class:`~speechbrain_mamba.lobes.models.recognition.convolution.ConvolutionFrontEnd` that pads by reflection.

    Example
    -------
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd
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

    def __init__(self, compute_features, normalize, frontend):
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
        self.warm_frames = self._warm_frames()
        self.reset()

    def reset(self):
        """Forget the stream, to begin another one."""
        self.samples = None  # (batch, samples), from sample `self.start` of the stream on
        self.start = self.emitted = 0
        self.loudest = None

    def _warm_frames(self) -> int:
        """Output frames at the start of a window that see its border, and so are not those of the whole stream."""
        wrong = 0
        for border, stride in self.convs:
            wrong = -(-(wrong + border) // stride)
        return wrong

    def _final_features(self) -> int:
        """Features since the beginning that later samples cannot change."""
        samples = self.start + self.samples.shape[1]
        return 0 if samples < self.half_window else (samples - self.half_window) // self.hop + 1

    def _final_frames(self) -> int:
        """Output frames since the beginning that later samples cannot change."""
        frames = self._final_features()
        for border, stride in self.convs:
            frames = max(0, (frames - 1 - border) // stride + 1)
        return frames

    def forward(self, wavs):
        """Take the next piece.

        Arguments
        ---------
        wavs : Tensor
            Samples (batch, samples), as many or few as there are.

        Returns
        -------
        Tensor
            Output (batch, frames, ...), of the frames that are now certain; there may be none.
        """
        self.samples = wavs if self.samples is None else torch.cat([self.samples, wavs], 1)
        final = self._final_frames()
        return self._emit(final) if final > self.emitted else self._nothing()

    def finish(self):
        """End the stream.

        Returns
        -------
        Tensor
            Output (batch, frames, ...), of all frames that are left. The next piece begins another stream.

        Raises
        ------
        ValueError
            When there was no audio, or less than the front end needs.
        """
        if self.samples is None:
            raise ValueError("The stream ended without any audio.")
        y = self._emit(None)
        self.reset()
        return y

    def _nothing(self) -> Tensor:
        width = self.compute_features.compute_fbanks.n_mels
        with torch.no_grad():
            return self.frontend(self.samples.new_zeros(self.samples.shape[0], 4 * self.stride, width))[:, :0]

    def _emit(self, final: int | None) -> Tensor:
        """Compute the output from the last emitted frame to `final`, or to the end, and drop samples used up."""
        first = max(0, self.emitted - self.warm_frames)  # output frame where the window of features begins
        drop = -(-self.half_window // self.hop) if first else 0  # features that see the cut, not the stream's beginning
        begin = (first * self.stride - drop) * self.hop
        if begin < 0:
            first = drop = begin = 0
        feats = self.compute_features(self.samples[:, begin - self.start :])[:, drop:]
        if final is not None:
            feats = feats[:, : self._final_features() - first * self.stride]
        feats = self.normalize(self._clip(feats))
        y = self.frontend(feats)[:, self.emitted - first : None if final is None else final - first]
        self.samples, self.start = self.samples[:, begin - self.start :], begin
        self.emitted += y.shape[1]
        return y

    def _clip(self, feats: Tensor) -> Tensor:
        loudest = feats.amax((1, 2), keepdim=True)
        self.loudest = loudest if self.loudest is None else torch.maximum(self.loudest, loudest)
        return torch.maximum(feats, self.loudest - self.top_db)
