"""A streaming recognizer in the two parts that SpeechBrain's ``StreamingASR`` takes: features, and encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from speechbrain.utils.filter_analysis import FilterProperties
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd
from speechbrain_mamba.lobes.models.recognition.streaming_frontend import StreamingFrontEnd
from speechbrain_mamba.ops import absolute_lengths, mask_frames


class StreamingExtractor(nn.Module):
    """Input of the encoder from audio in pieces of any length, equal to that of the whole waveform.

    It takes the place of SpeechBrain's ``StreamingFeatureWrapper``, whose frames are those of overlapping pieces.

    Arguments
    ---------
    compute_features, normalize, CNN
        As in :class:`~speechbrain_mamba.lobes.models.recognition.streaming_frontend.StreamingFrontEnd`.

    Example
    -------
    >>> from speechbrain_mamba.lobes.models.recognition.speech_features import StreamableFbank
    >>> cnn = ConvolutionFrontEnd((8, 10, 80), 2, 1, (64, 32), (3, 3), (2, 2), residuals=(False, False)).eval()
    >>> extractor = StreamingExtractor(StreamableFbank(running=True, n_mels=80), nn.Identity(), cnn)
    >>> context = extractor.make_streaming_context()
    >>> with torch.no_grad():
    ...     [extractor(piece, context).shape[1] for piece in torch.randn(1, 16000).split(5112, 1)]
    [7, 8, 8, 1]
    >>> extractor.properties.stride, extractor.get_recommended_final_chunk_count(5112)
    (640, 2)
    """

    def __init__(self, compute_features: Fbank, normalize: nn.Module, CNN: ConvolutionFrontEnd) -> None:
        super().__init__()
        self.compute_features, self.normalize, self.CNN = compute_features, normalize, CNN
        front = self.make_streaming_context()
        window, stride = 2 * front.half_window, front.hop
        for border, step in front.convs:
            window += 2 * border * stride
            stride *= step
        self.properties = FilterProperties(window_size=window, stride=stride)

    def make_streaming_context(self) -> StreamingFrontEnd:
        """Start a stream."""
        return StreamingFrontEnd(self.compute_features, self.normalize, self.CNN).eval()

    def get_recommended_final_chunk_count(self, frames_per_chunk: int) -> int:
        """The number of pieces of silence, of ``frames_per_chunk`` samples each, after which a stream has encoded all
        of its audio: they fill the windows of the last frames, and the last chunk."""
        stride = self.properties.stride
        chunk = frames_per_chunk / max(1, stride - 1) * stride  # SpeechBrain's pieces are a bit shorter than chunks
        return math.ceil((self.properties.window_size / 2 + chunk) / frames_per_chunk)

    def forward(self, chunk: Tensor, context: StreamingFrontEnd, lengths: Tensor | None = None) -> Tensor:
        """Take the next piece.

        Arguments
        ---------
        chunk : Tensor
            Audio (batch, samples), any number of samples.
        context : StreamingFrontEnd
            The stream so far, which is updated.
        lengths : Tensor, optional
            Lengths relative to the piece, floats (batch,): an example that ends within it is silent from there.

        Returns
        -------
        Tensor
            The frames that no later sample can change (batch, frames, ...); there may be none.
        """
        if lengths is not None:
            chunk = mask_frames(chunk, absolute_lengths(lengths, chunk.shape[1], chunk.device))
        return context(chunk)


@dataclass
class StreamingEncoderContext:
    """What a :class:`StreamingEncoder` keeps between the pieces of a stream."""

    encoder: Any
    """Context of the encoder."""

    chunk_size: int
    """Frames that are encoded together."""

    waiting: list[Tensor] = field(default_factory=list)
    """Frames that do not fill a chunk yet."""


class StreamingEncoder(nn.Module):
    """An encoder for frames that come in any number: it waits for whole chunks.

    Arguments
    ---------
    encoder : torch.nn.Module
        SpeechBrain's ``EncoderWrapper`` around a recognizer.
    d_model : int
        Its channels.
    """

    def __init__(self, encoder: Any, d_model: int) -> None:
        super().__init__()
        self.encoder, self.d_model = encoder, d_model

    def make_streaming_context(self, dynchunktrain_config: DynChunkTrainConfig) -> StreamingEncoderContext:
        """Start a stream with some frames per chunk, which a causal encoder needs not wait for."""
        context = self.encoder.make_streaming_context(dynchunktrain_config)
        return StreamingEncoderContext(context, self.chunk_size(dynchunktrain_config))

    def chunk_size(self, dynchunktrain_config: DynChunkTrainConfig) -> int:
        """The frames that are encoded together."""
        return 1 if self.encoder.transformer.causal else dynchunktrain_config.chunk_size

    def forward_streaming(self, x: Tensor, context: StreamingEncoderContext) -> Tensor:
        """Take the next frames (batch, frames, ...), and return what can be encoded (batch, frames, d_model), given the
        stream so far, which is updated."""
        x = torch.cat([*context.waiting, x], 1)
        ready = x.shape[1] // context.chunk_size * context.chunk_size
        context.waiting = [x[:, ready:]]
        return self._encode(x[:, :ready], context)

    def finish(self, x: Tensor, context: StreamingEncoderContext) -> Tensor:
        """Encode the last frames (batch, frames, ...) of a stream, whether or not they fill a chunk."""
        x = torch.cat([*context.waiting, x], 1)
        context.waiting = []
        return self._encode(x, context)

    def _encode(self, x: Tensor, context: StreamingEncoderContext) -> Tensor:
        if not x.shape[1]:
            return x.new_zeros(len(x), 0, self.d_model)
        return self.encoder.forward_streaming(x, context.encoder)
