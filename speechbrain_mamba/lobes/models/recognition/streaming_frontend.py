"""From pieces of a waveform to the input of a recognizer's encoder, equal to that of the whole waveform."""

from __future__ import annotations

import copy
import math

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.nnet.CNN import Conv2d
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd
from speechbrain_mamba.lobes.models.recognition.speech_features import clip_below_loudest


class StreamingFrontEnd(nn.Module):
    """Features, normalization and convolutional front end of a recognizer, for audio that comes in pieces.

    Each output frame is emitted as soon as all samples that it depends on are there: with the published front end 43 ms
    after its middle. The concatenated output equals that of the whole waveform up to rounding, whatever the audio; work
    and memory per piece do not grow.

    Arguments
    ---------
    compute_features : StreamableFbank or Fbank
        Features without deltas or context. Those of
        :class:`~speechbrain_mamba.lobes.models.recognition.speech_features.StreamableFbank` with ``running`` are equal
        in pieces. SpeechBrain's own are clipped at 80 dB below the loudest of the whole utterance, which a stream
        cannot know: here they are clipped below the loudest so far, and frames differ that are quieter than what
        follows by more than 80 dB.
    normalize : torch.nn.Module
        SpeechBrain's ``InputNormalization`` with global statistics, already estimated.
    frontend : ConvolutionFrontEnd
        The convolutional front end; it must pad by reflection.

    Example
    -------
    >>> from speechbrain_mamba.lobes.models.recognition.speech_features import StreamableFbank
    >>> fbank = StreamableFbank(running=True, n_mels=80)
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
        self.top_db = getattr(compute_features, "top_db", self.fbanks.top_db)
        self.fbanks.top_db = math.inf
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
        self.samples: Tensor | None = None  # (batch, samples), those that later features need
        self.feats: Tensor | None = None  # (batch, features, mels), those that later output frames need
        self.first_sample = self.first_feature = 0  # where both begin in the stream
        self.computed = self.emitted = 0  # features and output frames so far
        self.loudest: Tensor | None = None  # of all features so far, (batch, 1, 1)

    def forward(self, wavs: Tensor) -> Tensor:
        """Take the next piece, any number of samples (batch, samples). Returns the output (batch, frames, ...), the new
        frames that no later sample can change; there may be none."""
        self.samples = wavs if self.samples is None else torch.cat([self.samples, wavs], 1)
        samples = self.first_sample + self.samples.shape[1]
        if samples >= self.half_window:
            self._compute_features((samples - self.half_window) // self.hop + 1)
        frames = self.computed
        for border, stride in self.convs:
            frames = max(0, (frames - 1 - border) // stride + 1)
        if self.feats is None or frames <= self.emitted:
            with torch.no_grad():
                return self.frontend(wavs.new_zeros(len(wavs), 4 * self.stride, self.fbanks.n_mels))[:, :0]
        return self._convolve(frames)

    def finish(self) -> Tensor:
        """End the stream; the next piece begins another one. Returns the remaining frames (batch, frames, ...), or
        raises a ValueError when there was no audio, or less than the front end needs."""
        if self.samples is None:
            raise ValueError("The stream ended without any audio.")
        self._compute_features((self.first_sample + self.samples.shape[1]) // self.hop + 1)
        y = self._convolve(None)
        self.reset()
        return y

    def _compute_features(self, count: int) -> None:
        """Compute the features up to a number of them in all, each once, and drop the samples that are used up."""
        if count <= self.computed or self.samples is None:
            return
        first = self.first_sample // self.hop  # the first ones see the cut before the samples, and were computed before
        # SpeechBrain's forward, without a clip
        feats = Fbank.forward(self.compute_features, self.samples)[:, self.computed - first : count - first]
        feats, self.loudest = clip_below_loudest(feats, self.top_db, self.loudest)
        feats = self.normalize(feats)
        self.feats = feats if self.feats is None else torch.cat([self.feats, feats], 1)
        self.computed = count
        begin = max(0, count - -(-self.half_window // self.hop)) * self.hop
        self.samples, self.first_sample = self.samples[:, begin - self.first_sample :], begin

    def _convolve(self, final: int | None) -> Tensor:
        """Compute the output from the last emitted frame to `final`, or to the end, and drop the features used up."""
        assert self.feats is not None
        first = self.first_feature // self.stride  # the output frame where the window of features begins
        y = self.frontend(self.feats)[:, self.emitted - first : None if final is None else final - first]
        self.emitted += y.shape[1]
        begin = max(0, self.emitted - self.warm_frames) * self.stride
        self.feats, self.first_feature = self.feats[:, begin - self.first_feature :], begin
        return y
