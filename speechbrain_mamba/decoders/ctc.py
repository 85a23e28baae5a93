"""Greedy CTC search of whole utterances, and of streams that come in pieces."""

from __future__ import annotations

from dataclasses import dataclass, field

from speechbrain.decoders.ctc import ctc_greedy_decode
from torch import Tensor


@dataclass
class GreedyContext:
    """What a greedy search keeps between the pieces of a stream: the token of the last frame of each example."""

    last: list[int] = field(default_factory=list)


def decode_greedily(log_probs: Tensor, lengths: Tensor | GreedyContext, blank_id: int = 0) -> list[list[int]]:
    """Take the likeliest token of each frame, repeated ones once, without blanks.

    SpeechBrain's ``EncoderASR`` and ``StreamingASR`` both call the entry ``decoding_function`` of a model, one with
    lengths and one with a context. This function serves both, so that one folder loads in either.

    Arguments
    ---------
    log_probs : Tensor
        Log-probabilities or logits of the tokens (batch, frames, tokens).
    lengths : Tensor or GreedyContext
        For whole utterances their lengths relative to the longest, floats (batch,). For the next piece of streams the
        context, which is updated: a token that lasts from one piece into the next is found once.
    blank_id : int
        The token that is the blank.

    Returns
    -------
    list of list of int
        The tokens of each example; of a stream those that are new.

    Example
    -------
    >>> import torch
    >>> one_hot = torch.eye(3)[torch.tensor([[1, 1, 0, 1, 2, 2]])]
    >>> decode_greedily(one_hot, torch.ones(1))
    [[1, 1, 2]]
    >>> context = GreedyContext()
    >>> [decode_greedily(piece, context) for piece in one_hot.split(2, 1)]
    [[[1]], [[1]], [[2]]]
    """
    if isinstance(lengths, Tensor):
        return ctc_greedy_decode(log_probs, lengths, blank_id)
    context, found = lengths, []
    if not context.last:
        context.last = [blank_id] * len(log_probs)
    for example, frames in enumerate(log_probs.argmax(-1).tolist()):
        tokens, last = [], context.last[example]
        for token in frames:
            if token not in (blank_id, last):
                tokens.append(token)
            last = token
        context.last[example] = last
        found.append(tokens)
    return found
