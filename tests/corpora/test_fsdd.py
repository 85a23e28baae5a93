"""FSDD: its takes, and mixtures of them."""

import json

import pytest

from speechbrain_mamba.corpora.fsdd import find_recordings, parse_take, prepare_fsdd_mixtures
from speechbrain_mamba.corpora.mixtures import SPLITS
from speechbrain_mamba.dataio.audio import audio_info
from speechbrain_mamba.dataio.utterances import read_utterances
from tests.corpora.conftest import SMALL, read_rows, speakers_of, write_noise


@pytest.fixture
def data(tmp_path):
    for speaker in ("george", "theo", "lucas"):
        for digit in range(2):
            for take in (0, 4, 5, 9, 10, 1000):
                write_noise(tmp_path / "fsdd" / "recordings" / f"{digit}_{speaker}_{take}.wav", seconds=0.2)
    return tmp_path / "fsdd"


def test_takes_decide_the_split(tmp_path, data):
    manifests = prepare_fsdd_mixtures(data, tmp_path / "out", dynamic_mixing=True, **SMALL)
    takes = {utterance.path.rsplit("_", 1)[1] for utterance in read_utterances(manifests["train"], 8000)}
    assert takes == {"10.wav", "1000.wav"}

    # takes that are not for the test leave no trace in the test mixtures
    def test_mixtures(out):
        return [path.read_bytes() for path in sorted((tmp_path / out / "mixtures" / "test").rglob("*.wav"))]

    before = test_mixtures("out")
    for speaker in ("george", "theo", "lucas"):
        for digit in range(2):
            for take in (5, 9, 10, 1000):
                write_noise(data / "recordings" / f"{digit}_{speaker}_{take}.wav", seconds=0.3)
    prepare_fsdd_mixtures(data, tmp_path / "again", dynamic_mixing=True, **SMALL)
    assert test_mixtures("again") == before


def test_the_first_takes_are_for_the_test_and_the_next_for_validation():
    takes = {split: [take for take in range(50) if parse_take(f"3_x_{take}.wav").split == split] for split in SPLITS}
    assert takes == {"train": list(range(10, 50)), "valid": list(range(5, 10)), "test": list(range(5))}
    assert parse_take("3_theo_1000.wav").split == parse_take("3_theo_123456.wav").split == "train"


def test_validation_hears_its_takes_alone(tmp_path, data):
    def valid_mixtures(out):
        prepare_fsdd_mixtures(data, tmp_path / out, dynamic_mixing=True, **SMALL)
        return [path.read_bytes() for path in sorted((tmp_path / out / "mixtures" / "valid").rglob("*.wav"))]

    before = valid_mixtures("out")
    for take, same in ((4, True), (10, True), (9, False)):
        for speaker in ("george", "theo", "lucas"):
            write_noise(data / "recordings" / f"1_{speaker}_{take}.wav", seconds=0.25)
        assert (valid_mixtures(f"out{take}") == before) is same


def test_other_data_and_other_settings_are_prepared_anew(tmp_path, data):
    (data / "recordings" / "notes.wav").write_text("no recording by its name")
    prepare_fsdd_mixtures(data, tmp_path / "out", **SMALL)
    first = (tmp_path / "out" / "test.csv").read_text()
    (data / "recordings").rename(tmp_path / "moved")
    prepare_fsdd_mixtures(tmp_path / "moved", tmp_path / "out", **SMALL)
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["settings"]["fsdd"] == str(tmp_path / "moved")
    prepare_fsdd_mixtures(tmp_path / "moved", tmp_path / "out", **SMALL, seed=3, num_spks=3)
    assert (tmp_path / "out" / "test.csv").read_text() != first
    assert len(speakers_of(tmp_path / "out" / "test.csv")) == 3


def test_strings_of_digits_of_two_speakers(tmp_path, data):
    manifests = prepare_fsdd_mixtures(data / "recordings", tmp_path / "out", **{**SMALL, "seconds": (0.5, 0.9)})
    for split, path in manifests.items():
        rows = read_rows(path)
        assert len(rows) == SMALL[f"{split}_mixtures"]
        for row in rows:
            assert len(set(row["ID"].split("_")[1:])) == 2
            assert 0.5 <= audio_info(row["mix_wav"], 8000).seconds <= 0.9


def test_bad_data_are_named(tmp_path, data):
    with pytest.raises(FileNotFoundError, match="should be a clone of free-spoken-digit-dataset"):
        prepare_fsdd_mixtures(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(ValueError, match="the speech has 3 speaker"):
        prepare_fsdd_mixtures(data, tmp_path / "out", num_spks=4)
    write_noise(tmp_path / "other" / "speech.wav")
    with pytest.raises(ValueError, match="has no speech"):
        prepare_fsdd_mixtures(tmp_path / "other", tmp_path / "out")


def test_names_and_folders_of_recordings(tmp_path):
    assert parse_take("recordings/7_jackson_32.wav") == (7, "jackson", 32)
    assert parse_take("0_de_la_cruz_4.wav") == (0, "de_la_cruz", 4)
    assert [parse_take(name) for name in ("12_anna_3.wav", "7_anna.wav", "7_anna_x.wav", "x7_anna_3.wav")] == [None] * 4
    assert find_recordings(tmp_path) == tmp_path
    (tmp_path / "recordings").mkdir()
    assert find_recordings(str(tmp_path)) == tmp_path / "recordings"
