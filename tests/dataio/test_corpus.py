"""Lists of utterances."""

import logging

import pytest

from speechbrain_mamba.dataio.corpus import Utterance, read_utterances, scan_speakers, write_utterances, wsj0_speaker


def test_every_file_has_its_speaker_and_length(tmp_path, make_speech):
    make_speech(tmp_path, ("anna", "ben"), (0.5, 0.25))
    (tmp_path / ".hidden").mkdir()
    make_speech(tmp_path / ".hidden", ("carl",))
    found = scan_speakers(tmp_path, 8000)
    assert [(utterance.speaker, utterance.samples) for utterance in found] == [
        ("anna", 4000), ("anna", 2000), ("ben", 4000), ("ben", 2000)
    ]  # fmt: skip


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
    assert "Skipped 1 of 3 files" in caplog.text


def test_no_usable_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no \.wav or \.flac file"):
        scan_speakers(tmp_path, 8000)
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "bad.wav").write_text("no audio")
    with pytest.raises(ValueError, match="none of its 1 audio files can be used"):
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


def test_lists_survive_the_disk_with_ids_of_their_own(tmp_path):
    utterances = [
        Utterance("/a/x/1.wav", "anna", 8001),
        Utterance("/a/y/1.wav", "anna", 333),
        Utterance("/b,c.wav", "b", 7),
    ]
    write_utterances(tmp_path / "list.csv", utterances, 8000)
    assert read_utterances(tmp_path / "list.csv", 8000) == utterances
    ids = [line.split(",")[0] for line in (tmp_path / "list.csv").read_text().splitlines()[1:]]
    assert len(set(ids)) == 3


def test_a_list_that_is_missing_or_incomplete_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="prepare the data first"):
        read_utterances(tmp_path / "list.csv", 8000)
    (tmp_path / "list.csv").write_text("ID,wav\n")
    with pytest.raises(ValueError, match="lacks the columns duration, spk_id"):
        read_utterances(tmp_path / "list.csv", 8000)
