"""Manifests of LibriSpeech and LibriTTS."""

import logging
import shutil

import pytest
import torch

from speechbrain_mamba.corpora.librispeech import prepare_librispeech
from speechbrain_mamba.corpora.libritts import prepare_libritts
from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.utils.stamps import Stamp
from tests.corpora.conftest import read_rows


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
    assert "7-1-0001" in caplog.text and "names '7-1-0002', but there is no audio of it" in caplog.text
    left_out = {row["path"]: row["reason"] for row in read_rows(tmp_path / "lists/skipped.csv")}
    chapter = tmp_path / "data/part/7/1"
    assert left_out == {str(chapter / "7-1-0001.wav"): "not audio", str(chapter / "7-1-0002"): "no audio"}
    assert "2 files were skipped (1 no audio, 1 not audio)" in caplog.text
    rows = read_rows(files["test"])
    assert rows[0]["wav"] == str(next((tmp_path / "data/part/7/1").glob("7-1-0000.[fw]*")))
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


def write_utterances(folder, rate=16000, **words):
    """LibriSpeech of some utterances; the seconds are the tenths that the last digit says."""
    for name, text in words.items():
        speaker, chapter, number = name[1:].split("_")
        place = folder / speaker / chapter
        write_audio(place / f"{speaker}-{chapter}-{number}.flac", torch.zeros(int(number) * rate // 10), rate)
        with open(place / f"{speaker}-{chapter}.trans.txt", "a", encoding="utf-8") as file:
            file.write(f"{speaker}-{chapter}-{number} {text}\n")


@pytest.fixture
def data(tmp_path):
    write_utterances(tmp_path / "data/one", u9_1_2="SECOND", u9_1_1="FIRST", u10_2_3="ÄH  SO ")
    write_utterances(tmp_path / "data/two", u8_1_4="FOURTH")
    return tmp_path / "data"


def test_a_manifest_has_the_parts_in_turn_and_their_utterances_by_id(data, tmp_path):
    files = prepare_librispeech(data, tmp_path / "lists", {"train": ["two", "one"], "test": ["two"]})
    assert files == {name: tmp_path / "lists" / f"{name}.csv" for name in ("train", "test")}
    rows = read_rows(files["train"])
    assert list(rows[0]) == ["ID", "duration", "wav", "wrd", "spk_id"]
    assert [(row["ID"], row["spk_id"], row["wrd"], float(row["duration"])) for row in rows] == [
        ("8-1-4", "8", "FOURTH", 0.4), ("10-2-3", "10", "ÄH  SO", 0.3), ("9-1-1", "9", "FIRST", 0.1),
        ("9-1-2", "9", "SECOND", 0.2),
    ]  # fmt: skip
    assert [row["ID"] for row in read_rows(files["test"])] == ["8-1-4"]


def test_other_folders_parts_and_rates_are_read_anew(data, tmp_path):
    def ids(splits, folder=data, **options):
        files = prepare_librispeech(folder, tmp_path / "lists", splits, **options)
        return {name: [row["ID"] for row in read_rows(path)] for name, path in files.items()}

    assert ids({"test": ["one"], "valid": ["two"]}) == {"test": ["10-2-3", "9-1-1", "9-1-2"], "valid": ["8-1-4"]}
    assert ids({"test": ["two"]}) == {"test": ["8-1-4"]}
    assert ids({"test": ["two"], "more": ["one"]})["more"] == ["10-2-3", "9-1-1", "9-1-2"]
    write_utterances(tmp_path / "other/two", u7_1_1="OTHER")
    assert ids({"test": ["two"]}, tmp_path / "other") == {"test": ["7-1-1"]}
    with pytest.raises(ValueError, match="16000 Hz, but 24000 Hz are wanted"):
        ids({"test": ["two"]}, tmp_path / "other", sample_rate=24000)
    (tmp_path / "lists/test.csv").unlink()
    assert ids({"test": ["two"]}) == {"test": ["8-1-4"]}


def test_a_list_that_was_not_finished_is_read_anew(data, tmp_path, monkeypatch):
    def ids(part):
        files = prepare_librispeech(data, tmp_path / "lists", {"test": [part]})
        return [row["ID"] for row in read_rows(files["test"])]

    assert ids("two") == ["8-1-4"]
    with monkeypatch.context() as patch:
        patch.setattr(Stamp, "finish", lambda *_, **__: 1 / 0)  # the manifest is there, and its stamp is not done
        with pytest.raises(ZeroDivisionError):
            ids("one")
    assert ids("two") == ["8-1-4"]


def test_a_corpus_that_has_changed_is_read_anew(data, tmp_path):
    def ids():
        files = prepare_librispeech(data, tmp_path / "lists", {"test": ["one"]})
        return [row["ID"] for row in read_rows(files["test"])], files["test"].stat().st_mtime_ns

    first = ids()
    assert ids() == first  # and is not written again
    write_utterances(data / "one", u9_2_1="A CHAPTER MORE")
    assert ids()[0] == ["10-2-3", "9-1-1", "9-1-2", "9-2-1"]
    (data / "one/9/1/9-1-1.flac").unlink()
    assert ids()[0] == ["10-2-3", "9-1-2", "9-2-1"]
    shutil.rmtree(data / "one/9/1")
    assert ids()[0] == ["10-2-3", "9-2-1"]
    (data / "one").rename(data / "three")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        ids()


def test_libritts_has_24_khz_and_sentences(tmp_path):
    place = tmp_path / "tts/part/7/1"
    write_audio(place / "7_1_0.wav", torch.zeros(2400), 24000)
    (place / "7_1_0.normalized.txt").write_text(" A fine\tday. \n", encoding="utf-8")
    rows = read_rows(prepare_libritts(tmp_path / "tts", tmp_path / "tts_lists", {"test": ["part"]})["test"])
    assert [(row["ID"], row["wrd"], row["duration"]) for row in rows] == [("7_1_0", "A fine\tday.", "0.1")]


PARTS = ["train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "test-clean", "test-other"]
TRAINING = {"train": ["0-1-1", "1-1-1", "2-1-1"], "valid": ["3-1-1"]}


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (prepare_librispeech, {**TRAINING, "test-clean": ["4-1-1"], "test-other": ["5-1-1"]}),
        (prepare_libritts, {**TRAINING, "test": ["4-1-1"]}),
    ],
)
def test_all_parts_of_the_corpora_have_their_place(tmp_path, prepare, expected):
    for number, part in enumerate(PARTS):
        if prepare is prepare_librispeech:
            write_utterances(tmp_path / part, **{f"u{number}_1_1": "WORDS"})
        else:
            write_audio(tmp_path / part / str(number) / "1" / f"{number}-1-1.wav", torch.zeros(2400), 24000)
            (tmp_path / part / str(number) / "1" / f"{number}-1-1.normalized.txt").write_text("Words.")
    files = prepare(tmp_path, tmp_path / "lists")
    assert {name: [row["ID"] for row in read_rows(path)] for name, path in files.items()} == expected


def test_hours_are_told(tmp_path, caplog):
    for number, seconds in enumerate((36, 72)):
        write_audio(tmp_path / f"one/7/1/7-1-{number}.flac", torch.zeros(seconds * 16000), 16000)
    (tmp_path / "one/7/1/7-1.trans.txt").write_text("7-1-0 A\n7-1-1 B\n")
    with caplog.at_level(logging.INFO):
        prepare_librispeech(tmp_path, tmp_path / "lists", {"test": ["one"]})
    assert "test.csv: 2 utterances, 0.03 hours" in caplog.text


def test_what_is_left_out_is_listed_for_all_splits_also_those_that_are_kept(data, tmp_path):
    (data / "one/9/1/9-1-1.flac").write_bytes(b"")
    (data / "two/8/1/8-1-4.flac").unlink()
    (data / "two/8/1/8-1-4.flac").symlink_to("gone.flac")
    write_utterances(data / "two", u8_1_5="FIFTH")

    def left_out(**splits):
        prepare_librispeech(data, tmp_path / "lists", splits)
        rows = read_rows(tmp_path / "lists/skipped.csv")
        return [(row["path"].split("/")[-1], row["reason"]) for row in rows]

    first, second = ("9-1-1.flac", "empty file"), ("8-1-4.flac", "dangling link")
    assert left_out(train=["one"]) == [first]
    assert left_out(train=["one"], test=["two"]) == [first, second]
    (data / "two/8/1/8-1-4.flac").unlink()
    write_utterances(data / "two", u8_1_4="FOURTH")
    assert left_out(train=["one"], test=["two"]) == [first]
    write_utterances(data / "one", u9_1_1="AGAIN")
    (data / "one/9/1/9-1.trans.txt").write_text("9-1-1 AGAIN\n\n9-1-2 SECOND\n", encoding="utf-8-sig")
    prepare_librispeech(data, tmp_path / "lists", {"train": ["one"], "test": ["two"]})
    assert not (tmp_path / "lists/skipped.csv").exists()
    assert [row["wrd"] for row in read_rows(tmp_path / "lists/train.csv")] == ["ÄH  SO", "AGAIN", "SECOND"]


def test_a_preparation_that_fails_leaves_the_former_one(data, tmp_path):
    splits = {"train": ["one"], "test": ["two"]}
    prepare_librispeech(data, tmp_path / "lists", splits)
    before = {path: path.read_bytes() for path in (tmp_path / "lists").iterdir()}
    write_utterances(data / "one", u9_3_1="MORE")
    write_utterances(data / "two", rate=8000, u8_2_1="SLOW")
    with pytest.raises(ValueError, match="8000 Hz, but 16000 Hz are wanted"):
        prepare_librispeech(data, tmp_path / "lists", splits)
    assert {path: path.read_bytes() for path in (tmp_path / "lists").iterdir()} == before


def test_transcripts_with_faults_are_named(data, tmp_path):
    with pytest.raises(
        ValueError, match=r"one/10/2/10-2-3\.flac' and '.*three/.*\.flac' have the same id '10-2-3': rename one"
    ):
        shutil.copytree(data / "one", data / "three")
        prepare_librispeech(data, tmp_path / "lists", {"test": ["one", "three"]})
    (data / "one/9/1/9-1.trans.txt").write_text("9-1-1 GRÜN\n", encoding="latin-1")
    with pytest.raises(
        ValueError, match=r"The transcript '.*9-1\.trans\.txt' is not UTF-8 \(byte 8\): save it as UTF-8"
    ):
        prepare_librispeech(data, tmp_path / "lists", {"test": ["one"]})


def test_chapters_may_be_links_and_texts_have_one_line(tmp_path):
    place = tmp_path / "away/1"
    write_audio(place / "7_1_0.wav", torch.zeros(2400), 24000)
    (place / "7_1_0.normalized.txt").write_text("A fine\nday.\n")
    (tmp_path / "tts/part").mkdir(parents=True)
    (tmp_path / "tts/part/7").symlink_to(tmp_path / "away")
    rows = read_rows(prepare_libritts(tmp_path / "tts", tmp_path / "lists", {"test": ["part"]})["test"])
    assert [(row["ID"], row["wrd"], row["spk_id"]) for row in rows] == [("7_1_0", "A fine day.", "7")]
