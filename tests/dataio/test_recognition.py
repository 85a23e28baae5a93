"""Manifests of transcribed speech, what of them is left out, datasets of it."""

import json
import logging

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.recognition import (
    encoder_frames,
    read_transcripts,
    recognition_dataset,
    select_usable,
    write_transcripts,
)
from speechbrain_mamba.dataio.tokenizer import FILE_NAME, train_tokenizer

ROW = {"ID": "a", "duration": 0.5, "wav": "$data_root/a.wav", "wrd": "ABBA", "spk_id": "x"}


@pytest.fixture
def tokenizer(tmp_path):
    return train_tokenizer(tmp_path / FILE_NAME, ["ABBA", "ABAB"], vocab_size=6, token_type="char")


def test_csv_and_json_manifests_are_the_same(tmp_path):
    write_transcripts(tmp_path / "a.csv", [ROW])
    (tmp_path / "a.json").write_text(json.dumps({"a": {key: value for key, value in ROW.items() if key != "ID"}}))
    expected = {"a": {"duration": 0.5, "wav": "/data/a.wav", "wrd": "ABBA", "spk_id": "x"}}
    assert read_transcripts(tmp_path / "a.csv", "/data") == read_transcripts(tmp_path / "a.json", "/data") == expected


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "a", "must be a .csv or .json file"),
        ("a.csv", "ID,duration,wav,wrd\n", "lists no utterance"),
        ("a.csv", "id,duration,wav,wrd\na,1,a.wav,A\n", "has no column 'ID'"),
        ("a.csv", "ID,duration,wav\na,1,a.wav\n", "has no 'wrd' for 'a'"),
        ("a.csv", "ID,duration,wav,wrd\na,1,a.wav,A\na,1,a.wav,A\n", "has the id 'a' twice"),
        ("a.csv", "ID,duration,wav,wrd\na,long,a.wav,A\n", "has the duration 'long' for 'a'"),
        ("a.csv", "ID,duration,wav,wrd\na,1,$data_root/a.wav,A\n", "set data_root"),
        ("a.json", "{", "is no valid JSON"),
        ("a.json", "[1]", "must map each id"),
    ],
)
def test_manifest_errors(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message.replace("$", r"\$")):
        read_transcripts(tmp_path / name)


def test_missing_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: prepare the data first"):
        read_transcripts(tmp_path / "a.csv")


def test_unusable_utterances_are_named(tokenizer, caplog):
    items = {
        "good": {"duration": 1.0, "wrd": "AB"},
        "empty": {"duration": 1.0, "wrd": " "},
        "strange": {"duration": 1.0, "wrd": "AÉ"},
        "short": {"duration": 0.1, "wrd": "AAA"},
        "silent": {"duration": 0.0, "wrd": "AB"},
    }

    def frames(item):
        return encoder_frames(item["duration"], 16000, 160)

    with caplog.at_level(logging.WARNING):
        assert list(select_usable(items, tokenizer, "utterances", frames)) == ["good"]
    text = caplog.text
    assert "Left out 1 of 5 utterances with an empty transcript: empty." in text
    assert "with characters that the tokenizer does not know: strange." in text
    assert "with fewer frames than their transcript needs for CTC: short." in text
    assert "with no audio: silent." in text
    assert list(select_usable(items, tokenizer, "utterances")) == ["good", "strange", "short"]
    with pytest.raises(ValueError, match="None of the 1 utterances can be used: 1 with an empty transcript"):
        select_usable({"empty": items["empty"]}, tokenizer, "utterances")


@pytest.mark.parametrize("seconds", [0.03, 0.1, 1.0, 1.23, 20.0])
def test_encoder_frames_are_those_of_the_front_end(seconds):
    from speechbrain.lobes.features import Fbank

    from speechbrain_mamba.lobes.models.convolution import ConvolutionFrontEnd

    frontend = ConvolutionFrontEnd((8, 10, 80), 2, 1, (4, 4), (3, 3), (2, 2), residuals=(False, False))
    feats = Fbank(n_mels=80)(torch.randn(1, round(seconds * 16000)))
    assert frontend(feats).shape[1] == encoder_frames(seconds, 16000, 160)


def test_dataset(tokenizer, tmp_path):
    write_audio(tmp_path / "a.wav", torch.ones(800) / 2, sample_rate=8000)
    item = {"duration": 0.1, "wav": str(tmp_path / "a.wav"), "wrd": "AB"}
    dataset = recognition_dataset({"a": item}, tokenizer, 8000, speed_perturb=lambda signal: signal[:, ::2])
    example = dataset[0]
    assert example["sig"].shape == (400,) and example["wrd"] == "AB" and example["id"] == "a"
    assert tokenizer.decode(example["tokens"].tolist()) == "AB"
    assert example["tokens_bos"].tolist() == [1, *example["tokens"].tolist()]
    assert example["tokens_eos"].tolist() == [*example["tokens"].tolist(), 2]
