"""Transcribed speech to tokens."""

from __future__ import annotations

import pytest
import torch
import torchaudio.functional

pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.codecs import EnCodec
from speechbrain_mamba.dataio import tokenize_speech as module
from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.codec_tokens import read_tokens
from speechbrain_mamba.dataio.recognition import write_transcripts

TEXTS = {"a": "one", "b": "two", "c": "one two", "d": "eleven", "e": "..."}


@pytest.fixture
def codec() -> EnCodec:
    """A small codec."""
    torch.manual_seed(0)
    codec = EnCodec(8000, (5, 4, 4), n_codebooks=2, codebook_size=16, dimension=8, n_filters=2)
    codec(torch.randn(4, 4000))
    return codec.eval()


@pytest.fixture
def manifests(tmp_path) -> dict:
    """Utterances of different lengths: one at another rate, and for the test a word and no word."""
    rows = []
    for index, name in enumerate(TEXTS):
        wav, rate = 0.1 * torch.randn(2000 + 700 * index), 16000 if name == "b" else 8000
        write_audio(tmp_path / f"{name}.wav", wav, rate)
        row = {"ID": name, "duration": len(wav) / rate, "wav": tmp_path / f"{name}.wav", "wrd": TEXTS[name]}
        rows.append(row | {"spk_id": f"speaker {name}"})
    write_transcripts(tmp_path / "train.csv", rows[:3])
    write_transcripts(tmp_path / "test.csv", rows[1:])
    return {split: tmp_path / f"{split}.csv" for split in ("train", "test")}


def test_tokens_are_those_of_each_utterance_alone(manifests, codec, tmp_path):
    counts = module.tokenize_speech(manifests, tmp_path / "tokens", codec, "small", kind="characters")
    assert counts == {"train": 3, "test": 2}  # letters of eleven, and dots, are not in the training texts
    items, codes, facts = read_tokens(tmp_path / "tokens", "train")
    assert (facts.codec, facts.frame_rate) == ("small", 100.0)
    assert items["c"]["spk_id"] == "speaker c" and items["c"]["wrd"] == "one two"
    for name in "abc":
        wav = module.read_audio(tmp_path / f"{name}.wav", 16000 if name == "b" else 8000)
        wav = torchaudio.functional.resample(wav, 16000, 8000) if name == "b" else wav
        expected, _ = codec.encode(wav[None])
        first, frames = items[name]["first_frame"], items[name]["frames"]
        assert (codes[first : first + frames] == expected[0].numpy()).all()


def test_a_killed_run_goes_on_and_a_completed_one_is_found_done(manifests, codec, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD", 1)
    whole, folder = tmp_path / "whole", tmp_path / "tokens"
    module.tokenize_speech(manifests, whole, codec, "small", kind="characters")
    encoded, encode = [], codec.encode

    def dies_at_the_third(*arguments):
        encoded.append(1)
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(codec, "encode", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        module.tokenize_speech(manifests, folder, codec, "small", kind="characters")
    assert not (folder / "train.csv").exists()
    module.tokenize_speech(manifests, folder, codec, "small", kind="characters")
    assert len(encoded) == 3 + 3  # two were kept, one is new, and the two of the test
    module.tokenize_speech(manifests, folder, codec, "small", kind="characters")
    assert len(encoded) == 6
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in folder.iterdir())
    for name in names:
        assert (whole / name).read_bytes() == (folder / name).read_bytes()


def test_what_cannot_be_read_is_left_out(manifests, codec, tmp_path, caplog):
    (tmp_path / "b.wav").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"b\.wav"):
        module.read_audio(tmp_path / "b.wav", 8000)
    counts = module.tokenize_speech(manifests, tmp_path / "tokens", codec, "small", kind="characters")
    assert counts == {"train": 2, "test": 1}
    assert "b is left out" in caplog.text


def test_a_file_that_is_missing_stops_it(manifests, codec, tmp_path):
    (tmp_path / "a.wav").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.wav"):
        module.tokenize_speech(manifests, tmp_path / "tokens", codec, "small", kind="characters")
