"""Strings of digits from FSDD."""

import inspect
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from speechbrain_mamba.corpora.fsdd_digits import prepare_fsdd_digits
from speechbrain_mamba.dataio.audio import audio_info, read_audio, write_audio
from tests.corpora.conftest import read_rows

WORDS = ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"]
LEVELS = {"anna": {0: 1, 4: 2, 5: 3, 9: 4, 10: 5, 49: 6}, "b_en": {2: 7, 7: 8, 30: 9}}  # in fiftieths


@pytest.fixture(scope="module")
def two_speakers(tmp_path_factory):
    """Digits whose length tells the digit, and whose level tells the speaker and the take."""
    folder = tmp_path_factory.mktemp("fsdd")
    for speaker, levels in LEVELS.items():
        for take, level in levels.items():
            for digit in range(10):
                signal = torch.full((80 * (digit + 1),), level / 50)
                write_audio(folder / f"recordings/{digit}_{speaker}_{take}.wav", signal, sample_rate=8000)
    (folder / "recordings/notes_of_mine.wav").write_text("not of FSDD")
    return folder


def spoken(path):
    """The (digit, level in fiftieths) of a string, and the seconds of the pauses around them."""
    values, counts = torch.unique_consecutive((read_audio(path) * 50).round().long(), return_counts=True)
    runs = list(zip(values.tolist(), counts.tolist()))
    assert [value == 0 for value, _ in runs] == [True, *[False, True] * (len(runs) // 2)]
    return [(count // 80 - 1, value) for value, count in runs[1::2]], [count / 8000 for _, count in runs[::2]]


def test_a_string_is_of_one_speaker_and_of_takes_of_its_split(two_speakers, tmp_path):
    files = prepare_fsdd_digits(two_speakers, tmp_path / "out", counts=(60, 30, 31))
    takes = {"train": range(10, 50), "valid": range(5, 10), "test": range(5)}
    for (split, path), count in zip(files.items(), (60, 30, 31)):
        rows = read_rows(path)
        assert list(rows[0]) == ["ID", "duration", "wav", "wrd", "spk_id"]
        assert [row["ID"] for row in rows] == [f"{split}-{index:05d}" for index in range(count)]
        heard, gaps, again, sizes, digits = set(), [], [], Counter(), Counter()
        for row in rows:
            said, pauses = spoken(row["wav"])
            own = {level: take for take, level in LEVELS[row["spk_id"]].items() if take in takes[split]}
            assert all(level in own for _, level in said)
            assert row["wrd"] == " ".join(WORDS[digit] for digit, _ in said)
            assert float(row["duration"]) == audio_info(row["wav"], 8000).seconds
            heard |= {level for _, level in said}
            gaps += pauses
            again += [pauses[0] == pauses[1], pauses[-1] == pauses[-2]]  # each is drawn by itself
            sizes[len(said)] += 1
            digits.update(digit for digit, _ in said)
        assert sum(again) < 4
        assert heard == {level for levels in LEVELS.values() for take, level in levels.items() if take in takes[split]}
        assert set(sizes) == {3, 4, 5, 6, 7} and set(digits) == set(range(10))
        assert 0.05 <= min(gaps) < 0.06 and 0.24 < max(gaps) <= 0.25
        shares = Counter(row["spk_id"] for row in rows)  # though one has twice as many takes
        assert min(shares.values()) > 0.3 * count


def test_every_argument_makes_other_strings(two_speakers, tmp_path):
    arguments = {"sample_rate": 16000, "seed": 3, "counts": (5, 2, 3), "level": 0.05, "short": 2}

    def prepare(**changed):
        files = prepare_fsdd_digits(two_speakers, tmp_path / "out", **{"counts": (4, 2, 3), **changed})
        return [(row["wrd"], row["spk_id"], read_audio(row["wav"]).tolist()) for row in read_rows(files["train"])]

    first = prepare()
    for name, value in arguments.items():
        assert prepare(**{name: value}) != first
        assert prepare() == first
    shutil.copytree(two_speakers / "recordings", tmp_path / "recordings")
    (tmp_path / "recordings/7_anna_10.wav").unlink()
    files = prepare_fsdd_digits(tmp_path, tmp_path / "out", counts=(4, 2, 3))
    assert [row["wrd"] for row in read_rows(files["train"])] == [words for words, *_ in first]
    files["valid"].unlink()
    prepare_fsdd_digits(tmp_path, tmp_path / "out", counts=(4, 2, 3))
    assert files["valid"].is_file()


def test_defaults_are_those_of_the_docs(two_speakers, tmp_path):
    files = prepare_fsdd_digits(two_speakers, tmp_path, counts=(2, 1, 1))
    before = files["train"].stat().st_mtime_ns
    prepare_fsdd_digits(two_speakers, tmp_path, 8000, 1234, (2, 1, 1), None, 0)
    assert files["train"].stat().st_mtime_ns == before
    settings = {"fsdd": str(two_speakers / "recordings"), "sample_rate": 8000, "seed": 1234, "counts": [2, 1, 1]}
    settings |= {"level": None, "short": 0}
    assert json.loads((tmp_path / "prepared.json").read_text()) == {"settings": settings, "done": True}
    assert inspect.signature(prepare_fsdd_digits).parameters["counts"].default == (2000, 100, 300)


def test_a_seed_has_the_strings_that_it_had(two_speakers, tmp_path):
    """What was measured on FSDD was measured on these draws."""
    files = prepare_fsdd_digits(two_speakers, tmp_path, seed=1234, counts=(2, 1, 1))
    rows = [row for path in files.values() for row in read_rows(path)]
    assert [(row["spk_id"], row["wrd"], round(float(row["duration"]) * 8000)) for row in rows] == [
        ("b_en", "NINE THREE ONE NINE ONE TWO ONE", 11955),
        ("anna", "EIGHT FIVE SIX NINE SIX ZERO", 11604),
        ("b_en", "FIVE ONE ZERO SIX TWO", 10460),
        ("anna", "EIGHT NINE NINE", 8649),
    ]


def test_another_rate_keeps_the_words_and_seconds(two_speakers, tmp_path):
    files = [
        prepare_fsdd_digits(two_speakers, tmp_path / str(rate), sample_rate=rate, counts=(3, 1, 1))["train"]
        for rate in (8000, 16000)
    ]
    for slow, fast in zip(*map(read_rows, files)):
        assert (slow["wrd"], slow["spk_id"]) == (fast["wrd"], fast["spk_id"])
        assert float(fast["duration"]) == pytest.approx(float(slow["duration"]), abs=1e-4)
        assert audio_info(fast["wav"], 16000).seconds == float(fast["duration"])
        twice = read_audio(fast["wav"])[::2]
        assert (twice - read_audio(slow["wav"])).abs().mean() < 0.01


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


def test_a_level_that_would_clip_is_not_reached_and_silence_stays(tmp_path):
    for digit in range(10):
        signal = torch.zeros(800)
        if digit:  # a click
            signal[100:110] = torch.tensor([0.5, -0.25]).repeat(5)
        for take in (0, 5, 10):
            write_audio(tmp_path / f"fsdd/{digit}_anna_{take}.wav", signal, sample_rate=8000)
    files = prepare_fsdd_digits(tmp_path / "fsdd", tmp_path / "out", counts=(9, 1, 1), level=0.3)
    for row in read_rows(files["train"]):
        signal = read_audio(row["wav"])
        assert signal.max().item() == pytest.approx(0.99, abs=1e-3)
        assert signal.min().item() == pytest.approx(-0.495, abs=1e-3)
    assert any("ZERO" in row["wrd"] for row in read_rows(files["train"]))


def test_short_strings_are_for_training_and_change_no_others(fsdd, tmp_path):
    longer = prepare_fsdd_digits(fsdd, tmp_path / "out", counts=(5, 2, 2))
    files = prepare_fsdd_digits(fsdd, tmp_path / "more", counts=(5, 2, 2), short=20)
    for split in files:
        texts, expected = ([row["wrd"] for row in read_rows(paths[split])] for paths in (files, longer))
        assert texts[: len(expected)] == expected
        further = [len(text.split()) for text in texts[len(expected) :]]
        assert (set(further), len(further)) == (({1, 2}, 20) if split == "train" else (set(), 0))


def test_no_string_of_the_training_is_tested(fsdd, tmp_path):
    files = prepare_fsdd_digits(fsdd, tmp_path / "out", counts=(700, 100, 100))
    texts = {split: {row["wrd"] for row in read_rows(path)} for split, path in files.items()}
    assert not texts["train"] & (texts["valid"] | texts["test"])


def test_incomplete_data_is_named(fsdd, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing' does not exist: it should be a clone"):
        prepare_fsdd_digits(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(
        FileNotFoundError, match=r"has no file like 7_jackson_32\.wav for train: give the folder of FSDD"
    ):
        prepare_fsdd_digits(tmp_path, tmp_path / "out")
    write_audio(fsdd / "recordings/3_anna_10.wav", torch.ones(80), sample_rate=16000)
    with pytest.raises(ValueError, match="16000 Hz, but 8000 Hz are wanted"):
        prepare_fsdd_digits(fsdd, tmp_path / "out", counts=(20, 1, 1))
    write_audio(fsdd / "recordings/3_anna_10.wav", torch.ones(80), sample_rate=8000)
    for take, split in ((0, "test"), (5, "valid"), (10, "train")):
        (fsdd / f"recordings/3_anna_{take}.wav").unlink()
        with pytest.raises(
            ValueError, match=f"no usable recording of anna's digit 3 for {split}: give the complete FSDD"
        ):
            prepare_fsdd_digits(fsdd, tmp_path / "out")


def test_later_takes_are_for_training(fsdd, tmp_path):
    for digit in range(10):
        (fsdd / f"recordings/{digit}_anna_10.wav").rename(fsdd / f"recordings/{digit}_anna_1000.wav")
    rows = read_rows(prepare_fsdd_digits(fsdd, tmp_path / "out", counts=(3, 2, 2))["train"])
    assert read_audio(rows[0]["wav"]).max().item() == pytest.approx(11 / 20, abs=1e-3)


def test_splits_without_strings_are_refused(fsdd, tmp_path):
    for options in ({"counts": (3, 0, 2)}, {"counts": (-1, 1, 1)}, {"short": -1}):
        with pytest.raises(ValueError, match=r"counts are .* and short is .*, but must be 1 or more and 0 or more"):
            prepare_fsdd_digits(fsdd, tmp_path / "out", **options)


def test_bad_recordings_are_left_out_and_listed(fsdd, tmp_path):
    counts = (30, 2, 2)
    good = prepare_fsdd_digits(fsdd, tmp_path / "good", counts=counts)
    (fsdd / "recordings/3_anna_11.wav").write_bytes(b"")
    (fsdd / "recordings/4_anna_12.wav").symlink_to("gone.wav")
    files = prepare_fsdd_digits(fsdd, tmp_path / "out", counts=counts)
    assert [row["wrd"] for row in read_rows(files["train"])] == [row["wrd"] for row in read_rows(good["train"])]
    rows = read_rows(tmp_path / "out/skipped.csv")
    assert [(row["path"].split("/")[-1], row["reason"]) for row in rows] == [
        ("3_anna_11.wav", "empty file"), ("4_anna_12.wav", "dangling link")
    ]  # fmt: skip


def test_a_preparation_that_fails_leaves_the_former_one(fsdd, tmp_path, monkeypatch):
    prepare_fsdd_digits(fsdd, tmp_path / "out", counts=(3, 1, 1))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def no_space(path, *_):
        if path.name == "test-00000.wav":
            raise OSError("The disk is full.")
        write_audio(path, *_)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk is full"):
        patch.setattr("speechbrain_mamba.corpora.fsdd_digits.write_audio", no_space)
        prepare_fsdd_digits(fsdd, tmp_path / "out", counts=(3, 1, 1), seed=9)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_audio_that_another_process_may_read_stays(fsdd, tmp_path):
    def paths(**options):
        files = prepare_fsdd_digits(fsdd, tmp_path / "out", counts=(3, 1, 1), **options)
        return [Path(row["wav"]) for row in read_rows(files["train"])]

    (tmp_path / "out/.strings-1.tmp-0123456789ab/train").mkdir(parents=True)  # of a process that was killed
    first = paths()
    before = [path.read_bytes() for path in first]
    second = paths(seed=9)
    assert not set(first) & set(second) and all(path.is_file() for path in second)
    assert [path.read_bytes() for path in first] == before
    assert paths() == first
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["prepared.json", "train.csv", "valid.csv", "test.csv", first[0].parents[1].name, second[0].parents[1].name]
    )


def test_speakers_can_be_left_out_for_the_test(two_speakers, tmp_path):
    files = prepare_fsdd_digits(two_speakers, tmp_path, counts=(20, 20, 40), test_speakers=["b_en"])
    heard = {split: [spoken(row["wav"])[0] for row in read_rows(path)] for split, path in files.items()}
    levels = {split: {level for said in strings for _, level in said} for split, strings in heard.items()}
    assert levels["test"] == set(LEVELS["b_en"].values())  # all of his takes
    assert levels["train"] == {5, 6}  # of the others those that are for training anyway
    assert levels["valid"] == {1, 2, 3, 4}
    assert {row["spk_id"] for row in read_rows(files["test"])} == {"b_en"}
    assert json.loads((tmp_path / "prepared.json").read_text())["settings"]["test_speakers"] == ["b_en"]


def test_an_unknown_speaker_of_the_test_is_named(two_speakers, tmp_path):
    with pytest.raises(ValueError, match=r"test_speakers names ben, but the speakers of '.*' are \['anna', 'b_en'\]"):
        prepare_fsdd_digits(two_speakers, tmp_path, counts=(1, 1, 1), test_speakers=["ben"])
