"""Words of windows that overlap."""

import itertools
import random

import pytest

from speechbrain_mamba.text.transcripts import Word
from speechbrain_mamba.text.word_joins import join_words


def said(seed, seconds=40.0):
    """Words of a recording, some of them repeated, with short pauses or none."""
    draw, words, time = random.Random(seed), [], 0.0
    while time < seconds:
        end = time + draw.uniform(0.15, 0.7)
        words.append(Word(draw.choice(["ONE", "TWO", "TWO", "SIX"]), time, end))
        time = end + draw.choice([0.0, 0.05, 0.2])
    return words


def heard(words, begin, end, draw, jitter=0.05):
    """The words of a window, with times that are not quite right; those at its borders are cut."""
    found = []
    for word in words:
        if word.end > begin + 0.05 and word.start < end - 0.05:
            text = word.text if begin <= word.start and word.end <= end else word.text[:1]
            start = max(begin, word.start + draw.uniform(-jitter, jitter), found[-1].end if found else 0.0)
            found.append(Word(text, start, max(start, min(end, word.end + draw.uniform(-jitter, jitter)))))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_no_word_is_lost_or_doubled_at_cuts(seed):
    draw, words = random.Random(seed), said(seed)
    joined = heard(words, 0.0, 10.0, draw)
    for begin in range(8, 40, 8):
        joined = join_words(joined, heard(words, begin, begin + 10, draw), begin, begin + 2)
    expected = [word.text for word in words]
    assert [word.text for word in joined][: len(expected) - 1] == expected[:-1]
    assert all(a.end <= b.start for a, b in itertools.pairwise(joined))


def test_words_are_switched_between_words_if_the_windows_agree_on_none():
    left = [Word("A", 8.0, 8.6), Word("B", 8.7, 9.3), Word("C", 9.4, 10.0)]
    right = [Word("X", 8.1, 8.6), Word("Y", 8.7, 9.3), Word("Z", 9.4, 10.4)]
    assert [word.text for word in join_words(left, right, 8.0, 10.0)] == ["A", "Y", "Z"]
    assert [word.text for word in join_words(left, [], 8.0, 10.0)] == ["A", "B", "C"]
    assert [word.text for word in join_words([], right, 8.0, 10.0)] == ["X", "Y", "Z"]
    assert join_words([], [], 8.0, 10.0) == []
