"""Texts of tokens that come in pieces."""

import random

import pytest

from speechbrain_mamba.text.spelling import SpellingContext, spell_next
from speechbrain_mamba.text.tokenizer import spell, train_sentencepiece


@pytest.mark.parametrize("token_type, size", [("char", 6), ("bpe", 9), ("unigram", 9)])
def test_pieces_together_are_the_text_of_all_tokens(token_type, size):
    tokenizer = train_sentencepiece(["ABBA AB", "ABAB BA BA"], size, token_type=token_type, exact=False)
    draw = random.Random(0)
    for _ in range(200):
        tokens = [draw.randrange(tokenizer.vocab_size()) for _ in range(draw.randrange(12))]
        cuts = sorted(draw.randrange(len(tokens) + 1) for _ in range(3))
        context = SpellingContext()
        pieces = [tokens[a:b] for a, b in zip([0, *cuts], [*cuts, len(tokens)])]
        assert "".join(spell_next(tokenizer, piece, context) for piece in pieces) == spell(tokenizer, tokens)
