"""From phonemes and prompts of any lengths to waveforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Speech(NamedTuple):
    """What was said."""

    wavs: Tensor
    """Waveforms (batch, samples), zero past each length."""

    lengths: Tensor
    """Valid samples, integers (batch,)."""

    finished: Tensor
    """Whether each example came to its end before the frames ran out, booleans (batch,)."""


@torch.no_grad()
def speak(
    model,
    codec,
    phonemes: Sequence[Sequence[int]],
    prompt_phonemes: Sequence[int],
    prompts: Sequence[Tensor],
    max_frames: int,
    sampler=None,
) -> Speech:
    """Say some texts, each in the voice of its prompt.

    Arguments
    ---------
    model : VallE
        The language models, in evaluation mode.
    codec : torch.nn.Module
        The codec of the tokens.
    phonemes : sequence of sequence of int
        Phonemes of each prompt and of what comes after it.
    prompt_phonemes : sequence of int
        How many of them are the prompt's.
    prompts : sequence of Tensor
        Tokens of each prompt (frames, codebooks).
    max_frames, sampler
        As of :meth:`~speechbrain_mamba.lobes.models.synthesis.VallE.generate`.

    Returns
    -------
    Speech
        What comes after the prompts.

    Raises
    ------
    ValueError
        As :meth:`~speechbrain_mamba.lobes.models.synthesis.VallE.generate`, and when model and codec do not fit.
    """
    check_codec(model, codec)
    device = next(model.parameters()).device
    texts = [torch.tensor(text, dtype=torch.long) for text in phonemes]
    text_lengths, prompt_lengths = (
        torch.tensor([len(example) for example in examples], device=device) for examples in (texts, prompts)
    )
    padded_texts, padded_prompts = (
        pad_sequence(list(examples), batch_first=True).to(device) for examples in (texts, prompts)
    )
    said = torch.tensor(prompt_phonemes, device=device)
    codes, lengths, finished = model.generate(
        padded_texts, text_lengths, padded_prompts, prompt_lengths, max_frames, sampler, said
    )
    return Speech(*codec.decode(codes, lengths), finished)


def check_codec(model, codec) -> None:
    """Raise a ValueError unless a codec has the codebooks that a model has."""
    wanted = {"n_codebooks": model.n_codebooks, "codebook_size": model.ar.codebook_size}
    for name, value in wanted.items():
        if getattr(codec, name) != value:
            raise ValueError(
                f"The model is for a codec with a {name} of {value}, but the codec given has {getattr(codec, name)}: "
                "use the codec that the model was trained with."
            )
