"""The text of tokens that come in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sentencepiece import SentencePieceProcessor

from speechbrain_mamba.text.tokenizer import spell


@dataclass
class SpellingContext:
    """What :func:`spell_next` keeps between the pieces of a stream."""

    last: int | None = None
    """The last token that has a text."""


def spell_next(tokenizer: SentencePieceProcessor, tokens: Sequence[int], context: SpellingContext) -> str:
    """Spell the next tokens of a stream. All texts together are that of all tokens.

    SentencePiece drops the space before the first token. SpeechBrain's function for streams keeps it from the second
    piece on, as this one does, but does not run with SentencePiece 0.2.1 and later.

    Arguments
    ---------
    tokenizer : sentencepiece.SentencePieceProcessor
        The tokenizer.
    tokens : sequence of int
        The new tokens.
    context : SpellingContext
        The stream so far, which is updated.

    Example
    -------
    >>> from speechbrain_mamba.text.tokenizer import train_sentencepiece
    >>> tokenizer = train_sentencepiece(["ABBA", "ABAB"], vocab_size=6, token_type="char")
    >>> tokens, context = tokenizer.encode("AB BA"), SpellingContext()
    >>> [spell_next(tokenizer, piece, context) for piece in (tokens[:2], tokens[2:3], tokens[3:])]
    ['A', 'B', ' BA']
    """
    before = [] if context.last is None else [context.last]
    text = spell(tokenizer, [*before, *tokens])[len(spell(tokenizer, before)) :]
    context.last = next((token for token in reversed(tokens) if spell(tokenizer, [token])), context.last)
    return text
