"""Long texts in pieces that can be spoken one by one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

ABBREVIATIONS = "Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\\.g|i\\.e|approx|No|Nr|Fig|bzw|z\\.B|ca"
_CLOSING = r"[\"'”’»)\]]*"
ENDS: dict[str, re.Pattern[str]] = {
    "paragraph": re.compile(r"\n\s*\n\s*"),
    "sentence": re.compile(rf"(?:(?<=[.!?…]){_CLOSING}\s+|[。！？]+{_CLOSING}\s*)"),
    "phrase": re.compile(rf"(?:[,;:]{_CLOSING}\s+|\s+[–—-]\s+|[、，；：]\s*)"),
    "word": re.compile(r"\s+"),
}
"""Where a text may be cut, the best places first. A match ends where the next piece begins."""

_NOT_AN_END = re.compile(rf"(?:^|[\s(\"'])(?:{ABBREVIATIONS}|[A-Z])\.$")


class TextPiece(NamedTuple):
    """A piece of a text."""

    text: str
    """What is said, without white space around it."""

    end: str
    """What follows it: a ``paragraph``, ``sentence``, ``phrase`` or ``word``; empty at the end of the text."""


def split_text(text: str, measure: Callable[[str], float], limit: float) -> list[TextPiece]:
    """Split a text into pieces of a limited size.

    It is cut between paragraphs if it has some, otherwise between sentences, phrases or words, where it is nearest to
    the middle, until each piece is small enough. A single word is never cut.

    Arguments
    ---------
    text : str
        The text.
    measure : callable
        The size of a text, in seconds of speech for instance.
    limit : float
        The largest size of a piece.

    Returns
    -------
    list of TextPiece
        The pieces in their order; none for a text without anything but white space.

    Example
    -------
    >>> for piece in split_text("Well, it rains. Dr. No sings, and nobody listens to him.", len, 20):
    ...     print(piece)
    TextPiece(text='Well, it rains.', end='sentence')
    TextPiece(text='Dr. No sings,', end='phrase')
    TextPiece(text='and nobody', end='word')
    TextPiece(text='listens to him.', end='')
    """
    pieces: list[TextPiece] = []
    todo = [TextPiece(text.strip(), "")]
    while todo:
        whole = todo.pop()
        if not whole.text:
            continue
        cut = None if measure(whole.text) <= limit else _find_cut(whole.text)
        if cut is None:
            pieces.append(TextPiece(" ".join(whole.text.split()), whole.end))
            continue
        kind, place = cut
        todo += [TextPiece(whole.text[place:].strip(), whole.end), TextPiece(whole.text[:place].strip(), kind)]
    return pieces


def _find_cut(text: str) -> tuple[str, int] | None:
    """The best kind of place where a text can be cut, and the one of this kind that is nearest to the middle."""
    for kind, pattern in ENDS.items():
        places = [
            match.end()
            for match in pattern.finditer(text)
            if 0 < match.end() < len(text) and text[: match.end()].strip() and text[match.end() :].strip()
            if kind != "sentence" or not _NOT_AN_END.search(text[: match.start()])
        ]
        if places:
            return kind, min(places, key=lambda place: abs(2 * place - len(text)))
    return None
