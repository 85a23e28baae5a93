"""A recogniser with CTC from waveforms to log-probabilities, as SpeechBrain's ``EncoderASR`` takes it."""

from __future__ import annotations

from torch import Tensor, nn

from speechbrain_mamba.lobes.models.recognition.speech_features import compute_padded_features
from speechbrain_mamba.ops import absolute_lengths, valid_frames


class CTCEncoder(nn.Module):
    """Features, their normalisation, front end, encoder and output layer in one module.

    Arguments
    ---------
    compute_features : torch.nn.Module
        SpeechBrain's ``Fbank``.
    normalize : torch.nn.Module
        SpeechBrain's ``InputNormalization``, trained.
    CNN : torch.nn.Module
        A :class:`~speechbrain_mamba.lobes.models.recognition.convolution.ConvolutionFrontEnd`.
    encoder : torch.nn.Module
        SpeechBrain's ``EncoderWrapper`` of a recogniser.
    ctc_lin : torch.nn.Module
        From the encoder's channels to tokens.
    blank_index : int
        The token that stands for none.
    chunk_config : DynChunkTrainConfig, optional
        The chunks that an encoder hears one by one; it hears all at once by default.
    """

    def __init__(self, compute_features, normalize, CNN, encoder, ctc_lin, blank_index=0, chunk_config=None):
        super().__init__()
        self.compute_features, self.normalize, self.CNN = compute_features, normalize, CNN
        self.encoder, self.ctc_lin = encoder, ctc_lin
        self.blank_index, self.chunk_config = blank_index, chunk_config

    def forward(self, wavs: Tensor, wav_lens: Tensor) -> Tensor:
        """Log-probabilities (batch, frames, tokens) of waveforms (batch, samples) with relative lengths (batch,); past
        the length of each the blank is certain."""
        feats, feat_lens = compute_padded_features(self.compute_features, wavs, wav_lens)
        feats = self.normalize(feats, feat_lens)
        src, lens = self.CNN(feats, feat_lens), self.CNN.output_lens(feat_lens, feats.shape[1])
        encoded = self.encoder(src, lens, dynchunktrain_config=self.chunk_config)
        log_probs = self.ctc_lin(encoded).float().log_softmax(-1)
        padding = ~valid_frames(absolute_lengths(lens, log_probs.shape[1]), log_probs.shape[1])
        blank = log_probs.new_full((log_probs.shape[2],), float("-inf"))
        blank[self.blank_index] = 0
        return log_probs.where(~padding[..., None], blank)
