"""Words of two transcripts whose recordings overlap, joined so that each word stands once."""

from __future__ import annotations

from collections.abc import Sequence

from speechbrain_mamba.text.transcripts import Word

_SAME = 0.25  # seconds that the middles of one word may differ by in two transcripts


def join_words(left: Sequence[Word], right: Sequence[Word], begin: float, end: float) -> list[Word]:
    """Join the words of two overlapping windows of a recording.

    Words near the end of a window are often wrong, as they lack what follows, and so are those near its beginning. The
    transcripts are switched near the middle of the overlap, after a word that both have. If they share none there, it
    is done between words, or where the fewest are cut.

    Arguments
    ---------
    left, right : sequence of Word
        The words of both windows in order, with their times in the recording.
    begin, end : float
        Where the right window begins and the left one ends, in seconds.

    Returns
    -------
    list of Word
        The words, in order.

    Example
    -------
    >>> left = [Word("ONE", 8.0, 8.4), Word("TWO", 8.9, 9.2), Word("FOE", 9.8, 10.0)]
    >>> right = [Word("N", 8.2, 8.4), Word("TWO", 8.9, 9.2), Word("FOUR", 9.8, 10.1), Word("FIVE", 10.6, 10.9)]
    >>> [word.text for word in join_words(left, right, 8.2, 10.0)]
    ['ONE', 'TWO', 'FOUR', 'FIVE']
    """
    middle = (begin + end) / 2
    ours = [i for i, word in enumerate(left) if word.end > begin]
    theirs = [j for j, word in enumerate(right) if word.start < end]
    shared = [
        (abs(_middle(left[i]) - middle), i, j)
        for i in ours
        for j in theirs
        if left[i].text == right[j].text and abs(_middle(left[i]) - _middle(right[j])) <= _SAME
    ]
    if shared:
        _, i, j = min(shared, key=lambda found: (found[0], abs(_middle(left[found[1]]) - _middle(right[found[2]]))))
        kept, rest = left[: i + 1], right[j + 1 :]
    elif not ours or not theirs:  # a word that one window alone has is kept
        kept, rest = left, right
    else:
        there = [left[i] for i in ours] + [right[j] for j in theirs]
        times = [middle, *(time for word in there for time in (word.start, word.end) if begin <= time <= end)]
        switch = min(times, key=lambda time: (sum(word.start < time < word.end for word in there), abs(time - middle)))
        kept = [word for word in left if _middle(word) < switch]
        rest = [word for word in right if _middle(word) >= switch]
    last = kept[-1].end if kept else 0.0
    return [*kept, *(Word(w.text, max(w.start, last), max(w.end, last), w.confidence) for w in rest)]


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2
