"""Mixtures, on the fly and on disk."""

import copy
import csv
import math

import pytest
import torch
from speechbrain.dataio.dataloader import make_dataloader

from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.corpus import Utterance, scan_speakers, write_utterances
from speechbrain_mamba.dataio.mixing import MixtureSampler, dynamic_mixtures, write_mixtures


@pytest.fixture
def utterances(tmp_path, make_speech):
    return scan_speakers(make_speech(tmp_path / "speech"), 8000)


def level_db(sources):
    rms = sources.square().mean(1).sqrt()
    return [20 * math.log10(rms[index] / rms[-1]) for index in range(len(rms))]


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
    also_anna = Utterance(silent.path, "anna", 8000)
    mixture = MixtureSampler([*utterances, also_anna], 3, 8000, (0.4, 0.4)).draw(0)
    assert mixture.sources.abs().max(1).values.min() > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
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


def files_below(folder):
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_mixtures_on_disk_are_kept_completed_or_made_anew(tmp_path, utterances):
    def write(seed=0):
        sampler = MixtureSampler(utterances, 2, 8000, (0.3, 0.6), seed)
        write_mixtures(sampler, 4, tmp_path / "out" / "test", tmp_path / "out" / "test.csv")
        return files_below(tmp_path / "out")

    first = write()
    assert write() == first
    row = read_rows(tmp_path / "out" / "test.csv")[2]
    (tmp_path / "out" / "test.csv").unlink()
    (tmp_path / "out" / "test" / "s1" / f"{row['ID']}.wav").rename(tmp_path / "out" / "test" / "s1" / ".half.wav")
    completed = write()
    assert {path: content for path, (content, _) in completed.items()} == {
        path: content for path, (content, _) in first.items()
    }
    assert sum(completed[path] != first[path] for path in first) == 2
    other = write(seed=1)
    assert not any(first[path] == other[path] for path in first.keys() & other.keys())
    assert len(other) == len(first)


def test_a_folder_of_other_files_is_left_alone(tmp_path, utterances):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="choose another folder"):
        write_mixtures(MixtureSampler(utterances, 2, 8000), 1, tmp_path / "mine", tmp_path / "test.csv")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
