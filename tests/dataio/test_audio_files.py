"""Audio files of folders, good and broken."""

import random

import pytest
import torch

from speechbrain_mamba.dataio.audio import UnreadableAudioError, check_audio, write_audio
from speechbrain_mamba.dataio.audio_files import (
    SkippedFiles,
    find_audio,
    list_faults,
    scan_audio,
    unusable_name,
)
from speechbrain_mamba.utils.terminal import printable
from tests.broken_data.audio import KINDS, USABLE, write_audio_files
from tests.broken_data.check import check_audio_files, check_manifest_of_all


@pytest.mark.parametrize("count", [20 + 2 * len(KINDS), pytest.param(2000, marks=pytest.mark.slow)])
def test_every_broken_file_is_accounted_for(tmp_path, count):
    written = write_audio_files(tmp_path / "speech", count)
    listed = check_manifest_of_all(written, tmp_path / "all.csv")
    prepared = check_audio_files(written, tmp_path / "speech", tmp_path / "out")
    assert listed.differences == prepared.differences == []
    assert sum(prepared.fates.values()) == len(written) == count
    assert prepared.fates[USABLE] == sum(broken.kind.fate == USABLE for broken in written) > 50
    assert {kind.reason for kind in KINDS if kind.fate == "skipped"} == {
        fate.removeprefix("skipped: ") for fate in prepared.fates if fate.startswith("skipped: ")
    }


def test_broken_data_are_the_same_each_time(tmp_path):
    contents = []
    for name in "ab":
        written = write_audio_files(tmp_path / name, 20 + len(KINDS))
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        data = {path.name: path.read_bytes() for path in files}
        # libsndfile writes the time into WAVs of floats, and random numbers into Ogg
        contents.append({name: data[name] for name in data if data[name][:3] != b"Ogg" and b"PEAK" not in data[name]})
        assert len({broken.path for broken in written}) == len(written)
    assert contents[0] == contents[1] and len(contents[0]) > 70


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff"])
def test_whatever_a_header_says_the_outcome_is_a_result_or_a_sentence(tmp_path, suffix):
    path, rng, outcomes = tmp_path / f"a{suffix}", random.Random(7), set()
    write_audio(path, 0.1 * torch.randn(300), 8000)
    good = path.read_bytes()
    for _ in range(100):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(60)] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        path.write_bytes(data)
        try:
            outcomes.add(check_audio(path, 8000, whole=True).samples <= 600)
        except UnreadableAudioError as error:
            outcomes.add(error.reason)
            assert str(path) in str(error)
        except ValueError as error:
            outcomes.add("channels" if "must be mono" in str(error) else "rate")
            assert str(path) in str(error)
    assert True in outcomes and False not in outcomes and len(outcomes) > 3


def test_links_are_followed_but_not_around_in_a_circle(tmp_path):
    for name in ("a/1.wav", "b/c/2.wav", "away/3.wav"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    (tmp_path / "data/away").rename(tmp_path / "away")
    (tmp_path / "data/a/away").symlink_to(tmp_path / "away")
    (tmp_path / "data/a/c").symlink_to("../b/c")
    (tmp_path / "data/b/c/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/b/self").symlink_to(".")
    (tmp_path / "data/b/gone").symlink_to("nowhere")
    found = [path.as_posix() for path in find_audio(tmp_path / "data")]
    assert found == ["a/1.wav", "a/away/3.wav", "a/c/2.wav", "b/c/2.wav"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()

    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(ValueError, match=r"The folder '.*data' cannot be read \(Permission denied\)"):
        find_audio(tmp_path / "data")


def test_skipped_files_are_counted_and_the_first_ones_named(tmp_path, caplog):
    skipped = SkippedFiles()
    for index in range(12):
        skipped.add(f"a/{index}.wav", "empty file" if index % 4 else "cut short", f"'{index}' is bad.")
    assert skipped.counts() == {"empty file": 9, "cut short": 3} and len(skipped) == 12
    assert caplog.messages == [f"Skipped: '{index}' is bad." for index in range(10)]
    skipped.write(tmp_path / "skipped.csv")
    assert "12 files were skipped (9 empty file, 3 cut short): " in caplog.text
    lines = (tmp_path / "skipped.csv").read_text().splitlines()
    assert lines[:3] == ["path,reason", "a/0.wav,cut short", "a/1.wav,empty file"] and len(lines) == 13
    SkippedFiles().write(tmp_path / "skipped.csv")
    assert not (tmp_path / "skipped.csv").exists()


def test_files_of_a_wrong_format_are_errors_together(tmp_path, caplog):
    paths = [tmp_path / f"{index:02d}.wav" for index in range(15)]
    for index, path in enumerate(paths):
        write_audio(path, torch.zeros(80), 8000 if index < 2 else 16000)
    paths[0].write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        scan_audio(paths, 8000, SkippedFiles(), "Reading")
    lines = str(caught.value).splitlines()
    assert lines[0] == "13 of 15 audio files have the wrong format:" and lines[-1] == "  ... and 3 more."
    assert len(lines) == 12 and "02.wav" in lines[1]
    assert "Skipped 1 of 15 files (1 empty file)." in caplog.text
    assert list(scan_audio(paths[:2], 8000, SkippedFiles(), "Reading")) == paths[1:2]
    assert list_faults("2 faults", ["one"]) == "one"


@pytest.mark.parametrize(
    ("name", "shown", "reason"),
    [
        ("a b/ü.wav", "a b/ü.wav", None),
        ("a\nb.wav", "a\\nb.wav", "control character in name"),
        ("a\x7fb.wav", "a\\x7fb.wav", "control character in name"),
        ("a\udcffb.wav", "a\\xffb.wav", "name is not UTF-8"),
    ],
)
def test_names_that_cannot_be_listed_are_shown_with_escapes(name, shown, reason):
    assert (printable(name), unusable_name(name)) == (shown, reason)
