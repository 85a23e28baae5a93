"""When tokens are said: the likeliest path of CTC through the frames, freely chosen or for given tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from speechbrain_mamba.text.tokenizer import spell
from speechbrain_mamba.text.transcripts import Word

_SPACE = "\u2581"  # how SentencePiece writes a space in its pieces
_LEAST = -1e4  # log-probability in place of minus infinity


@dataclass
class TokenSpan:
    """A token on a path: its frames, from ``start`` up to ``end``, and the sum of their log-probabilities."""

    token: int
    start: int
    end: int
    log_prob: float


class GreedySpans:
    """The likeliest token of each frame, repeated ones once, without blanks, for frames that come in pieces.

    Arguments
    ---------
    blank : int
        The token that is the blank.

    Example
    -------
    >>> path = GreedySpans(blank=0)
    >>> for piece in torch.eye(3)[torch.tensor([0, 1, 1, 1, 0, 1, 2])].log().split(3):
    ...     path.push(piece)
    >>> [(span.token, span.start, span.end) for span in path.spans]
    [(1, 1, 4), (1, 5, 6), (2, 6, 7)]
    """

    def __init__(self, blank: int) -> None:
        self.blank, self.last, self.frames = blank, blank, 0
        self.spans: list[TokenSpan] = []

    def push(self, log_probs: Tensor) -> None:
        """Take the log-probabilities of the next frames, (frames, tokens)."""
        best, tokens = log_probs.max(-1)
        for token, value in zip(tokens.tolist(), best.tolist()):
            if token != self.blank:
                if token == self.last:
                    self.spans[-1].end += 1
                    self.spans[-1].log_prob += value
                else:
                    self.spans.append(TokenSpan(token, self.frames, self.frames + 1, value))
            self.last = token
            self.frames += 1


def frames_needed(tokens: Sequence[int]) -> int:
    """The fewest frames of a path: one for each token, and a blank between equal ones."""
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


def align_tokens(log_probs: Tensor, tokens: Sequence[int], blank: int) -> list[TokenSpan]:
    """Find the likeliest path of CTC (Graves et al., 2006) that spells given tokens.

    torchaudio's ``forced_align`` does the same, but torchaudio is no longer developed, and warns in some versions.

    Arguments
    ---------
    log_probs : Tensor
        Log-probabilities (frames, tokens).
    tokens : sequence of int
        The tokens, without blanks.
    blank : int
        The token that is the blank.

    Returns
    -------
    list of TokenSpan
        A span for each token.

    Raises
    ------
    ValueError
        When there are fewer frames than :func:`frames_needed`.

    Example
    -------
    >>> log_probs = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.1, 0.7]]).log()
    >>> [(span.token, span.start, span.end) for span in align_tokens(log_probs, [1, 2], blank=0)]
    [(1, 1, 2), (2, 3, 4)]
    """
    if frames_needed(tokens) > len(log_probs):
        raise ValueError(
            f"{len(tokens)} tokens need {frames_needed(tokens)} frames, but there are only {len(log_probs)}."
        )
    if not tokens:
        return []
    labels = torch.full((2 * len(tokens) + 1,), blank)
    labels[1::2] = torch.tensor(tokens)
    values = log_probs.detach().cpu().double().clamp(min=_LEAST)[:, labels]  # (frames, labels)
    # the cost of coming from two labels before: only a token may, past the blank, and not from one equal to it
    skip = torch.full_like(values[0], -math.inf)
    skip[3::2] = torch.where(labels[3::2] != labels[1:-2:2], 0.0, -math.inf)
    score = torch.full_like(values[0], -math.inf)
    score[:2] = values[0, :2]
    moves = torch.zeros(values.shape, dtype=torch.uint8)
    ways = torch.full((3, len(labels)), -math.inf, dtype=score.dtype)
    for frame in range(1, len(values)):
        ways[0] = score
        ways[1, 1:] = score[:-1]
        ways[2, 2:] = score[:-2] + skip[2:]
        score, move = ways.max(0)
        moves[frame] = move
        score = score + values[frame]
    label = len(labels) - 1 if score[-1] > score[-2] else len(labels) - 2
    spans: list[TokenSpan] = []
    current, steps, probabilities = -1, moves.tolist(), values.tolist()
    for frame in range(len(values) - 1, -1, -1):
        if label % 2:  # the others are blanks
            if label != current:
                spans.append(TokenSpan(tokens[label // 2], frame, frame + 1, 0.0))
                current = label
            spans[-1].start = frame
            spans[-1].log_prob += probabilities[frame][label]
        label -= steps[frame][label]
    return spans[::-1]


def spread_tokens(tokens: Sequence[int], frames: int) -> list[TokenSpan]:
    """Spread tokens that have no path evenly over the frames, with probability 0."""
    bounds = [index * frames // max(1, len(tokens)) for index in range(len(tokens) + 1)]
    return [TokenSpan(token, *span, -math.inf) for token, span in zip(tokens, itertools.pairwise(bounds))]


def words_of_spans(
    tokenizer: SentencePieceProcessor,
    spans: Iterable[TokenSpan],
    seconds_per_frame: float,
    start: float = 0.0,
    duration: float = math.inf,
) -> list[Word]:
    """Make words of the tokens of a path.

    Arguments
    ---------
    tokenizer : sentencepiece.SentencePieceProcessor
        Its tokens. A piece that begins with a space begins a word; those without a text are left out.
    spans : iterable of TokenSpan
        The path.
    seconds_per_frame : float
        Time from one frame to the next; the middle of the first frame is at 0.
    start : float
        When the frames begin in the recording, in seconds.
    duration : float
        When the recording ends, in seconds.

    Returns
    -------
    list of Word
        The words in order. The confidence is the mean probability of the tokens' frames, in the logarithm.

    Example
    -------
    >>> from speechbrain_mamba.text.tokenizer import train_sentencepiece
    >>> tokenizer = train_sentencepiece(["ABBA", "ABAB"], vocab_size=6, token_type="char")
    >>> spans = [TokenSpan(token, 5 * i, 5 * i + 2, -0.2) for i, token in enumerate(tokenizer.encode("AB BA"))]
    >>> words = words_of_spans(tokenizer, spans, 0.04)
    >>> [(word.text, round(word.start, 2), round(word.end, 2), round(word.confidence, 2)) for word in words]
    [('AB', 0.18, 0.46, 0.9), ('BA', 0.78, 1.06, 0.9)]
    """
    groups: list[list[TokenSpan]] = []
    for span in spans:
        if not groups or tokenizer.id_to_piece(span.token).startswith(_SPACE):
            groups.append([])
        groups[-1].append(span)
    words: list[Word] = []
    for group in groups:
        spoken = [span for span in group if spell(tokenizer, [span.token]).strip()]
        if not spoken:
            continue
        text = spell(tokenizer, [span.token for span in group]).strip()
        begin = start + max(0.0, (spoken[0].start - 0.5) * seconds_per_frame)
        end = start + max(0.0, (spoken[-1].end - 0.5) * seconds_per_frame)
        frames = sum(span.end - span.start for span in spoken)
        confidence = math.exp(sum(span.log_prob for span in spoken) / max(1, frames))
        words.append(Word(text, min(begin, duration), min(end, duration), min(1.0, confidence)))
    return words
