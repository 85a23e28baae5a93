"""The encoder of a recognizer with a decoder, from waveforms, in the form that ``EncoderDecoderASR`` takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd
from speechbrain_mamba.lobes.models.recognition.speech_features import encoder_input
from speechbrain_mamba.ops import absolute_lengths, mask_frames


class Seq2SeqEncoder(nn.Module):
    """Features, their normalization, front end and encoder in one module.

    Arguments
    ---------
    compute_features, normalize : torch.nn.Module
        SpeechBrain's ``Fbank``, and its ``InputNormalization``, trained.
    CNN : ConvolutionFrontEnd
        The convolutional front end.
    transformer : TransformerASR
        The recognizer, whose encoder runs.
    """

    def __init__(
        self, compute_features: nn.Module, normalize: nn.Module, CNN: ConvolutionFrontEnd, transformer: Any
    ) -> None:
        super().__init__()
        self.compute_features, self.normalize, self.CNN = compute_features, normalize, CNN
        self.transformer = transformer

    def encode(self, wavs: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode waveforms.

        Arguments
        ---------
        wavs, wav_lens : Tensor
            Waveforms (batch, samples), and their lengths relative to the longest, floats (batch,) in [0, 1].

        Returns
        -------
        memory, lens : Tensor
            Output of the encoder (batch, frames, channels), zero past each length; and the lengths relative to the
            longest, floats (batch,). These differ from ``wav_lens`` in the last digits, since frames are whole.
        """
        src, lens = encoder_input(self.compute_features, self.normalize, self.CNN, wavs, wav_lens)
        memory = self.transformer.encode(src, lens)
        return mask_frames(memory, absolute_lengths(lens, memory.shape[1], memory.device)), lens

    def forward(self, wavs: Tensor, wav_lens: Tensor) -> Tensor:
        """The output of :meth:`encode` alone."""
        return self.encode(wavs, wav_lens)[0]
