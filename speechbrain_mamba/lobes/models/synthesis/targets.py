"""Training targets of codec language models, and what their inputs need: noise and prompts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.lobes.models.synthesis.packing import Packing, split_at
from speechbrain_mamba.ops import valid_frames

IGNORED = -1
"""The target of frames that do not count."""


def mark_padding(tokens: Padded) -> Tensor:
    """Replace the padding of tokens (batch, frames) by ``IGNORED``."""
    return tokens.values.masked_fill(~valid_frames(tokens.lengths, tokens.values.shape[1]), IGNORED)


def end_at(tokens: Padded, end: int) -> Tensor:
    """Put the token ``end`` after tokens (batch, frames); returns (batch, frames + 1), ``IGNORED`` past the end.

    Example
    -------
    >>> end_at(Padded.collate([[3, 4], [6]]), 9)
    tensor([[ 3,  4,  9],
            [ 6,  9, -1]])
    """
    values = F.pad(tokens.values, (0, 1)).scatter(1, tokens.lengths[:, None], end)
    return mark_padding(Padded(values, tokens.lengths + 1))


def replace_some(tokens: Tensor, share: float, size: int) -> Tensor:
    """Replace a fraction of some tokens, drawn one by one, by random ones below ``size``.

    A model that cannot trust the tokens before the next one relies on the text.
    """
    chosen = torch.rand(tokens.shape, device=tokens.device) < share
    return torch.where(chosen, torch.randint_like(tokens, size), tokens)


def take_prompts(prompt: Utterances, speech: Utterances, share: Tensor, most: int) -> tuple[Utterances, Utterances]:
    """Make the beginning of an utterance its prompt if it has none: a ``share`` of its frames, floats (batch,), but one
    to ``most``. Returns the prompts and the speech after them; the phonemes are not split.

    Example
    -------
    >>> speech = Utterances(Padded.collate([[1]]), Padded.collate([[4, 5, 6, 7]]))
    >>> prompt, rest = take_prompts(speech.emptied(), speech, torch.tensor([0.5]), most=9)
    >>> prompt.codes.values, rest.codes.values
    (tensor([[4, 5]]), tensor([[6, 7]]))
    """
    frames = (speech.codes.lengths * share).long().clamp(1, most).masked_fill(prompt.codes.lengths > 0, 0)
    beginning, rest = split_at(speech.codes, frames)
    codes = Packing([prompt.codes, beginning]).whole  # one of both is empty
    return Utterances(prompt.phonemes, codes), Utterances(speech.phonemes, rest)
