"""Lists of utterances."""

import csv
import logging
from pathlib import Path

import pytest

from speechbrain_mamba.corpora.wsj0mix import wsj0_speaker
from speechbrain_mamba.dataio.utterances import (
    Utterance,
    find_audio,
    read_utterances,
    scan_speakers,
    write_utterances,
)


def test_every_file_has_its_speaker_and_length(tmp_path, make_speech):
    make_speech(tmp_path, ("anna", "ben"), (0.5, 0.25))
    (tmp_path / ".hidden").mkdir()
    make_speech(tmp_path / ".hidden", ("carl",))
    found = scan_speakers(tmp_path, 8000)
    assert [(utterance.speaker, utterance.samples) for utterance in found] == [
        ("anna", 4000), ("anna", 2000), ("ben", 4000), ("ben", 2000)
    ]  # fmt: skip


def test_audio_is_found_at_any_depth_and_through_links(tmp_path):
    names = ["b/2.wav", "b/1.FLAC", "a/x/y/3.wav", "top.WAV"]
    for name in [*names, "a/notes.txt", "b/.2.wav", ".git/4.wav", "b/wav", "b/5.wav.gz"]:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "data" / "a" / "x")
    assert find_audio(tmp_path / "data") == sorted(Path(name) for name in [*names, "link/y/3.wav"])


def test_paths_of_utterances_hold_from_any_folder(tmp_path, make_speech, monkeypatch):
    make_speech(tmp_path / "data", ("ben", "anna"), (0.1,))
    (tmp_path / "data" / "ben" / "book").mkdir()
    (tmp_path / "data" / "ben" / "0.wav").rename(tmp_path / "data" / "ben" / "book" / "9.wav")
    monkeypatch.chdir(tmp_path)
    assert scan_speakers("data", 8000) == [
        Utterance(str(tmp_path / "data/anna/0.wav"), "anna", 800),
        Utterance(str(tmp_path / "data/ben/book/9.wav"), "ben", 800),
    ]


def test_the_speaker_may_be_in_the_name(tmp_path, make_speech):
    make_speech(tmp_path, ("011c0201", "011c0202", "01aa0101"), (0.1,))
    for folder in list(tmp_path.iterdir()):
        (folder / "0.wav").rename(tmp_path / f"{folder.name}.wav")
    assert {utterance.speaker for utterance in scan_speakers(tmp_path, 8000, wsj0_speaker)} == {"011", "01a"}
    assert len(scan_speakers(tmp_path, 8000, lambda path: "x" if path.name.startswith("01a") else None)) == 1


def test_bad_files_are_named_and_skipped(tmp_path, make_speech, caplog):
    make_speech(tmp_path, ("anna",))
    (tmp_path / "anna" / "bad.wav").write_text("no audio")
    with caplog.at_level(logging.WARNING):
        assert len(scan_speakers(tmp_path, 8000)) == 2
    assert "bad.wav" in caplog.text
    assert "Skipped 1 of 3 files (1 not audio)" in caplog.text


def test_no_usable_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no \.wav or \.flac file"):
        scan_speakers(tmp_path, 8000)
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "bad.wav").write_text("no audio")
    with pytest.raises(ValueError, match=r"none of its 1 audio files can be used \(1 not audio\)"):
        scan_speakers(tmp_path, 8000)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        scan_speakers(tmp_path / "missing", 8000)


def test_another_rate_is_an_error(tmp_path, make_speech):
    make_speech(tmp_path, sample_rate=16000)
    with pytest.raises(ValueError, match="16000 Hz, but 8000 Hz are wanted"):
        scan_speakers(tmp_path, 8000)


def test_a_file_outside_of_the_speakers_folders_is_an_error(tmp_path, make_speech):
    make_speech(tmp_path)
    (tmp_path / "anna" / "0.wav").rename(tmp_path / "stray.wav")
    with pytest.raises(ValueError, match=r"stray\.wav' lies in no speaker's folder"):
        scan_speakers(tmp_path, 8000)


def test_skipped_files_are_counted_only_where_there_are_some(tmp_path, make_speech, caplog):
    with caplog.at_level(logging.WARNING):
        scan_speakers(make_speech(tmp_path), 8000, lambda path: None if "ben" in path.parts else path.parts[0])
    assert not caplog.records


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_lists_survive_the_disk_with_ids_of_their_own(tmp_path):
    utterances = [
        Utterance("/a/x/1.wav", "anna", 8001),
        Utterance("/a/y/1.wav", "anna", 333),
        Utterance("/a/y/1_3.wav", "anna", 334),
        Utterance("/a/z/1.wav", "anna", 335),
        Utterance("/a/z/1_2.wav", "anna", 336),
        Utterance("/a_b.wav", "anna_b", 337),
        Utterance("/b,c.wav", "jürgen", 7),
    ]
    write_utterances(tmp_path / "list.csv", utterances, 16000)
    assert read_utterances(tmp_path / "list.csv", 16000) == utterances
    rows = read_rows(tmp_path / "list.csv")
    assert rows[0] == {"ID": "anna_1", "duration": str(8001 / 16000), "wav": "/a/x/1.wav", "spk_id": "anna"}
    assert (rows[1]["ID"], rows[-1]["ID"]) == ("anna_1_2", "jürgen_b,c")
    assert len({row["ID"] for row in rows}) == len(rows)


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100])
def test_every_length_survives_the_disk(tmp_path, sample_rate):
    utterances = [Utterance(f"/{samples}.wav", "anna", samples) for samples in range(1, 3000, 7)]
    write_utterances(tmp_path / "list.csv", utterances, sample_rate)
    assert read_utterances(tmp_path / "list.csv", sample_rate) == utterances


def test_a_list_that_is_missing_or_incomplete_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="prepare the data first"):
        read_utterances(tmp_path / "list.csv", 8000)
    (tmp_path / "list.csv").write_text("ID,duration,wav\na,1,a.wav\n")
    with pytest.raises(ValueError, match="no column 'spk_id': it has ID, duration, wav, but needs"):
        read_utterances(tmp_path / "list.csv", 8000)
