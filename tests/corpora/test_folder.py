"""Mixtures of a folder of speech."""

import json
import logging
from pathlib import Path

import pytest
import torch

from speechbrain_mamba.corpora.folder import prepare_folder, split_speakers
from speechbrain_mamba.corpora.mixtures import SPLITS
from speechbrain_mamba.dataio.dynamic_mixing import dynamic_mixtures
from speechbrain_mamba.dataio.mixture_dataset import separation_dataset
from speechbrain_mamba.dataio.utterances import Utterance, read_utterances
from tests.corpora.conftest import SMALL, speakers_of, write_noise, write_speakers


def people(count):
    """Utterances of many speakers, each with as many as its number."""
    return [Utterance(f"s{i:02d}/{j}.wav", f"s{i:02d}", 100) for i in range(count) for j in range(i + 1)]


def speakers_in(splits):
    return [{utterance.speaker for utterance in splits[split]} for split in SPLITS]


@pytest.mark.parametrize(
    ("count", "fractions", "num_spks", "sizes"),
    [
        (20, (0.6, 0.3, 0.1), 2, (12, 6, 2)),
        (20, (0.6, 0.1, 0.3), 2, (12, 2, 6)),
        (13, (0.5, 0.3, 0.2), 1, (6, 4, 3)),
        (20, (0.9, 0.05, 0.05), 3, (14, 3, 3)),  # as many as a mixture needs
        (9, (0.8, 0.1, 0.1), 3, (3, 3, 3)),
        (5, (1.0, 0.0, 0.0), 1, (3, 1, 1)),
    ],
)
def test_every_speaker_is_in_one_share_with_all_utterances(count, fractions, num_spks, sizes):
    utterances = people(count)
    splits = split_speakers(utterances, fractions, num_spks, seed=3)
    speakers = speakers_in(splits)
    assert tuple(map(len, speakers)) == sizes
    assert len(set.union(*speakers)) == count
    shared = [utterance for share in splits.values() for utterance in share]
    assert sorted(shared, key=utterances.index) == utterances
    for split in SPLITS:
        assert splits[split] == sorted(splits[split], key=utterances.index)


def test_the_seed_alone_decides_who_goes_where():
    utterances = people(12)
    shares = [speakers_in(split_speakers(utterances, (0.5, 0.25, 0.25), 2, seed)) for seed in range(30)]
    assert speakers_in(split_speakers(utterances[::-1], (0.5, 0.25, 0.25), 2, 5)) == shares[5]
    for split in range(3):
        assert set.union(*(share[split] for share in shares)) == {f"s{i:02d}" for i in range(12)}


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.5), (0.25, 0.25, 0.25, 0.25), (1.2, -0.1, -0.1), (0.7, 0.2, 0.2), (0.6, 0.2, 0.1)]
)
def test_fractions_that_are_no_shares_are_an_error(fractions):
    with pytest.raises(ValueError, match="three shares that add up to 1"):
        split_speakers(people(20), fractions, 2, 0)


def test_too_few_speakers_are_an_error():
    with pytest.raises(ValueError, match=r"have 8 speaker\(s\), .* need at least 9"):
        split_speakers(people(8), (0.8, 0.1, 0.1), 3, 0)
    with pytest.raises(ValueError, match="2 of them left for training"):
        split_speakers(people(10), (0.0, 0.5, 0.5), 2, 0)


def test_speakers_are_shared_out(tmp_path):
    data = write_speakers(tmp_path / "data", "abcdefgh")
    manifests = prepare_folder(data, tmp_path / "out", **SMALL)
    assert {split: path.name for split, path in manifests.items()} == {
        "train": "train.csv", "valid": "valid.csv", "test": "test.csv"
    }  # fmt: skip
    heard = {split: speakers_of(path) for split, path in manifests.items()}
    assert not (heard["train"] & heard["test"] or heard["train"] & heard["valid"] or heard["valid"] & heard["test"])
    for split, path in manifests.items():
        dataset = separation_dataset(path, 2, 8000)
        assert len(dataset) == SMALL[f"{split}_mixtures"]
        example = dataset[0]
        assert torch.equal(example["mix_sig"], example["s1_sig"] + example["s2_sig"])


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("train-clean-100", "dev-clean", "test-clean"), ("tr", "cv", "tt")]
)
def test_divided_data_stay_divided(tmp_path, names):
    for name, speakers in zip(names, ("abc", "de", "fg")):
        write_speakers(tmp_path / "data" / name, speakers)
    manifests = prepare_folder(tmp_path / "data", tmp_path / "out", **SMALL)
    assert [speakers_of(path) <= set(own) for path, own in zip(manifests.values(), ("abc", "de", "fg"))] == [True] * 3


def test_names_of_divided_data(tmp_path):
    """Any case, any number of folders for a split, and no folder that only looks like one."""
    data = tmp_path / "data"
    for name, speaker in (
        ("Train_other", "a"),
        ("TR", "b"),
        ("train-clean-100", "c"),
        ("Dev", "de"),
        ("EVAL", "fg"),
    ):
        for one in speaker:
            write_noise(data / name / one / "0.wav")
    write_noise(data / "trainer" / "x" / "0.wav")
    write_noise(data / ".train-old" / "y" / "0.wav")
    (data / "test.txt").touch()
    (data / "train").touch()
    manifests = prepare_folder(data, tmp_path / "out", dynamic_mixing=True, **SMALL)
    assert {utterance.speaker for utterance in read_utterances(manifests["train"], 8000)} == set("abc")
    assert speakers_of(manifests["valid"]) == set("de")
    assert speakers_of(manifests["test"]) == set("fg")


def test_a_name_that_begins_like_a_split_is_a_speaker(tmp_path):
    data = write_speakers(tmp_path / "data", ("trainer", "testament", "devon", "evaluator", "tracy", "cvetka"))
    manifests = prepare_folder(data, tmp_path / "out", **SMALL)
    assert len(set().union(*map(speakers_of, manifests.values()))) == 6


@pytest.mark.parametrize(
    ("fractions", "training"), [((), 24), ((0.6, 0.3, 0.1), 18), ((0.5, 0.1, 0.4), 15), ([0.3, 0.3, 0.4], 9)]
)
def test_shares_of_the_speakers(tmp_path, fractions, training):
    data, out = tmp_path / "data", tmp_path / "out"
    for i in range(30):
        write_noise(data / f"{i:02d}" / "0.wav", seconds=0.05)
    options = {"seconds": (0.02, 0.02), "train_mixtures": 1, "valid_mixtures": 1, "test_mixtures": 1}
    prepare_folder(data, out, dynamic_mixing=True, **options, **({"fractions": fractions} if fractions else {}))
    utterances = read_utterances(out / "train_utterances.csv", 8000)
    assert len({utterance.speaker for utterance in utterances}) == training
    settings = json.loads((out / "prepared.json").read_text())["settings"]
    assert settings["fractions"] == list(fractions or (0.8, 0.1, 0.1))


def test_the_seed_shares_the_speakers_out(tmp_path):
    data = write_speakers(tmp_path / "data", "abcdefghijkl", seconds=0.05)
    shares = set()
    for seed in (1, 2, 3):
        options = {**SMALL, "seconds": (0.02, 0.02), "dynamic_mixing": True, "seed": seed}
        manifests = prepare_folder(data, tmp_path / "out", **options)
        shares.add(frozenset(utterance.speaker for utterance in read_utterances(manifests["train"], 8000)))
    assert len(shares) == 3


def test_other_data_or_shares_are_prepared_anew(tmp_path, monkeypatch):
    for name, speakers in (("one", "abcdefgh"), ("two", "ijklmnop")):
        write_speakers(tmp_path / name, speakers, seconds=0.05)
    monkeypatch.chdir(tmp_path)

    def training(data, **options):
        options = {**SMALL, "seconds": (0.02, 0.02), "dynamic_mixing": True, **options}
        manifests = prepare_folder(data, "out", **options)
        assert all(path.is_absolute() for path in manifests.values())
        return {utterance.speaker for utterance in read_utterances(manifests["train"], 8000)}

    assert len(training("one")) == 4
    assert training("two") <= set("ijklmnop")
    assert len(training("two", fractions=(0.3, 0.4, 0.3))) == 3
    assert json.loads(Path("out/prepared.json").read_text())["settings"]["data_folder"] == str(tmp_path / "two")


def test_dynamic_mixing_lists_the_training_speech(tmp_path):
    data = write_speakers(tmp_path / "data", "abcdefghijk")
    manifests = prepare_folder(data, tmp_path / "out", num_spks=3, dynamic_mixing=True, **SMALL)
    assert manifests["train"].name == "train_utterances.csv"
    assert not (tmp_path / "out" / "train.csv").exists()
    assert len({utterance.speaker for utterance in read_utterances(manifests["train"], 8000)}) == 5
    example = dynamic_mixtures(manifests["train"], 2, 3, 8000, (0.3, 0.5))[1]
    assert torch.allclose(example["mix_sig"], example["s1_sig"] + example["s2_sig"] + example["s3_sig"], atol=1e-6)
    assert len(separation_dataset(manifests["test"], 3, 8000)) == 2


def test_a_second_run_keeps_and_another_setting_makes_anew(tmp_path, caplog):
    data = write_speakers(tmp_path / "data", "abcdefgh")

    def mixtures(**settings):
        prepare_folder(data, tmp_path / "out", **{**SMALL, **settings})
        return {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    first = mixtures()
    times = {path: path.stat().st_mtime_ns for path in first}
    with caplog.at_level(logging.INFO):
        assert mixtures() == first
    assert "Prepared already" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in first} == times
    assert mixtures(seed=2) != first
    assert mixtures() == first
    (tmp_path / "out" / "mixtures" / "test" / "mix").rename(tmp_path / "gone")
    assert mixtures() == first


def test_bad_data_are_named(tmp_path, caplog):
    with pytest.raises(FileNotFoundError, match=r"does not exist: it should hold speaker/\*\*/\*.wav"):
        prepare_folder(tmp_path / "missing", tmp_path / "out")
    data = write_speakers(tmp_path / "data", "abcdef")
    with pytest.raises(ValueError, match="16000 Hz are wanted"):
        prepare_folder(data, tmp_path / "out", sample_rate=16000)
    with pytest.raises(ValueError, match=r"have 6 speaker\(s\), .* mixtures of 3 speakers need at least 9"):
        prepare_folder(data, tmp_path / "out", num_spks=3)
    with pytest.raises(ValueError, match="add up to 1"):
        prepare_folder(data, tmp_path / "out", fractions=(0.5, 0.1, 0.1))
    write_speakers(data / "train", "ab")
    with pytest.raises(ValueError, match="no folder for valid and test"):
        prepare_folder(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_split_with_too_few_speakers_is_named(tmp_path):
    for name, speakers in (("train", "abc"), ("valid", "d"), ("test", "ef")):
        write_speakers(tmp_path / "data" / name, speakers)
    with pytest.raises(ValueError, match=r"data for valid cannot be mixed: num_spks is 2, .* 1 speaker"):
        prepare_folder(tmp_path / "data", tmp_path / "out", **SMALL)


def test_a_corrupt_file_is_named_and_skipped(tmp_path, caplog):
    data = write_speakers(tmp_path / "data", "abcdef")
    (data / "a" / "empty.wav").write_bytes(b"")
    prepare_folder(data, tmp_path / "out", **SMALL)
    assert "empty.wav" in caplog.text
