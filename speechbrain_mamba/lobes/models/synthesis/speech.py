"""From phonemes and prompts to waveforms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from speechbrain_mamba.dataio.codec_tokens import Codec
from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.lobes.models.synthesis.system import Sampler, VallE
from speechbrain_mamba.ops import mask_frames


class Speech(NamedTuple):
    """Synthesized speech."""

    wavs: Tensor
    """Waveforms (batch, samples), zero past each length; NaN up to it where a model predicted something that is not
    finite."""

    lengths: Tensor
    """Valid samples, integers (batch,)."""

    finished: Tensor
    """Whether each example came to its end before the frames ran out, booleans (batch,)."""


class SpokenCodes(NamedTuple):
    """Synthesized speech with the tokens that it was made of."""

    speech: Speech
    """The waveforms."""

    codes: Tensor
    """Tokens, integers (batch, frames, codebooks), zero past each length."""

    lengths: Tensor
    """Valid frames, integers (batch,)."""


@torch.no_grad()
def speak(
    model: VallE, codec: Codec, prompt: Utterances, phonemes: Padded, max_frames: int, sampler: Sampler | None = None
) -> Speech:
    """Say some texts, each in the voice of its prompt, by language models in evaluation mode and their codec.

    Prompts, phonemes and the further arguments, and the errors, are those of
    :meth:`~speechbrain_mamba.lobes.models.synthesis.VallE.generate`, on any device. Raises a ValueError too when model
    and codec do not fit.
    """
    return speak_codes(model, codec, prompt, phonemes, max_frames, sampler).speech


@torch.no_grad()
def speak_codes(
    model: VallE, codec: Codec, prompt: Utterances, phonemes: Padded, max_frames: int, sampler: Sampler | None = None
) -> SpokenCodes:
    """Do what :func:`speak` does; returns the tokens too."""
    check_codec(model, codec)
    device = next(model.parameters()).device
    generated = model.generate(prompt.to(device), phonemes.to(device), max_frames, sampler)
    wavs, lengths = codec.decode(generated.codes, generated.lengths)
    wavs = mask_frames(wavs.masked_fill(generated.broken[:, None], torch.nan), lengths)
    return SpokenCodes(Speech(wavs, lengths, generated.finished), generated.codes, generated.lengths)


def check_codec(model: VallE, codec: Codec) -> None:
    """Raise a ValueError unless a codec has the codebooks that a model has."""
    wanted = {"n_codebooks": model.n_codebooks, "codebook_size": model.ar.codebook_size}
    for name, value in wanted.items():
        if getattr(codec, name) != value:
            raise ValueError(
                f"The model is for a codec with a {name} of {value}, but the codec given has {getattr(codec, name)}: "
                "use the codec that the model was trained with."
            )
