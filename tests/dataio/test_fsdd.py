"""Strings of digits from FSDD."""

import csv

import pytest
import torch

from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.fsdd import prepare_fsdd_digits


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def fsdd(tmp_path):
    """One speaker's digits, of different lengths; what a take is for shows in its level."""
    for digit in range(10):
        for take in (0, 5, 10):
            signal = torch.full((80 * (digit + 1),), (take + 1) / 20)
            write_audio(tmp_path / f"fsdd/recordings/{digit}_anna_{take}.wav", signal, sample_rate=8000)
    return tmp_path / "fsdd"


def test_digit_strings(fsdd, tmp_path):
    files = prepare_fsdd_digits(fsdd, tmp_path / "out", counts=(3, 2, 2))
    for split, take in (("train", 10), ("valid", 5), ("test", 0)):
        rows = read_rows(files[split])
        assert all(3 <= len(row["wrd"].split()) <= 7 and row["spk_id"] == "anna" for row in rows)
        assert read_audio(rows[0]["wav"]).max().item() == pytest.approx((take + 1) / 20, abs=1e-3)
    before = files["train"].stat().st_mtime_ns
    prepare_fsdd_digits(fsdd / "recordings", tmp_path / "out", counts=(3, 2, 2))
    assert files["train"].stat().st_mtime_ns == before


def test_recordings_are_brought_to_a_level(fsdd, tmp_path):
    files = prepare_fsdd_digits(fsdd, tmp_path / "out", counts=(3, 2, 2), level=0.1)
    for path in files.values():
        assert read_audio(read_rows(path)[0]["wav"]).max().item() == pytest.approx(0.1, abs=1e-3)


def test_short_strings_are_for_training_and_change_no_others(fsdd, tmp_path):
    longer = prepare_fsdd_digits(fsdd, tmp_path / "out", counts=(5, 2, 2))
    files = prepare_fsdd_digits(fsdd, tmp_path / "more", counts=(5, 2, 2), short=20)
    for split in files:
        texts, expected = ([row["wrd"] for row in read_rows(paths[split])] for paths in (files, longer))
        assert texts[: len(expected)] == expected
        further = [len(text.split()) for text in texts[len(expected) :]]
        assert (set(further), len(further)) == (({1, 2}, 20) if split == "train" else (set(), 0))


def test_no_string_of_the_training_is_tested(fsdd, tmp_path):
    files = prepare_fsdd_digits(fsdd, tmp_path / "out", counts=(900, 300, 300))
    texts = {split: {row["wrd"] for row in read_rows(path)} for split, path in files.items()}
    assert not texts["train"] & (texts["valid"] | texts["test"])


def test_incomplete_data_is_named(fsdd, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing' does not exist: it should be a clone"):
        prepare_fsdd_digits(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"has no file like 7_jackson_10\.wav for train"):
        prepare_fsdd_digits(tmp_path, tmp_path / "out")
    (fsdd / "recordings/3_anna_5.wav").unlink()
    with pytest.raises(ValueError, match="no recording of anna's digit 3 for valid, whose takes are 5 to 9"):
        prepare_fsdd_digits(fsdd, tmp_path / "out")
