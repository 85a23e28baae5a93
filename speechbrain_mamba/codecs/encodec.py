"""EnCodec (Défossez et al., arXiv 2210.13438) from the package ``encodec``: pretrained, or of any size to train."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechbrain_mamba.ops import mask_frames, valid_frames

try:
    from encodec import EncodecModel
    from encodec.modules import SEANetDecoder, SEANetEncoder
    from encodec.quantization import ResidualVectorQuantizer
except ImportError as error:
    raise ImportError(
        'EnCodec is needed here, but the package encodec is not installed: run pip install "speechbrain_mamba[tts]".'
    ) from error

_SHORT = 8
"""Frames below which an utterance is dealt with by itself: the codec's first frames mirror the next six, which in a
batch may be padding."""


class EnCodec(nn.Module):
    """A causal codec of the EnCodec architecture, over padded batches.

    Arguments
    ---------
    sample_rate : int
        Samples per second.
    ratios : sequence of int
        Strides of the decoder; their product is the samples per frame.
    n_codebooks : int
        Codebooks, each of which quantises what the ones before it left.
    codebook_size : int
        Entries of a codebook.
    dimension : int
        Channels of what is quantised.
    n_filters : int
        Channels of the first and last convolution; they double with each stride.
    lstm : int
        LSTM layers beside the quantiser.

    Attributes
    ----------
    hop_length : int
        Samples per frame.
    frame_rate : float
        Frames per second.

    Example
    -------
    >>> codec = EnCodec(sample_rate=8000, ratios=(5, 4, 4), n_codebooks=3, codebook_size=16, dimension=8, n_filters=2)
    >>> codes, code_lengths = codec.eval().encode(torch.randn(2, 4000), torch.tensor([4000, 2050]))
    >>> codes.shape, code_lengths
    (torch.Size([2, 50, 3]), tensor([50, 26]))
    >>> wavs, wav_lengths = codec.decode(codes, code_lengths)
    >>> wavs.shape, wav_lengths
    (torch.Size([2, 4000]), tensor([4000, 2080]))
    """

    def __init__(
        self,
        sample_rate=24000,
        ratios=(8, 5, 4, 2),
        n_codebooks=8,
        codebook_size=1024,
        dimension=128,
        n_filters=32,
        lstm=2,
    ):
        super().__init__()
        sizes = {"dimension": dimension, "n_filters": n_filters, "ratios": list(ratios), "lstm": lstm, "causal": True}
        quantizer = ResidualVectorQuantizer(dimension, n_codebooks, codebook_size)
        self._adopt(SEANetEncoder(**sizes), SEANetDecoder(**sizes), quantizer, sample_rate, n_codebooks)
        # torch's initial convolutions leave a third of the variance: after twenty of them nothing would be heard any
        # more, and the codec would learn to be silent
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("weight_g"):
                    parameter.mul_(math.sqrt(3))

    def _adopt(self, encoder, decoder, quantizer, sample_rate: int, n_codebooks: int) -> None:
        self.encoder, self.decoder, self.quantizer = encoder, decoder, quantizer
        self.sample_rate, self.n_codebooks, self.codebook_size = sample_rate, n_codebooks, quantizer.bins
        self.hop_length = math.prod(encoder.ratios)
        self.frame_rate = sample_rate / self.hop_length

    @classmethod
    def from_encodec(cls, model: EncodecModel, n_codebooks: int | None = None):
        """Wrap a mono model of the package, and use so many of its codebooks.

        Arguments
        ---------
        model : encodec.EncodecModel
            The model, causal and without normalisation, as the one for 24 kHz is.
        n_codebooks : int, optional
            Codebooks to use; all by default.

        Returns
        -------
        EnCodec
            The codec, in evaluation mode.

        Raises
        ------
        ValueError
            For a model of another kind, or more codebooks than it has.
        """
        if model.channels != 1 or model.normalize or model.segment is not None:
            raise ValueError(f"The model '{model.name}' is for stereo or segments: take EnCodec's for 24 kHz.")
        available = model.quantizer.n_q
        if n_codebooks is not None and not 1 <= n_codebooks <= available:
            raise ValueError(f"n_codebooks is {n_codebooks}, but the model '{model.name}' has 1 to {available}.")
        codec = cls.__new__(cls)
        nn.Module.__init__(codec)
        codec._adopt(model.encoder, model.decoder, model.quantizer, model.sample_rate, n_codebooks or available)
        return codec.eval()

    def frames(self, samples):
        """How many frames so many samples make, an int or integers (batch,)."""
        return -(-samples // self.hop_length)

    def forward(self, wavs, lengths=None):
        """Encode, quantise and decode, with gradients, for training.

        Arguments
        ---------
        wavs : Tensor
            Waveforms (batch, samples).
        lengths : Tensor, optional
            Valid samples, integers (batch,).

        Returns
        -------
        reconstruction : Tensor
            Waveforms (batch, samples).
        commitment : Tensor
            The quantiser's loss.
        codes : Tensor
            Tokens, integers (batch, frames, codebooks).
        """
        wavs, _ = self._whole_frames(wavs, lengths)
        latents = self.encoder(wavs[:, None])
        with torch.autocast(latents.device.type, enabled=False):  # codebooks follow sums over many frames
            quantized, codes, commitment = self.quantizer.vq(latents.float(), n_q=self.n_codebooks)
        return self.decoder(quantized)[:, 0, : wavs.shape[1]], commitment.mean(), codes.permute(1, 2, 0)

    def _whole_frames(self, wavs: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Waveforms, zero past their lengths, and zero-padded to whole frames; and how many valid frames they have."""
        if wavs.dim() != 2 or wavs.shape[1] == 0:
            raise ValueError(f"The codec was given waveforms of shape {tuple(wavs.shape)}, but takes (batch, samples).")
        if lengths is None:
            lengths = torch.full((wavs.shape[0],), wavs.shape[1], device=wavs.device)
        wavs = mask_frames(wavs, lengths)
        return nn.functional.pad(wavs, (0, -wavs.shape[1] % self.hop_length)), self.frames(lengths)

    @torch.no_grad()
    def encode(self, wavs, lengths=None):
        """Turn waveforms into tokens.

        Arguments
        ---------
        wavs : Tensor
            Waveforms (batch, samples) at ``sample_rate``.
        lengths : Tensor, optional
            Valid samples, integers (batch,).

        Returns
        -------
        codes : Tensor
            Tokens, integers (batch, frames, codebooks), zero past each length: of valid frames those that each waveform
            gets alone.
        code_lengths : Tensor
            Valid frames, integers (batch,).

        Raises
        ------
        ValueError
            For anything but (batch, samples) with at least one sample.
        """
        wavs, frames = self._whole_frames(wavs, lengths)

        def encode(wavs: Tensor) -> Tensor:
            return self.quantizer.vq.encode(self.encoder(wavs[:, None]), n_q=self.n_codebooks).permute(1, 2, 0)

        codes = _by_length(encode, wavs, frames, self.hop_length, 1)
        return codes.masked_fill(~valid_frames(frames, codes.shape[1])[..., None], 0), frames

    @torch.no_grad()
    def decode(self, codes, code_lengths=None):
        """Turn tokens into waveforms.

        Arguments
        ---------
        codes : Tensor
            Tokens, integers (batch, frames, codebooks); fewer codebooks than the codec has will do.
        code_lengths : Tensor, optional
            Valid frames, integers (batch,).

        Returns
        -------
        wavs : Tensor
            Waveforms (batch, frames * hop_length), zero past each length.
        wav_lengths : Tensor
            Valid samples, integers (batch,).

        Raises
        ------
        ValueError
            For tokens of another codec.
        """
        if codes.dim() != 3 or not 1 <= codes.shape[2] <= self.n_codebooks or codes.shape[1] == 0:
            raise ValueError(
                f"Tokens have shape {tuple(codes.shape)}, but must be (batch, frames, at most {self.n_codebooks}): "
                "they are of another codec."
            )
        if int(codes.max()) >= self.codebook_size or int(codes.min()) < 0:
            raise ValueError(
                f"Tokens run from {int(codes.min())} to {int(codes.max())}, but the codec has those from 0 to "
                f"{self.codebook_size - 1}: they are of another codec."
            )
        if code_lengths is None:
            code_lengths = torch.full((codes.shape[0],), codes.shape[1], device=codes.device)

        def decode(codes: Tensor) -> Tensor:
            return self.decoder(self.quantizer.decode(codes.permute(2, 0, 1)))[:, 0]

        wavs = _by_length(decode, codes, code_lengths, 1, self.hop_length)
        lengths = code_lengths * self.hop_length
        return mask_frames(wavs, lengths), lengths


def _by_length(function, x: Tensor, frames: Tensor, input_hop: int, output_hop: int) -> Tensor:
    """Apply a causal function of whole frames to a padded batch, and to very short examples of it one by one."""
    y = function(x)
    short = ((frames < _SHORT) & (frames > 0)).nonzero().flatten().tolist()
    for example in short if x.shape[1] > input_hop else ():
        count = int(frames[example])
        y[example, : count * output_hop] = function(x[example : example + 1, : count * input_hop])[0]
    return y


def pretrained_encodec(n_codebooks: int | None = 8, repository=None) -> EnCodec:
    """EnCodec for 24 kHz with the published weights: 75 frames per second, 8 codebooks of 1024 are 6 kbit/s.

    Arguments
    ---------
    n_codebooks : int, optional
        Codebooks to use, at most 32.
    repository : Path, optional
        A folder with the weights, under the package's name for them; downloaded from where the package says otherwise.

    Returns
    -------
    EnCodec
        The codec, in evaluation mode.

    Raises
    ------
    FileNotFoundError
        When the weights cannot be had.
    ValueError
        For more codebooks than there are.
    """
    try:
        model = EncodecModel.encodec_model_24khz(repository=repository)
    except (OSError, ValueError, RuntimeError) as error:
        place = f"in '{repository}'" if repository else "from the address that the package encodec has"
        raise FileNotFoundError(
            f"The weights of EnCodec for 24 kHz cannot be had {place}: {error}. Give a folder that has "
            "encodec_24khz-d7cc33bc.th, or train a codec with recipes/codec/train.py."
        ) from error
    return EnCodec.from_encodec(model, n_codebooks)


def codec_settings(codec: EnCodec) -> dict[str, int | Sequence[int]]:
    """The arguments that make a codec of the same size, with the codebooks that are not in use, too."""
    return {
        "sample_rate": codec.sample_rate,
        "ratios": list(codec.decoder.ratios),
        "n_codebooks": codec.quantizer.n_q,
        "codebook_size": codec.codebook_size,
        "dimension": codec.encoder.dimension,
        "n_filters": codec.encoder.n_filters,
        "lstm": sum(m.num_layers for m in codec.encoder.modules() if isinstance(m, nn.LSTM)),
    }
