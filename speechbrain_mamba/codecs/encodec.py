"""EnCodec (Défossez et al., arXiv 2210.13438) from the package ``encodec``: pretrained, or of any size to train."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.ops import mask_frames
from speechbrain_mamba.utils._compat import encodec_24khz, make_encodec, quantize, quantize_to_codes

if TYPE_CHECKING:
    from encodec import EncodecModel

_SHORT = 8
"""Utterances of fewer frames are processed one by one: the codec's first frames mirror the next six, which in a batch
may be padding."""


class EnCodec(nn.Module):
    """A causal codec of the EnCodec architecture, over padded batches.

    Arguments
    ---------
    sample_rate : int
        Samples per second.
    ratios : sequence of int
        Strides of the decoder; their product is the samples per frame.
    n_codebooks : int
        Codebooks, each of which quantizes the residual of the ones before it.
    codebook_size : int
        Entries of a codebook.
    dimension : int
        Channels of the quantized frames.
    n_filters : int
        Channels of the first and last convolution; they double with each stride.
    lstm : int
        LSTM layers on both sides of the quantizer.

    Attributes
    ----------
    hop_length : int
        Samples per frame.
    frame_rate : float
        Frames per second.

    Raises
    ------
    ModuleNotFoundError
        When the package encodec is not installed.

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
        sample_rate: int = 24000,
        ratios: Sequence[int] = (8, 5, 4, 2),
        n_codebooks: int = 8,
        codebook_size: int = 1024,
        dimension: int = 128,
        n_filters: int = 32,
        lstm: int = 2,
    ) -> None:
        super().__init__()
        sizes = {"dimension": dimension, "n_filters": n_filters, "ratios": list(ratios), "lstm": lstm, "causal": True}
        self._adopt(*make_encodec(sizes, n_codebooks, codebook_size), sample_rate, n_codebooks)
        # torch initializes convolutions so that a third of the variance is left: after twenty of them the signal would
        # be gone, and the codec would learn to be silent
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("weight_g"):
                    parameter.mul_(math.sqrt(3))

    def _adopt(self, encoder: Any, decoder: Any, quantizer: Any, sample_rate: int, n_codebooks: int) -> None:
        self.encoder, self.decoder, self.quantizer = encoder, decoder, quantizer
        self.sample_rate, self.n_codebooks = sample_rate, n_codebooks
        self.codebook_size: int = quantizer.bins
        self.hop_length: int = math.prod(encoder.ratios)
        self.frame_rate = sample_rate / self.hop_length

    @classmethod
    def from_encodec(cls, model: EncodecModel, n_codebooks: int | None = None) -> EnCodec:
        """Wrap a model of the package, for evaluation.

        Arguments
        ---------
        model : encodec.EncodecModel
            A mono model, causal and without normalization, like the one for 24 kHz.
        n_codebooks : int, optional
            Codebooks to use; all by default.

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

    def count_frames(self, samples: Tensor) -> Tensor:
        """Count the frames of some numbers of samples, integers (batch,)."""
        return -(-samples // self.hop_length)

    def forward(self, wavs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, quantize and decode, with gradients, for training: waveforms and lengths as in :meth:`encode`.

        Returns
        -------
        reconstruction : Tensor
            Waveforms (batch, frames * hop_length).
        commitment : Tensor
            The quantizer's loss.
        codes : Tensor
            Tokens, integers (batch, frames, codebooks).
        """
        whole, _ = self._pad_to_frames(wavs, lengths)
        latents = self.encoder(whole[:, None])
        with torch.autocast(latents.device.type, enabled=False):  # codebooks follow sums over many frames
            quantized, codes, commitment = quantize(self.quantizer, latents.float(), self.n_codebooks)
        return self.decoder(quantized)[:, 0, : whole.shape[1]], commitment.mean(), codes

    def _pad_to_frames(self, wavs: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Waveforms, zero past their lengths, and zero-padded to whole frames; and how many valid frames they have."""
        if wavs.dim() != 2 or wavs.shape[1] == 0:
            raise ValueError(f"The codec was given waveforms of shape {tuple(wavs.shape)}, but takes (batch, samples).")
        if lengths is None:
            lengths = torch.full((wavs.shape[0],), wavs.shape[1], device=wavs.device)
        whole = nn.functional.pad(mask_frames(wavs, lengths), (0, -wavs.shape[1] % self.hop_length))
        return whole, self.count_frames(lengths)

    @torch.no_grad()
    def encode(self, wavs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn waveforms (batch, samples) at ``sample_rate`` into tokens. ``lengths``, integers (batch,), are samples.

        Returns
        -------
        codes : Tensor
            Tokens, integers (batch, frames, codebooks), zero past each length. Each waveform gets the tokens that it
            gets on its own.
        code_lengths : Tensor
            Valid frames, integers (batch,).

        Raises
        ------
        ValueError
            For anything but (batch, samples) with at least one sample.
        """
        whole, frames = self._pad_to_frames(wavs, lengths)

        def encode(wavs: Tensor) -> Tensor:
            codes = quantize_to_codes(self.quantizer, self.encoder(wavs[:, None]), self.n_codebooks)
            # masking a permuted view compares strides, by which an exported program would not take a single example
            return codes.contiguous()

        return mask_frames(_apply_by_length(encode, whole, frames, self.hop_length, 1), frames), frames

    @torch.no_grad()
    def decode(self, codes: Tensor, code_lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn tokens (batch, frames, codebooks) into waveforms. They have as many codebooks as the codec, or fewer;
        ``code_lengths``, integers (batch,), are frames.

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
        if not torch.compiler.is_exporting():
            self._check_tokens(codes)
        if code_lengths is None:
            code_lengths = torch.full((codes.shape[0],), codes.shape[1], device=codes.device)

        def decode(codes: Tensor) -> Tensor:
            return self.decoder(self.quantizer.decode(codes.permute(2, 0, 1)))[:, 0]

        wavs = _apply_by_length(decode, codes, code_lengths, 1, self.hop_length)
        lengths = code_lengths * self.hop_length
        return mask_frames(wavs, lengths), lengths

    def _check_tokens(self, codes: Tensor) -> None:
        least, most = int(codes.min()), int(codes.max())
        if least < 0 or most >= self.codebook_size:
            raise ValueError(
                f"Tokens run from {least} to {most}, but the codec has those from 0 to {self.codebook_size - 1}: they "
                "are of another codec."
            )


def _apply_by_length(
    function: Callable[[Tensor], Tensor], x: Tensor, frames: Tensor, input_hop: int, output_hop: int
) -> Tensor:
    """Apply a causal function of whole frames to a padded batch, and to very short examples of it one by one."""
    y = function(x)
    if torch.compiler.is_exporting():  # a program knows no lengths, and is given short examples one by one
        return y
    short = ((frames < _SHORT) & (frames > 0)).nonzero().flatten().tolist()
    for example in short if x.shape[1] > input_hop else ():
        count = int(frames[example])
        y[example, : count * output_hop] = function(x[example : example + 1, : count * input_hop])[0]
    return y


def pretrained_encodec(n_codebooks: int | None = 8, repository: str | os.PathLike | None = None) -> EnCodec:
    """Load EnCodec for 24 kHz with the published weights: 75 frames per second, 8 codebooks of 1024 are 6 kbit/s.

    Arguments
    ---------
    n_codebooks : int, optional
        Codebooks to use; all 32 if None.
    repository : Path, optional
        A folder with the file of the weights, which the package encodec downloads by default.

    Raises
    ------
    FileNotFoundError, ValueError
        When the weights are not available, and for more codebooks than there are.
    """
    try:
        model = encodec_24khz(repository)
    except (OSError, ValueError, RuntimeError) as error:
        place = f"in '{repository}'" if repository else "at the address that the package encodec names"
        raise FileNotFoundError(
            f"The weights of EnCodec for 24 kHz are not available {place}: {error}. Give a folder that has "
            "encodec_24khz-d7cc33bc.th, or train a codec with recipes/codec/train.py."
        ) from error
    return EnCodec.from_encodec(model, n_codebooks)


def codec_settings(codec: EnCodec) -> dict[str, Any]:
    """The arguments that make a codec of the same size, with all its codebooks, in use or not."""
    return {
        "sample_rate": codec.sample_rate,
        "ratios": list(codec.decoder.ratios),
        "n_codebooks": codec.quantizer.n_q,
        "codebook_size": codec.codebook_size,
        "dimension": codec.encoder.dimension,
        "n_filters": codec.encoder.n_filters,
        "lstm": sum(m.num_layers for m in codec.encoder.modules() if isinstance(m, nn.LSTM)),
    }
