"""Paths of CTC: found greedily, and for given tokens."""

import itertools
import math

import pytest
import torch
import torchaudio.functional

from speechbrain_mamba.decoders.alignment import (
    GreedySpans,
    TokenSpan,
    align_tokens,
    frames_needed,
    spread_tokens,
    words_of_spans,
)
from speechbrain_mamba.text.tokenizer import train_sentencepiece


def log_probs(frames, tokens=5, sharpness=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(frames, tokens, generator=generator)).log_softmax(-1)


@pytest.mark.filterwarnings("ignore")  # some versions of torchaudio say that the function will go
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tokens", [[1], [1, 1], [2, 1, 1, 3], [4, 4, 4, 2, 1, 3, 3]])
@pytest.mark.parametrize("blank", [0, 4])
def test_a_path_is_that_of_torchaudio(tokens, seed, blank):
    tokens = [0 if blank == 4 and token == 4 else token for token in tokens]
    for frames in (frames_needed(tokens), 13, 30):
        values = log_probs(max(frames, frames_needed(tokens)), seed=seed)
        path, scores = torchaudio.functional.forced_align(values[None], torch.tensor([tokens]), blank=blank)
        expected, frame = [], 0
        for token, group in itertools.groupby(path[0].tolist()):
            length = len(list(group))
            if token != blank:
                score = scores[0, frame : frame + length].sum().item()
                expected.append((token, frame, frame + length, pytest.approx(score, abs=1e-4)))
            frame += length
        found = align_tokens(values, tokens, blank)
        assert [(span.token, span.start, span.end, span.log_prob) for span in found] == expected


@pytest.mark.parametrize("blank", [0, 2])
def test_the_greedy_path_is_the_alignment_of_its_tokens_in_any_pieces(blank):
    values = log_probs(60, seed=3)
    whole = GreedySpans(blank)
    whole.push(values)
    for size in (1, 7, 60):
        path = GreedySpans(blank)
        for piece in values.split(size):
            path.push(piece)
        assert [(s.token, s.start, s.end) for s in path.spans] == [(s.token, s.start, s.end) for s in whole.spans]
    aligned = align_tokens(values, [span.token for span in whole.spans], blank)
    assert len(aligned) > 20
    for own, other in zip(whole.spans, aligned):
        assert (own.token, own.start, own.end) == (other.token, other.start, other.end)
        assert own.log_prob == pytest.approx(other.log_prob, abs=1e-4)


def test_tokens_that_have_no_room_are_named_or_spread():
    assert frames_needed([1, 1, 2]) == 4
    with pytest.raises(ValueError, match="3 tokens need 4 frames, but there are only 3"):
        align_tokens(log_probs(3), [1, 1, 2], blank=0)
    assert align_tokens(log_probs(3), [], blank=0) == []
    assert [(span.start, span.end) for span in spread_tokens([1, 1, 2], 3)] == [(0, 1), (1, 2), (2, 3)]
    assert spread_tokens([], 3) == []
    impossible = torch.full((4, 3), -math.inf)
    impossible[:, 0] = 0.0
    assert [span.token for span in align_tokens(impossible, [1, 2], blank=0)] == [1, 2]


@pytest.fixture
def tokenizer():
    return train_sentencepiece(["ABBA AB", "ABAB BA BA"], 6, token_type="char")


def test_words_begin_at_their_letters_and_end_with_them(tokenizer):
    space, a, b = tokenizer.piece_to_id(["\u2581", "A", "B"])
    spans = [
        TokenSpan(a, 0, 1, math.log(0.5)),  # a word need not begin with a space
        TokenSpan(space, 2, 3, -9.0),
        TokenSpan(b, 10, 12, 2 * math.log(0.9)),
        TokenSpan(1, 13, 14, -1.0),  # a control piece
        TokenSpan(a, 15, 16, math.log(0.9)),
        TokenSpan(space, 17, 18, -0.1),
        TokenSpan(space, 18, 19, -0.1),
        TokenSpan(a, 20, 25, -math.inf),
    ]
    words = words_of_spans(tokenizer, spans, 0.04, start=100.0, duration=100.9)
    assert [word.text for word in words] == ["A", "BA", "A"]
    assert [(word.start, word.end) for word in words] == [
        (100.0, pytest.approx(100.02)), (pytest.approx(100.38), pytest.approx(100.62)), (pytest.approx(100.78), 100.9)
    ]  # fmt: skip
    assert [word.confidence for word in words] == [pytest.approx(0.5), pytest.approx(0.9), 0.0]
    assert words_of_spans(tokenizer, [TokenSpan(space, 0, 1, -1.0)], 0.04) == []
