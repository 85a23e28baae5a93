"""Sentences and digits of the embedded corpus."""

import re

import numpy as np
import pytest

from speechbrain_mamba.corpora.mini.sentences import DIGITS, GRAMMAR, HANDWRITTEN, digit_string, make_sentences


@pytest.fixture(scope="module")
def many() -> list[str]:
    return make_sentences(4000, np.random.default_rng(0))


def test_sentences_are_distinct_plain_and_varied():
    sentences = make_sentences(1000, np.random.default_rng(0))
    assert len(set(sentences)) == 1000
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)+", sentence) for sentence in sentences)
    assert len({word for sentence in sentences for word in sentence.split()}) > 500
    assert make_sentences(1000, np.random.default_rng(0)) == sentences
    assert make_sentences(1000, np.random.default_rng(1)) != sentences


@pytest.mark.parametrize("missing", [151, 100, 1, 0, -1, -9])
def test_those_written_by_hand_come_first_and_the_grammar_adds_what_is_missing(missing):
    handwritten = HANDWRITTEN.splitlines()
    assert len(handwritten) == 151
    sentences = make_sentences(len(handwritten) - missing, np.random.default_rng(0))
    assert len(set(sentences)) == len(sentences) == 151 - missing
    assert len(set(handwritten) - set(sentences)) == max(missing, 0)
    assert len(set(sentences) - set(handwritten)) == max(-missing, 0)


def test_their_order_is_random():
    handwritten = HANDWRITTEN.splitlines()
    places = [handwritten.index(sentence) for sentence in make_sentences(151, np.random.default_rng(0))]
    assert abs(np.corrcoef(places, range(151))[0, 1]) < 0.3


def test_all_of_the_grammar_is_said(many):
    text = " | ".join(many)
    for line in re.split(r"\n(?=\w+:)", GRAMMAR.strip()):
        for choice in line.partition(":")[2].split("|"):
            literal = re.split(r"<\w+>", " ".join(choice.split()))
            assert re.search(r"\b" + r"[a-z ]+".join(map(re.escape, literal)), text), choice


@pytest.mark.parametrize(
    "pattern",
    [
        r"tasted of (\w+) and (\w+)$",
        r"between the (\w+) and the (\w+)$",
        r"can you hear the (\w+) and the (\w+)$",
    ],
)
def test_no_sentence_names_the_same_thing_twice(many, pattern):
    pairs = [match.groups() for sentence in many if (match := re.search(pattern, sentence))]
    assert len(pairs) > 10
    assert all(first != second for first, second in pairs)


def test_a_word_may_come_again_in_the_next_sentence(many):
    assert sum("soup" in sentence for sentence in many) > 5


def test_digit_strings_are_digits_of_all_kinds():
    digits = digit_string(200, np.random.default_rng(0)).split(" ")
    assert len(digits) == 200
    assert set(digits) == set(DIGITS)
    assert max(digits.count(digit) for digit in DIGITS) < 40
    assert digit_string(200, np.random.default_rng(0)).split() == digits
    assert digit_string(200, np.random.default_rng(1)).split() != digits
    assert DIGITS.index("zero") == 0 and DIGITS.index("seven") == 7
