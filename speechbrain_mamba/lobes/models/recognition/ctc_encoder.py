"""A CTC recognizer from waveforms to log-probabilities, in the form that SpeechBrain's ``EncoderASR`` takes."""

from __future__ import annotations

from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd
from speechbrain_mamba.lobes.models.recognition.speech_features import encoder_input
from speechbrain_mamba.ops import absolute_lengths, valid_frames


class CTCEncoder(nn.Module):
    """Features, their normalization, front end, encoder and output layer in one module.

    Arguments
    ---------
    compute_features, normalize : torch.nn.Module
        SpeechBrain's ``Fbank``, and its ``InputNormalization``, trained.
    CNN : ConvolutionFrontEnd
        The convolutional front end.
    encoder : torch.nn.Module
        SpeechBrain's ``EncoderWrapper`` around a recognizer.
    ctc_lin : torch.nn.Module
        From the encoder's channels to tokens.
    blank_index : int
        The token that stands for silence.
    chunk_config : DynChunkTrainConfig, optional
        Chunks of a streaming encoder; by default it sees whole utterances.
    """

    def __init__(
        self,
        compute_features: nn.Module,
        normalize: nn.Module,
        CNN: ConvolutionFrontEnd,
        encoder: nn.Module,
        ctc_lin: nn.Module,
        blank_index: int = 0,
        chunk_config: DynChunkTrainConfig | None = None,
    ) -> None:
        super().__init__()
        self.compute_features, self.normalize, self.CNN = compute_features, normalize, CNN
        self.encoder, self.ctc_lin = encoder, ctc_lin
        self.blank_index, self.chunk_config = blank_index, chunk_config

    def encode(self, wavs: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """From waveforms (batch, samples), and their lengths relative to the longest, floats (batch,) in [0, 1], to
        log-probabilities (batch, frames, tokens) and their relative lengths, floats (batch,). Past each length the
        blank has probability 1."""
        src, lens = encoder_input(self.compute_features, self.normalize, self.CNN, wavs, wav_lens)
        encoded = self.encoder(src, lens, dynchunktrain_config=self.chunk_config)
        log_probs = self.ctc_lin(encoded).float().log_softmax(-1)
        padding = ~valid_frames(absolute_lengths(lens, log_probs.shape[1]), log_probs.shape[1])
        blank = log_probs.new_full((log_probs.shape[2],), float("-inf"))
        blank[self.blank_index] = 0
        return log_probs.where(~padding[..., None], blank), lens

    def forward(self, wavs: Tensor, wav_lens: Tensor) -> Tensor:
        """The log-probabilities of :meth:`encode` alone."""
        return self.encode(wavs, wav_lens)[0]
