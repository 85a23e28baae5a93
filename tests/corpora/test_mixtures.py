"""Preparations of mixtures: what is made again, and their options."""

import argparse
import json
from dataclasses import asdict, fields, replace

import pytest

from speechbrain_mamba.corpora import mixtures as module
from speechbrain_mamba.corpora.mixtures import SPLITS, MixtureSettings, add_mixture_options, prepare_mixtures
from speechbrain_mamba.dataio.audio import audio_info
from speechbrain_mamba.dataio.utterances import Utterance, read_utterances, scan_speakers

SMALL = MixtureSettings(seconds=(0.2, 0.4), train_mixtures=3, valid_mixtures=2, test_mixtures=1, seed=7)


@pytest.fixture
def prepare(tmp_path, make_speech):
    """Prepare mixtures of two splits' worth of speakers; the answer says whether there was something to make."""
    speech = scan_speakers(make_speech(tmp_path / "speech", ("anna", "ben", "carl", "dora"), sample_rate=8000), 8000)
    splits = dict(zip(SPLITS, (speech, speech[:6], speech[2:])))

    def run(settings=SMALL, source=(), splits=splits):
        made = []
        manifests = prepare_mixtures(tmp_path / "out", settings, dict(source), lambda: made.append(1) or splits)
        return manifests, bool(made)

    run.splits = splits
    return run


def wavs(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.wav"))}


def test_each_split_has_its_speech_count_and_draws(prepare, tmp_path):
    manifests, made = prepare()
    assert made
    assert manifests == {split: tmp_path / "out" / f"{split}.csv" for split in SPLITS}
    mixtures = {split: sorted((tmp_path / "out" / "mixtures" / split / "mix").iterdir()) for split in SPLITS}
    assert {split: len(paths) for split, paths in mixtures.items()} == {"train": 3, "valid": 2, "test": 1}
    assert len({path.read_bytes() for paths in mixtures.values() for path in paths}) == 6
    for paths in mixtures.values():
        assert all(0.2 <= audio_info(path, 8000).seconds <= 0.4 for path in paths)
    heard = {split: {name for path in paths for name in path.stem.split("_")[1:]} for split, paths in mixtures.items()}
    assert "dora" not in heard["valid"] and "anna" not in heard["test"]


def test_splits_of_the_same_speech_have_other_mixtures(prepare):
    same = dict.fromkeys(SPLITS, prepare.splits["train"])
    manifests, _ = prepare(replace(SMALL, train_mixtures=4, valid_mixtures=4, test_mixtures=4), splits=same)
    stamps = [
        json.loads(path.read_text())["settings"] for path in manifests["train"].parent.glob("mixtures/*/mixtures.json")
    ]
    assert len({stamp["seed"] for stamp in stamps}) == 3
    waves = [path.read_bytes() for path in manifests["train"].parent.glob("mixtures/*/mix/*.wav")]
    assert len(set(waves)) == 12


def test_with_dynamic_mixing_the_speech_is_listed_and_not_read(prepare, tmp_path):
    speech = [Utterance(f"/away/{speaker}.wav", speaker, 8000) for speaker in ("anna", "ben")]
    manifests, _ = prepare(replace(SMALL, dynamic_mixing=True), splits={**prepare.splits, "train": speech})
    assert manifests["train"] == tmp_path / "out" / "train_utterances.csv"
    assert read_utterances(manifests["train"], 8000) == speech
    assert sorted(path.name for path in (tmp_path / "out" / "mixtures").iterdir()) == ["test", "valid"]


OTHERS = {
    "num_spks": 3, "seconds": (0.2, 0.3), "train_mixtures": 4, "valid_mixtures": 3, "test_mixtures": 2,
    "dynamic_mixing": True, "seed": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_every_setting_that_changes_makes_anew(prepare, tmp_path, name):
    prepare()
    before = wavs(tmp_path / "out")
    assert not prepare()[1]
    assert prepare(replace(SMALL, **{name: OTHERS[name]}))[1]
    assert (tmp_path / "out" / "prepared.json").is_file()
    if name != "dynamic_mixing":
        assert wavs(tmp_path / "out") != before
    assert prepare()[1]
    assert wavs(tmp_path / "out") == before


def test_another_rate_or_source_makes_anew(prepare, tmp_path):
    prepare(source={"fsdd": "a"})
    assert not prepare(source={"fsdd": "a"})[1]
    assert prepare(source={"fsdd": "b"})[1]
    with pytest.raises(ValueError, match="16000 Hz are wanted"):
        prepare(replace(SMALL, sample_rate=16000), {"fsdd": "b"})
    stamp = {"sample_rate", "fsdd", *(field.name for field in fields(MixtureSettings))}
    prepare(source={"fsdd": "b"})
    assert set(json.loads((tmp_path / "out" / "prepared.json").read_text())["settings"]) == stamp


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "mixtures/valid/s2", "mixtures/test/mix"])
def test_what_is_missing_is_made_again(prepare, tmp_path, name):
    prepare()
    before = wavs(tmp_path / "out")
    (tmp_path / "out" / name).rename(tmp_path / "gone")
    assert prepare()[1]
    assert wavs(tmp_path / "out") == before
    assert (tmp_path / "out" / name).exists()


def test_a_preparation_that_fails_leaves_the_former_one(prepare, tmp_path):
    prepare()
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="The data for test cannot be mixed"):
        prepare(replace(SMALL, seed=20), splits={**prepare.splits, "test": []})
    with pytest.raises(ValueError, match="valid_mixtures is 0, but must be at least 1"):
        prepare(replace(SMALL, valid_mixtures=0))
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert not prepare()[1]


def no_space(*_):
    raise OSError("The disk is full.")


def test_an_interrupted_preparation_leaves_no_mark_of_an_earlier_one(prepare, monkeypatch):
    dynamic = replace(SMALL, dynamic_mixing=True)
    prepare(dynamic)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk is full"):
        patch.setattr(module, "write_mixtures", no_space)
        prepare(replace(SMALL, seed=20))
    manifests, made = prepare(dynamic)
    assert made
    assert json.loads((manifests["valid"].parent / "mixtures/valid/mixtures.json").read_text())["settings"]["seed"] == 8


def parse(*options):
    parser = argparse.ArgumentParser()
    add_mixture_options(parser)
    return vars(parser.parse_args(options))


def test_every_setting_is_an_option():
    assert MixtureSettings(**parse()) == MixtureSettings()
    assert {**parse(), "seconds": (2.0, 4.0)} == asdict(MixtureSettings())
    options = "--num_spks 3 --sample_rate 16000 --seconds 1 2.5 --train_mixtures 5 --valid_mixtures 6"
    options += " --test_mixtures 7 --dynamic_mixing --seed 9"
    assert MixtureSettings(**parse(*options.split())) == MixtureSettings(3, 16000, (1.0, 2.5), 5, 6, 7, True, 9)


def test_every_option_is_explained():
    parser = argparse.ArgumentParser()
    add_mixture_options(parser)
    assert not [action.option_strings for action in parser._actions if not action.help]


def test_defaults_are_those_of_the_docs():
    assert asdict(MixtureSettings()) == {
        "num_spks": 2, "sample_rate": 8000, "seconds": (2.0, 4.0), "train_mixtures": 2000, "valid_mixtures": 200,
        "test_mixtures": 200, "dynamic_mixing": False, "seed": 1234,
    }  # fmt: skip
    assert MixtureSettings(seconds=[1, 2]).seconds == (1, 2)
    assert MixtureSettings(seconds=None).seconds is None
