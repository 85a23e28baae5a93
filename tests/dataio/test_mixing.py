"""Mixtures, on the fly and on disk."""

import copy
import csv
import json
import math
from collections import Counter

import pytest
import soundfile
import torch
from speechbrain.dataio.dataloader import make_dataloader

from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.mixing import MixtureSampler, dynamic_mixtures, is_complete, write_mixtures
from speechbrain_mamba.dataio.utterances import Utterance, scan_speakers, write_utterances


@pytest.fixture
def utterances(tmp_path, make_speech):
    return scan_speakers(make_speech(tmp_path / "speech"), 8000)


VOICES = {"anna": 2, "ben": 5, "carl": 11, "dora": 23}


@pytest.fixture
def voices(tmp_path):
    """Speech of constant power, so that each part of it has the same level; the time between changes of sign tells the
    speaker. Anna says more than the others."""
    found = []
    for speaker, period in VOICES.items():
        for index in range(4 if speaker == "anna" else 1):
            signal = 0.1 * (1 - 2 * (torch.arange(2000 + 300 * index) // period % 2))
            found.append(add_speech(tmp_path / "voices", speaker, signal, f"{index}.wav"))
    return found


def add_speech(folder, speaker, signal, name="0.wav", **options):
    path = folder / speaker / name
    write_audio(path, signal, 8000, **options)
    return Utterance(str(path), speaker, len(signal))


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
    sampler = MixtureSampler(voices, 4, 8000, (0.01, 0.01), level_db=largest)
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
        levels = level_db(MixtureSampler(voices, 3, 8000, (0.01, 0.01), level_db=0.0).draw(index).sources)
        assert levels == pytest.approx([0, 0, 0], abs=1e-4)


@pytest.mark.parametrize(("sign", "mix", "source"), [(-1, 0.0, 0.9), (1, 0.9, 0.45)])
def test_the_loudest_of_sources_and_mixture_has_the_peak(tmp_path, sign, mix, source):
    ramp = torch.linspace(0.1, 0.3, 400)
    speech = [add_speech(tmp_path, "anna", ramp), add_speech(tmp_path, "ben", sign * ramp)]
    mixture = MixtureSampler(speech, 2, 8000, (0.05, 0.05), level_db=0).draw(0)
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


DIFFERENT = {"num_spks": 3, "sample_rate": 8001, "seconds": (0.5, 0.6), "seed": 2, "level_db": 4.0}


@pytest.mark.parametrize("name", DIFFERENT)
def test_parameters_tell_samplers_apart(voices, name):
    same = {"num_spks": 2, "sample_rate": 8000, "seconds": (0.5, 0.5), "seed": 1, "level_db": 5.0, "cache_bytes": 0}
    parameters = MixtureSampler(voices, **same).parameters()
    assert json.loads(json.dumps(parameters)) == parameters
    assert MixtureSampler(voices[::-1], **{**same, "cache_bytes": 1}).parameters() == parameters
    assert MixtureSampler(voices, **{**same, name: DIFFERENT[name]}).parameters() != parameters
    assert MixtureSampler(voices, **{**same, "seconds": None}).parameters()["seconds"] is None


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
    with pytest.raises(ValueError, match="speaker 'silent' is silent"):
        MixtureSampler([silent], 1, 8000, seconds=None).draw(0)
    also_anna = Utterance(silent.path, "anna", 8000)
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


def test_dynamic_mixtures_are_the_same_in_workers_and_follow_the_epoch(tmp_path, utterances):
    write_utterances(tmp_path / "train_utterances.csv", utterances, 8000)
    dataset = dynamic_mixtures(tmp_path / "train_utterances.csv", 6, 2, 8000, (0.3, 0.6), seed=5)
    here = dynamic_mixtures(utterances, 6, 2, 8000, (0.3, 0.6), seed=5)
    loader = make_dataloader(dataset, batch_size=1, num_workers=2, persistent_workers=True)
    seen = {}
    for epoch in (1, 2, 1):
        dataset.set_epoch(epoch)
        here.set_epoch(epoch)
        batches = [(batch.id[0], batch.mix_sig.data[0], batch.s1_sig.data[0], batch.s2_sig.data[0]) for batch in loader]
        assert [batch[0] for batch in batches] == [here[index]["id"] for index in range(6)]
        for index, (_, mix, first, second) in enumerate(batches):
            assert torch.equal(mix, first + second)
            assert torch.equal(mix, here[index]["mix_sig"])
        seen[epoch] = batches[0][1]
    assert seen[1].shape != seen[2].shape or not torch.equal(seen[1], seen[2])


def test_each_epoch_draws_other_mixtures_and_a_resumed_one_its_own(voices):
    def make(**options):
        return dynamic_mixtures(voices, 5, 3, 8000, (0.05, 0.06), **options)

    dataset, seen = make(seed=4), []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        seen += [dataset[index]["mix_sig"] for index in range(5)]
    assert len(dataset) == 5
    assert len({tuple(mix.tolist()) for mix in seen}) == 20
    resumed = make(seed=4)
    assert torch.equal(resumed[1]["mix_sig"], seen[1])  # of epoch 0
    resumed.set_epoch(3)
    for index in (4, 0, 2):
        assert torch.equal(resumed[index]["mix_sig"], seen[15 + index])
    default = dynamic_mixtures(voices, 3, 2, 8000)
    assert torch.equal(default[2]["mix_sig"], MixtureSampler(voices, 2, 8000, (2.0, 4.0), 0).draw(2).mix)
    assert not torch.equal(make(seed=5)[2]["mix_sig"], seen[2])


def test_items_are_the_mixtures_of_their_index(voices):
    dataset = dynamic_mixtures(voices, 12, 3, 8000, None, seed=2)
    dataset.set_epoch(6)
    mixture, item = MixtureSampler(voices, 3, 8000, None, seed=2).draw(11, epoch=6), dataset[11]
    assert list(item) == ["id", "mix_sig", "s1_sig", "s2_sig", "s3_sig"]
    assert item["id"] == "mixture_000011"
    assert torch.equal(item["mix_sig"], mixture.mix)
    for source, name in zip(mixture.sources, ("s1_sig", "s2_sig", "s3_sig")):
        assert torch.equal(item[name], source)


def test_a_selection_of_dynamic_mixtures_follows_the_epoch_too(utterances):
    dataset = dynamic_mixtures(utterances, 6, 3, 8000, (0.5, 0.5))
    selection = dataset.filtered_sorted(select_n=2)
    dataset.set_epoch(4)
    assert torch.equal(selection[1]["s3_sig"], dataset[1]["s3_sig"])
    assert copy.deepcopy(dataset._items) is dataset._items
    with pytest.raises(ValueError, match="at least 1"):
        dynamic_mixtures(utterances, 0, 2, 8000)


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_mixtures_on_disk_add_up_exactly(tmp_path, utterances):
    write_mixtures(MixtureSampler(utterances, 3, 8000, (0.3, 0.6)), 4, tmp_path / "test", tmp_path / "test.csv")
    rows = read_rows(tmp_path / "test.csv")
    assert list(rows[0]) == ["ID", "duration", "mix_wav", "s1_wav", "s2_wav", "s3_wav"]
    assert len({row["ID"] for row in rows}) == 4
    for row in rows:
        mix, *sources = (read_audio(row[f"{name}_wav"], 8000) for name in ("mix", "s1", "s2", "s3"))
        assert torch.equal(mix, sum(sources))
        assert float(row["duration"]) == len(mix) / 8000


def test_files_hold_what_was_drawn(tmp_path, voices):
    sampler = MixtureSampler(voices, 3, 8000, (0.05, 0.1), seed=9)
    write_mixtures(sampler, 3, tmp_path / "out" / "valid", tmp_path / "lists" / "valid.csv")
    rows = read_rows(tmp_path / "lists" / "valid.csv")
    for index, row in enumerate(rows):
        mixture = sampler.draw(index)
        assert row["ID"] == "_".join([f"{index:06d}", *mixture.speakers])
        for name, source in zip(("s1", "s2", "s3"), mixture.sources):
            assert row[f"{name}_wav"] == str(tmp_path / "out" / "valid" / name / f"{row['ID']}.wav")
            torch.testing.assert_close(read_audio(row[f"{name}_wav"], 8000), source, atol=0.51 / 32768, rtol=0)
        assert soundfile.info(row["mix_wav"]).subtype == "PCM_16"
    assert len(rows) == 3
    with pytest.raises(ValueError, match="number of mixtures is 0, but must be at least 1"):
        write_mixtures(sampler, 0, tmp_path / "none", tmp_path / "none.csv")


def test_a_list_is_complete_with_its_last_file(tmp_path, voices):
    manifest = tmp_path / "test.csv"
    assert not is_complete(manifest)
    write_mixtures(MixtureSampler(voices, 3, 8000, (0.05, 0.1)), 2, tmp_path / "test", manifest)
    for row in read_rows(manifest):
        for name in ("mix_wav", "s1_wav", "s3_wav"):
            assert is_complete(manifest)
            (tmp_path / "test" / row[name]).rename(tmp_path / "away.wav")
            assert not is_complete(manifest)
            (tmp_path / "away.wav").rename(tmp_path / "test" / row[name])


@pytest.mark.parametrize("same", [True, False])
def test_an_interrupted_list_goes_on_with_the_same_parameters_alone(tmp_path, voices, same):
    def write(seed, count=3, fail_at=None):
        sampler = MixtureSampler(voices, 2, 8000, (0.05, 0.1), seed)
        draw = sampler.draw
        sampler.draw = lambda index: draw(index / 0 if index == fail_at else index)
        write_mixtures(sampler, count, tmp_path / "out", tmp_path / "out.csv")
        return {path: content for path, (content, _) in files_below(tmp_path / "out").items()}

    expected = write(seed=3)
    write(seed=1)
    with pytest.raises(ZeroDivisionError):
        write(seed=3 if same else 2, fail_at=2)
    assert not (tmp_path / "out.csv").exists()
    begun = files_below(tmp_path / "out")
    assert write(seed=3) == expected
    kept = [path for path, state in files_below(tmp_path / "out").items() if state == begun.get(path)]
    assert bool(kept) == same
    assert len(write(seed=3, count=2)) < len(expected)


def files_below(folder):
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_mixtures_on_disk_are_kept_completed_or_made_anew(tmp_path, utterances, caplog):
    caplog.set_level("INFO")

    def write(seed=0):
        sampler = MixtureSampler(utterances, 2, 8000, (0.3, 0.6), seed)
        write_mixtures(sampler, 4, tmp_path / "out" / "test", tmp_path / "out" / "test.csv")
        return files_below(tmp_path / "out")

    (tmp_path / "out" / "test").mkdir(parents=True)  # which an empty folder is no hindrance to
    first = write()
    assert not caplog.records
    assert write() == first
    assert "are there already" in caplog.text
    row = read_rows(tmp_path / "out" / "test.csv")[2]
    (tmp_path / "out" / "test.csv").unlink()
    (tmp_path / "out" / "test" / "s1" / f"{row['ID']}.wav").rename(tmp_path / "out" / "test" / "s1" / ".half.wav")
    completed = write()
    assert {path: content for path, (content, _) in completed.items()} == {
        path: content for path, (content, _) in first.items()
    }
    assert sum(completed[path] != first[path] for path in first) == 2
    other = write(seed=1)
    assert "are made anew" in caplog.text
    assert not any(first[path] == other[path] for path in first.keys() & other.keys())
    assert len(other) == len(first)


def test_a_folder_of_other_files_is_left_alone(tmp_path, utterances):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="choose another folder"):
        write_mixtures(MixtureSampler(utterances, 2, 8000), 1, tmp_path / "mine", tmp_path / "test.csv")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
