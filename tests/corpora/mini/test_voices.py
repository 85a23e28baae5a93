"""The speakers of the embedded corpus."""

import itertools
from collections import defaultdict

import numpy as np
import pytest

from speechbrain_mamba.corpora.mini.voices import ACCENTS, HIGH_VARIANTS, LOW_VARIANTS, make_speakers
from speechbrain_mamba.text.espeak import espeak_available, synthesize

needs_espeak = pytest.mark.skipif(not espeak_available(), reason="espeakng-loader is not installed")


@pytest.fixture(scope="module")
def speakers():
    return make_speakers((100, 31, 48), np.random.default_rng(0))


def test_no_variant_speaks_in_two_splits():
    everyone = [name for variants in (LOW_VARIANTS, HIGH_VARIANTS) for split in variants.values() for name in split]
    assert len(everyone) == len(set(everyone))
    assert list(LOW_VARIANTS) == list(HIGH_VARIANTS) == ["train", "valid", "test"]


def test_speakers_are_numbered_by_split_low_and_high_in_turn(speakers):
    numbers = {"train": range(100, 200), "valid": range(200, 231), "test": range(300, 348)}
    for split, wanted in numbers.items():
        chosen = [speaker for speaker in speakers if speaker.split == split]
        assert [speaker.id for speaker in chosen] == [str(number) for number in wanted]
        assert [speaker.high for speaker in chosen] == [number % 2 == 1 for number in wanted]
    assert len(speakers) == 179


def test_a_split_goes_through_its_own_variants_in_turn(speakers):
    for split in ("train", "valid", "test"):
        for high, variants in ((False, LOW_VARIANTS[split]), (True, HIGH_VARIANTS[split])):
            heard = [speaker.variant for speaker in speakers if (speaker.split, speaker.high) == (split, high)]
            assert heard == [variants[index % len(variants)] for index in range(len(heard))]
            assert set(heard) == set(variants)


def test_speakers_differ_in_all_that_is_drawn(speakers):
    sounds = {(speaker.variant, speaker.pitch, speaker.played_rate, speaker.rate) for speaker in speakers}
    assert len(sounds) == len(speakers)
    assert {speaker.accent for speaker in speakers} == set(ACCENTS)
    assert {speaker.played_rate for speaker in speakers} == {20000, 21000, 22000, 23000, 24000}
    for name, low, high in (("pitch_range", 30, 90), ("rate", 140, 205)):
        values = [getattr(speaker, name) for speaker in speakers]
        assert low <= min(values) < low + 5 and high - 5 <= max(values) < high
        assert len(set(values)) > 40


def test_those_of_one_variant_lie_in_another_third_of_heights_each(speakers):
    thirds = defaultdict(list)
    for speaker in speakers:
        lowest, third = (22, 13) if speaker.high else (25, 17)
        assert lowest <= speaker.pitch < lowest + 3 * third
        thirds[speaker.variant].append((speaker.pitch - lowest) // third)
    for heard in thirds.values():
        assert all(after == (before + 1) % 3 for before, after in itertools.pairwise(heard))
    for variants in (LOW_VARIANTS, HIGH_VARIANTS):
        assert {thirds[variant][0] for variant in variants["train"]} == {0, 1, 2}
    assert len({(speaker.high, speaker.pitch) for speaker in speakers}) > 60


def test_the_generator_decides():
    def make(seed):
        return make_speakers((3, 2, 1), np.random.default_rng(seed))

    assert make(1) == make(1) != make(2)


@pytest.mark.parametrize("counts", [(4, 0, 1), (101, 1, 1), (1, 1, -1), (1, 1), (1, 1, 1, 1)])
def test_counts_out_of_range_are_named(counts):
    with pytest.raises(ValueError, match="three counts in 1 to 100"):
        make_speakers(counts, np.random.default_rng(0))


@needs_espeak
def test_espeak_has_all_voices():
    for accent in ACCENTS:
        assert len(synthesize("a", voice=accent)[0])
    for variants in (LOW_VARIANTS, HIGH_VARIANTS):
        for variant in (name for split in variants.values() for name in split):
            assert len(synthesize("a", variant=variant)[0])
