"""Mixtures, drawn at random."""

import json
import math
from collections import Counter
from typing import ClassVar

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.augmentation import MixtureAugmentation
from speechbrain_mamba.dataio.level_laws import PublishedLaw, Wsj0MixLaw
from speechbrain_mamba.dataio.mixing import MixtureSampler
from speechbrain_mamba.dataio.utterances import Utterance
from tests.dataio.conftest import VOICES, add_speech


def voice_of(source):
    runs = torch.unique_consecutive(source.sign(), return_counts=True)[1]
    return next(speaker for speaker, period in VOICES.items() if period == runs.median())


def level_db(sources):
    rms = sources.square().mean(1).sqrt()
    return [20 * math.log10(rms[index] / rms[-1]) for index in range(len(rms))]


@pytest.mark.parametrize("num_spks", [1, 2, 3, 4])
def test_each_source_is_the_speech_of_its_speaker(voices, num_spks):
    for seconds in ((0.02, 0.1), (0.4, 0.5), None):  # a part, several utterances, one utterance
        sampler = MixtureSampler(voices, num_spks, 8000, seconds)
        for index in range(12):
            mixture = sampler.draw(index)
            assert tuple(map(voice_of, mixture.sources)) == mixture.speakers


def test_every_speaker_is_as_often_in_every_place(voices):
    sampler = MixtureSampler(voices, 3, 8000, (0.005, 0.005))
    places = list(zip(*(sampler.draw(index).speakers for index in range(600))))
    for place in places:
        counts = Counter(place)
        assert set(counts) == set(VOICES)  # though one has most of the speech
        assert all(110 < count < 190 for count in counts.values())


def test_lengths_are_drawn_evenly_from_the_range(voices):
    sampler = MixtureSampler(voices, 2, 8000, (0.01, 0.05))
    lengths = [len(sampler.draw(index).mix) for index in range(300)]
    assert 80 <= min(lengths) < 85 and 395 < max(lengths) <= 400
    assert sum(lengths) / 300 == pytest.approx(240, abs=20)
    assert sum(length < 160 for length in lengths) / 300 == pytest.approx(0.25, abs=0.08)
    assert {len(MixtureSampler(voices, 2, 8000, (1e-5, 1e-5)).draw(index).mix) for index in range(5)} == {1}
    assert len(MixtureSampler(voices, 2, 8000, (0.012449, 0.012449)).draw(0).mix) == 100  # of 99.6


@pytest.mark.parametrize("largest", [12.0, 1.0])
def test_levels_are_drawn_evenly_from_the_range(voices, largest):
    sampler = MixtureSampler(voices, 4, 8000, (0.01, 0.01), law=Wsj0MixLaw(largest))
    levels = [level_db(sampler.draw(index).sources) for index in range(400)]
    for first, second, third, fourth in levels:
        assert first == pytest.approx(-second, abs=1e-4)
        assert third == pytest.approx(fourth, abs=1e-4)
    apart = [(first - second) / largest for first, second, *_ in levels]
    assert 0 <= min(apart) < 0.02 and 0.98 < max(apart) <= 1 + 1e-5
    assert sum(apart) / 400 == pytest.approx(0.5, abs=0.05)
    assert sum(value < 0.25 for value in apart) / 400 == pytest.approx(0.25, abs=0.07)


def test_without_a_level_difference_all_are_equally_loud(voices):
    for index in range(5):
        levels = level_db(MixtureSampler(voices, 3, 8000, (0.01, 0.01), law=Wsj0MixLaw(0.0)).draw(index).sources)
        assert levels == pytest.approx([0, 0, 0], abs=1e-4)


@pytest.mark.parametrize(("sign", "mix", "source"), [(-1, 0.0, 0.9), (1, 0.9, 0.45)])
def test_the_loudest_of_sources_and_mixture_has_the_peak(tmp_path, sign, mix, source):
    ramp = torch.linspace(0.1, 0.3, 400)
    speech = [add_speech(tmp_path, "anna", ramp), add_speech(tmp_path, "ben", sign * ramp)]
    mixture = MixtureSampler(speech, 2, 8000, (0.05, 0.05), law=Wsj0MixLaw(0)).draw(0)
    assert mixture.mix.abs().max().item() == pytest.approx(mix, abs=1e-3)
    assert mixture.sources.abs().amax(1).tolist() == pytest.approx([source, source], abs=1e-3)


@pytest.mark.parametrize("num_spks", [2, 3])
def test_a_mixture_is_the_sum_of_distinct_speakers_and_does_not_clip(utterances, num_spks):
    sampler = MixtureSampler(utterances, num_spks, 8000, (0.3, 1.5))
    lengths = set()
    for index in range(20):
        mixture = sampler.draw(index)
        assert len(set(mixture.speakers)) == num_spks
        assert mixture.sources.shape == (num_spks, len(mixture.mix))
        assert torch.equal(mixture.mix, mixture.sources.sum(0))
        loudest = max(mixture.mix.abs().max(), mixture.sources.abs().max())
        assert float(loudest) == pytest.approx(0.9, abs=1e-3)
        assert 0.3 * 8000 <= len(mixture.mix) <= 1.5 * 8000
        lengths.add(len(mixture.mix))
    assert len(lengths) > 10


def test_levels_are_those_of_wsj0_mix(utterances):
    two = [level_db(MixtureSampler(utterances, 2, 8000, (0.5, 0.5)).draw(index).sources)[0] for index in range(60)]
    assert min(two) >= -0.01
    assert max(two) <= 5.01
    assert max(two) - min(two) > 3
    default = MixtureSampler(utterances, 2, 8000).parameters()
    assert (default["level_db"], default["seconds"], default["seed"]) == (5, [2, 4], 0)
    first, second, third = level_db(MixtureSampler(utterances, 3, 8000, (0.5, 0.5)).draw(0).sources)
    assert third == 0
    assert first == pytest.approx(-second, abs=0.01)


def test_speech_is_cropped_or_joined_from_whole_utterances(tmp_path):
    ramp = torch.arange(1, 1001, dtype=torch.int16)
    utterances = []
    for speaker, sign in (("anna", 1), ("ben", -1)):
        write_audio(tmp_path / f"{speaker}.wav", sign * ramp, 8000)
        utterances.append(Utterance(str(tmp_path / f"{speaker}.wav"), speaker, 1000))

    def pieces(seconds, index):
        source = MixtureSampler(utterances, 2, 8000, (seconds, seconds)).draw(index).sources[0]
        step = source[1] - source[0]
        return [round(float(value / step)) for value in source]

    starts = {pieces(0.1, index)[0] for index in range(8)}
    assert len(starts) > 4
    for index in range(8):
        values = pieces(0.1, index)
        assert values == list(range(values[0], values[0] + 800))
    joined = pieces(0.2, 0)
    assert joined == [*range(1, 1001), *range(1, 601)]


def test_all_utterances_are_used_before_one_comes_again(tmp_path):
    speech = [add_speech(tmp_path, "anna", torch.full((100 * i,), 0.1 * i), f"{i}.wav") for i in (1, 2, 3)]
    sampler, orders = MixtureSampler(speech, 1, 8000, (1300 / 8000, 1300 / 8000)), set()
    for index in range(30):
        source = sampler.draw(index).sources[0]
        source = (source / source.min()).round().long().tolist()
        for round_ in (source[:600], source[600:1200]):
            assert Counter(round_) == {1: 100, 2: 200, 3: 300}
        orders.add(tuple(dict.fromkeys(source[:600])))
    assert len(orders) == 6


def test_only_speech_that_is_long_enough_alone_begins_in_mid_utterance(tmp_path):
    ramp = torch.arange(2, 902, dtype=torch.int16)
    speech = [
        add_speech(tmp_path, "anna", torch.ones(100, dtype=torch.int16), "a.wav"),
        add_speech(tmp_path, "anna", ramp, "b.wav"),
    ]
    sampler = MixtureSampler(speech, 1, 8000, (0.05, 0.05))
    starts = []
    for index in range(120):
        source = sampler.draw(index).sources[0]
        values = (source / source.diff().median()).round().long().tolist()
        if values[0] == 1:
            assert values == [1] * 100 + list(range(2, 302))
        else:
            starts.append(values[0])
            assert values == list(range(values[0], values[0] + 400))
    assert 40 < len(starts) < 80  # each comes first as often
    assert 2 <= min(starts) < 30 and 470 < max(starts) <= 502


@pytest.mark.parametrize("seconds", [(10 / 8000, 10 / 8000), None])
def test_parts_begin_anywhere_up_to_the_last_place(tmp_path, seconds):
    long = torch.arange(1, 13, dtype=torch.int16) * 100
    speech = [add_speech(tmp_path, "anna", long), add_speech(tmp_path, "ben", long[:10])]
    sampler, firsts = MixtureSampler(speech, 2, 8000, seconds), Counter()
    for index in range(60):
        mixture = sampler.draw(index)
        source = mixture.sources[mixture.speakers.index("anna")]
        firsts[round(float(source[0] / source.diff()[0]))] += 1
    assert set(firsts) == {1, 2, 3}


def test_without_seconds_all_utterances_are_drawn(tmp_path):
    speech = [add_speech(tmp_path, "anna", torch.ones(samples), f"{samples}.wav") for samples in (30, 40, 60)]
    speech += [add_speech(tmp_path, "ben", torch.ones(50))]
    sampler = MixtureSampler(speech, 2, 8000, seconds=None)
    assert {len(sampler.draw(index).mix) for index in range(40)} == {30, 40, 50}


def test_without_seconds_a_mixture_is_as_long_as_its_shortest_utterance(tmp_path):
    lengths = {"anna": 900, "ben": 500, "cleo": 700}
    utterances = []
    for speaker, length in lengths.items():
        write_audio(tmp_path / f"{speaker}.wav", torch.arange(1, length + 1, dtype=torch.int16), 8000)
        utterances.append(Utterance(str(tmp_path / f"{speaker}.wav"), speaker, length))
    for index in range(10):
        mixture = MixtureSampler(utterances, 2, 8000, seconds=None).draw(index)
        assert len(mixture.mix) == min(lengths[speaker] for speaker in mixture.speakers)
        for source in mixture.sources:  # one piece: a ramp stays a ramp
            assert torch.allclose(source.diff(), source.diff()[0].expand(len(source) - 1), atol=1e-4)


def test_speech_that_fits_is_kept_in_memory(tmp_path):
    speech = [add_speech(tmp_path, speaker, 0.1 * torch.randn(100)) for speaker in ("anna", "ben")]
    cached = MixtureSampler(speech, 2, 8000, (0.01, 0.01), cache_bytes=800)
    uncached = MixtureSampler(speech, 2, 8000, (0.01, 0.01), cache_bytes=799)
    (tmp_path / "anna" / "0.wav").unlink()
    assert cached.draw(0).mix.shape == (80,)
    with pytest.raises(FileNotFoundError, match=r"0\.wav' does not exist"):
        uncached.draw(0)
    with pytest.raises(FileNotFoundError, match=r"0\.wav' does not exist"):
        MixtureSampler(speech, 2, 8000, (0.01, 0.01))


@pytest.mark.parametrize(("samples", "cached"), [(2**27, True), (2**27 + 1, False)])
def test_half_a_gibibyte_is_kept_in_memory_by_default(samples, cached):
    half = samples // 2
    speech = [Utterance("missing.wav", "anna", half), Utterance("missing.wav", "ben", samples - half)]
    if cached:
        with pytest.raises(FileNotFoundError, match="does not exist"):
            MixtureSampler(speech, 2, 8000)
    else:
        MixtureSampler(speech, 2, 8000)


@pytest.mark.parametrize("cache_bytes", [2**20, 0])
def test_speech_of_another_rate_is_named(utterances, cache_bytes):
    with pytest.raises(ValueError, match="8000 Hz, but 16000 Hz are wanted"):
        MixtureSampler(utterances, 2, 16000, (0.1, 0.1), cache_bytes=cache_bytes).draw(0)


def test_the_same_version_draws_the_same_mixtures(voices):
    """Runs are resumed, and lists completed, by what these parameters drew before: a change needs another version."""
    sampler = MixtureSampler(voices, 3, 8000, (0.1, 0.3), seed=7)
    assert sampler.parameters()["version"] == 1
    mixture = sampler.draw(5, epoch=2)
    assert (mixture.speakers, len(mixture.mix)) == (("dora", "ben", "carl"), 896)
    assert level_db(mixture.sources) == pytest.approx([1.6905, -1.6905, 0], abs=1e-3)
    starts = [int(torch.unique_consecutive(source, return_counts=True)[1][0]) for source in mixture.sources]
    assert starts == [11, 4, 9]


DIFFERENT = {"num_spks": 3, "sample_rate": 8001, "seconds": (0.5, 0.6), "seed": 2, "law": Wsj0MixLaw(4.0)}


@pytest.mark.parametrize("name", DIFFERENT)
def test_parameters_tell_samplers_apart(voices, name):
    same = {"num_spks": 2, "sample_rate": 8000, "seconds": (0.5, 0.5), "seed": 1, "law": Wsj0MixLaw(), "cache_bytes": 0}
    parameters = MixtureSampler(voices, **same).parameters()
    assert json.loads(json.dumps(parameters)) == parameters
    assert MixtureSampler(voices[::-1], **{**same, "cache_bytes": 1}).parameters() == parameters
    assert MixtureSampler(voices, **{**same, name: DIFFERENT[name]}).parameters() != parameters
    assert MixtureSampler(voices, **{**same, "seconds": None}).parameters()["seconds"] is None


def test_parameters_tell_laws_apart(voices):
    laws = [Wsj0MixLaw(), Wsj0MixLaw(4.0), PublishedLaw(), PublishedLaw(first_db=(-20.0, 1.0))]
    known = [MixtureSampler(voices, 2, 8000, cache_bytes=0, law=law).parameters() for law in laws]
    assert json.loads(json.dumps(known)) == known
    assert all(known.count(parameters) == 1 for parameters in known)


def test_parameters_tell_speech_apart(voices):
    def parameters(*last):
        return MixtureSampler([*voices[:-1], *last], 2, 8000, (0.5, 0.5), cache_bytes=0).parameters()

    path, speaker, samples = voices[-1].path, voices[-1].speaker, voices[-1].samples
    others = [[], [(path, speaker, samples + 1)], [(path, "eva", samples)], [(path + "x", speaker, samples)]]
    known = [parameters(*(Utterance(*values) for values in other)) for other in others] + [parameters(voices[-1])]
    assert all(known.count(one) == 1 for one in known)
    assert parameters(voices[-1]) == parameters(voices[-1])


def test_the_cache_changes_nothing(utterances):
    cached = MixtureSampler(utterances, 2, 8000, (0.3, 1.0), seed=3)
    uncached = MixtureSampler(utterances, 2, 8000, (0.3, 1.0), seed=3, cache_bytes=0)
    for index in range(5):
        assert torch.equal(cached.draw(index).mix, uncached.draw(index).mix)


def test_seed_epoch_and_index_alone_decide(utterances):
    def draw(seed=1, epoch=2, index=3):
        return MixtureSampler(list(reversed(utterances)), 2, 8000, (0.5, 0.5), seed).draw(index, epoch).mix

    reference = MixtureSampler(utterances, 2, 8000, (0.5, 0.5), 1).draw(3, 2).mix
    assert torch.equal(draw(), reference)
    assert not any(torch.equal(other, reference) for other in (draw(seed=2), draw(epoch=3), draw(index=4)))


def test_silence_is_drawn_again_or_named(tmp_path, utterances):
    write_audio(tmp_path / "silent.wav", torch.zeros(8000), 8000)
    silent = Utterance(str(tmp_path / "silent.wav"), "silent", 8000)
    with pytest.raises(ValueError, match="speaker 'silent' is silent"):
        MixtureSampler([*utterances[:1], silent], 2, 8000, (0.5, 0.5)).draw(0)
    with pytest.raises(ValueError, match=r"utterance '.*silent\.wav' is silent: remove it from the data"):
        MixtureSampler([silent], 1, 8000, seconds=None).draw(0)
    also_anna = Utterance(silent.path, "anna", 8000)
    with pytest.raises(ValueError, match=r"utterance '.*silent\.wav' is silent"):  # of a speaker who is heard elsewhere
        for index in range(20):
            MixtureSampler([*utterances[:2], also_anna], 1, 8000, seconds=None).draw(index)
    mixture = MixtureSampler([*utterances, also_anna], 3, 8000, (0.4, 0.4)).draw(0)
    assert mixture.sources.abs().max(1).values.min() > 0


def test_speech_with_much_silence_is_drawn_until_some_is_heard(tmp_path):
    signal = torch.zeros(2000)
    signal[:800] = 0.1
    sampler = MixtureSampler([add_speech(tmp_path, "anna", signal)], 1, 8000, (0.01, 0.01))
    for index in range(30):
        assert sampler.draw(index).mix.abs().max() == pytest.approx(0.9)


@pytest.mark.parametrize(("level", "audible"), [(2e-4, True), (0.5e-4, False)])
def test_what_counts_as_silence(tmp_path, level, audible):
    speech = [add_speech(tmp_path, "anna", torch.full((400,), level), subtype="FLOAT")]
    sampler = MixtureSampler(speech, 1, 8000, (0.01, 0.01))
    if audible:
        assert sampler.draw(0).mix.max() == pytest.approx(0.9)
    else:
        with pytest.raises(ValueError, match="remove the speaker"):
            sampler.draw(0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seconds": (-1.0, 1.0)}, "above 0"),
        ({"num_spks": 4}, "num_spks is 4, but the speech has 3 speaker"),
        ({"num_spks": 0}, "at least one"),
        ({"seconds": (2.0, 1.0)}, "shortest and the longest"),
        ({"seconds": (0.0, 1.0)}, "above 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_settings_are_named(utterances, arguments, words):
    with pytest.raises(ValueError, match=words):
        MixtureSampler(utterances, **{"num_spks": 2, "sample_rate": 8000, **arguments})


class TestAugmentation:
    OPTIONS: ClassVar = {"speeds": (80, 120), "splice": 0.5, "room": 0.5, "response": 0.5, "noise": 0.5}

    def sampler(self, utterances, seed=0, **options):
        return MixtureSampler(
            utterances, 2, 8000, (0.2, 0.3), seed, augmentation=MixtureAugmentation(**{**self.OPTIONS, **options})
        )

    def test_a_mixture_is_a_function_of_seed_epoch_and_index(self, utterances):
        first = self.sampler(utterances).draw(3, epoch=2)
        again = self.sampler(utterances).draw(3, epoch=2)
        assert torch.equal(first.mix, again.mix) and torch.equal(first.sources, again.sources)
        for other in (self.sampler(utterances, seed=1).draw(3, 2), self.sampler(utterances).draw(3, 1)):
            assert other.mix.shape != first.mix.shape or not torch.equal(other.mix, first.mix)

    def test_without_noise_the_mixture_is_the_sum_of_its_sources(self, utterances):
        for index in range(8):
            mixture = self.sampler(utterances).draw(index)
            assert mixture.sources.shape == (2, len(mixture.mix))
            assert torch.equal(mixture.mix, mixture.sources.sum(0))

    def test_noise_is_in_the_mixture_only_and_nothing_clips(self, utterances):
        levels = []
        for index in range(20):
            plain = self.sampler(utterances).draw(index)
            mixture = self.sampler(utterances, mixture_noise=1, mixture_noise_db=(0, 20)).draw(index)
            clean = mixture.sources.sum(0)
            noise = mixture.mix - clean
            levels.append(20 * math.log10(clean.square().mean().sqrt() / noise.square().mean().sqrt()))
            assert float(max(mixture.mix.abs().max(), mixture.sources.abs().max())) == pytest.approx(0.9, abs=1e-3)
            scale = mixture.sources.abs().max() / plain.sources.abs().max()
            assert torch.allclose(mixture.sources, plain.sources * scale, atol=1e-4)
        assert min(levels) >= -0.1 and max(levels) <= 20.1 and max(levels) - min(levels) > 10

    def test_sources_keep_the_levels_of_the_law(self, utterances):
        for index in range(10):
            first, second = level_db(self.sampler(utterances).draw(index).sources)
            assert 0 <= first - second <= 5 + 1e-3

    def test_it_is_among_the_parameters(self, utterances):
        plain = MixtureSampler(utterances, 2, 8000, (0.2, 0.3)).parameters()
        assert "augmentation" not in plain  # as lists of mixtures on disk have it
        parameters = self.sampler(utterances).parameters()
        assert parameters == {**plain, "augmentation": MixtureAugmentation(**self.OPTIONS).parameters()}
        assert json.loads(json.dumps(parameters)) == parameters

    def test_it_needs_the_length_of_mixtures(self, utterances):
        with pytest.raises(ValueError, match="give the seconds of the mixtures"):
            MixtureSampler(utterances, 2, 8000, None, augmentation=MixtureAugmentation())
