"""Mixtures from the speech of several corpora."""

import json

import pytest
import torch

from speechbrain_mamba.corpora import joint as module
from speechbrain_mamba.corpora.joint import prepare_joint
from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.utterances import read_utterances
from tests.corpora.conftest import SMALL, speakers_of, write_noise, write_speakers


@pytest.fixture
def parts(tmp_path):
    """Of every corpus a few speakers, some with the same names."""
    for split in ("train", "valid", "test"):
        write_speakers(tmp_path / "tree" / split, ["anna", "ben"] if split == "train" else [f"{split}1", f"{split}2"])
    for speaker in ("anna", "theo"):
        for take in (0, 5, 10):
            write_noise(tmp_path / f"fsdd/recordings/3_{speaker}_{take}.wav")
    for number in range(10):
        write_audio(tmp_path / f"orders/{number}.wav", 0.1 * torch.randn(8000), 16000)
    return [
        {"corpus": "folder", "data_folder": str(tmp_path / "tree"), "splits": {"train": ["train", "test"]}},
        {"corpus": "speech_to_intent", "data_folder": str(tmp_path / "orders"),
         "splits": {"train": ["train"], "valid": ["valid", "test"]}},
        {"corpus": "fsdd", "data_folder": str(tmp_path / "fsdd"), "splits": {"test": ["test"]}},
    ]  # fmt: skip


def test_each_split_has_the_parts_that_it_is_given(parts, tmp_path):
    manifests = prepare_joint(parts, tmp_path / "out", dynamic_mixing=True, **SMALL)
    train = {utterance.speaker for utterance in read_utterances(manifests["train"], 8000)}
    tree = {f"folder-{name}" for name in ("anna", "ben", "test1", "test2")}
    assert tree < train
    assert len(train - tree) == 8 and all(name.startswith("speech_to_intent-") for name in train - tree)
    valid = speakers_of(manifests["valid"])
    assert not {f"speech_to_intent-{name.split('-')[-1]}" for name in valid} & train
    assert speakers_of(manifests["test"]) == {"fsdd-anna", "fsdd-theo"}


def test_speech_that_is_written_for_a_part_has_a_folder_of_its_own(parts, tmp_path):
    twice = [parts[1], {**parts[1], "splits": {"test": ["train"]}}]
    manifests = prepare_joint(twice, tmp_path / "out", dynamic_mixing=True, **SMALL)
    assert {path.name for path in (tmp_path / "out").glob("speech-*")} == {"speech-1", "speech-2"}
    assert {utterance.path.rsplit("/", 2)[1] for utterance in read_utterances(manifests["train"], 8000)} == {"speech-1"}


def test_other_parts_are_prepared_again_and_the_same_ones_are_kept(parts, tmp_path):
    first = prepare_joint(parts, tmp_path / "out", dynamic_mixing=True, **SMALL)["train"]
    written = first.stat().st_mtime_ns
    prepare_joint(parts, tmp_path / "out", dynamic_mixing=True, **SMALL)
    assert first.stat().st_mtime_ns == written
    fewer = [{**parts[0], "splits": {"train": ["train"]}}, *parts[1:]]
    prepare_joint(fewer, tmp_path / "out", dynamic_mixing=True, **SMALL)
    assert not any(utterance.speaker == "folder-test1" for utterance in read_utterances(first, 8000))
    settings = json.loads((tmp_path / "out" / "prepared.json").read_text())["settings"]
    assert settings["joint"][0]["splits"] == {"train": ["train"]}


def test_the_embedded_corpus_is_built_with_its_settings(parts, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(module, "build_mini_corpus", lambda folder, **options: built.append((folder, options)))
    mini = {**parts[0], "corpus": "mini"}
    prepare_joint([mini, *parts[1:]], tmp_path / "out", {"sentences": 3}, dynamic_mixing=True, **SMALL)
    assert built == [(mini["data_folder"], {"sample_rate": 8000, "sentences": 3})]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": "wsj0mix"}, "A joint corpus is 'wsj0mix', but must be one of folder, fsdd, mini, speech_to_intent"),
        ({"split": {}}, "must have the keys corpus, data_folder, splits"),
        ({"splits": {}}, "must say which of its parts each split gets"),
        ({"splits": ["train"]}, "must say which of its parts"),
        ({"splits": {"train": ["training"]}}, "must say which of its parts"),
        ({"splits": {"dev": ["train"]}}, "must say which of its parts"),
        ({"data_folder": "nowhere"}, "nowhere' does not exist"),
    ],
)
def test_what_cannot_be_joined_is_named(parts, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare_joint([{**parts[0], **change}, *parts[1:]], tmp_path / "out", dynamic_mixing=True, **SMALL)


def test_a_split_without_speech_is_named(parts, tmp_path):
    with pytest.raises(ValueError, match=r"The data for test cannot be mixed: .* 0 speaker"):
        prepare_joint(parts[:2], tmp_path / "out", dynamic_mixing=True, **SMALL)
