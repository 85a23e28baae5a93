"""Manifests of LibriSpeech and LibriTTS."""

import csv
import logging

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.librispeech import prepare_librispeech, prepare_libritts


def write_librispeech(chapter):
    write_audio(chapter / "7-1-0000.flac", torch.rand(1600), sample_rate=16000)
    (chapter / "7-1-0001.wav").write_text("no audio")
    (chapter / "7-1.trans.txt").write_text("7-1-0000 HELLO THERE\n7-1-0001 GOOD\n7-1-0002 GONE\n")


def write_libritts(chapter):
    write_audio(chapter / "7-1-0000.wav", torch.rand(1600), sample_rate=16000)
    (chapter / "7-1-0001.wav").write_text("no audio")
    for number, text in enumerate(("HELLO THERE\n", "GOOD", "GONE")):
        (chapter / f"7-1-000{number}.normalized.txt").write_text(text)
        (chapter / f"7-1-000{number}.original.txt").write_text("not this one")


LAYOUTS = [(write_librispeech, prepare_librispeech), (write_libritts, prepare_libritts)]


@pytest.mark.parametrize(("write", "prepare"), LAYOUTS)
def test_manifests_list_what_can_be_used_and_are_kept(tmp_path, caplog, write, prepare):
    (tmp_path / "data/part/7/1").mkdir(parents=True)
    write(tmp_path / "data/part/7/1")
    with caplog.at_level(logging.WARNING):
        files = prepare(tmp_path / "data", tmp_path / "lists", {"test": ["part"]}, 16000)
    assert "7-1-0001" in caplog.text and "names '7-1-0002', of which there is no audio" in caplog.text
    with open(files["test"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["ID"], row["wrd"], row["spk_id"], float(row["duration"])) for row in rows] == [
        ("7-1-0000", "HELLO THERE", "7", 0.1)
    ]
    before = files["test"].stat().st_mtime_ns
    prepare(tmp_path / "data", tmp_path / "lists", {"test": ["part"]}, 16000)
    assert files["test"].stat().st_mtime_ns == before


@pytest.mark.parametrize(("write", "prepare"), LAYOUTS)
def test_what_is_missing_is_named(tmp_path, write, prepare):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*train-clean-100"):
        prepare(tmp_path, tmp_path / "lists")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no transcribed speech"):
        prepare(tmp_path, tmp_path / "lists", {"test": ["empty"]})
