"""Manifests of WSJ0-2mix and WSJ0-3mix."""

import json
from pathlib import Path

import pytest

from speechbrain_mamba.corpora.mixtures import SPLITS
from speechbrain_mamba.corpora.wsj0mix import prepare_wsj0mix
from speechbrain_mamba.dataio.mixture_dataset import separation_dataset
from speechbrain_mamba.dataio.utterances import read_utterances
from tests.corpora.conftest import read_rows, write_noise


@pytest.fixture
def data(tmp_path):
    for num_spks in (2, 3):
        for subset in ("tr", "cv", "tt"):
            for name in ("a", "b"):
                folder = tmp_path / "wsj" / f"{num_spks}speakers" / "wav8k" / "min" / subset
                for key in ("mix", "s1", "s2", "s3")[: num_spks + 1]:
                    write_noise(folder / key / f"{name}.wav", seconds=0.1)
    return tmp_path / "wsj"


@pytest.mark.parametrize("num_spks", [2, 3])
@pytest.mark.parametrize("below", [False, True])
def test_every_mixture_is_listed(tmp_path, data, num_spks, below):
    root = data / f"{num_spks}speakers" if below else data
    manifests = prepare_wsj0mix(root, tmp_path / "out", num_spks=num_spks)
    for path in manifests.values():
        dataset = separation_dataset(path, num_spks, 8000, data_root=root)
        assert [example["id"] for example in dataset] == ["a", "b"]
    assert read_rows(manifests["train"])[0]["duration"] == "0.1"


def test_a_mixture_with_a_bad_file_is_named_and_skipped(tmp_path, data, caplog):
    train = data / "2speakers" / "wav8k" / "min" / "tr"
    (train / "s2" / "a.wav").write_bytes(b"broken")
    test = data / "2speakers" / "wav8k" / "min" / "tt"
    write_noise(test / "s1" / "b.wav", seconds=0.2)
    manifests = prepare_wsj0mix(data, tmp_path / "out")
    assert [row["ID"] for row in read_rows(manifests["train"])] == ["b"]
    assert [row["ID"] for row in read_rows(manifests["test"])] == ["a"]
    assert "Skipped: the mixture 'a'" in caplog.text
    assert "unequal lengths" in caplog.text
    left_out = {row["path"]: row["reason"] for row in read_rows(tmp_path / "out" / "skipped.csv")}
    assert left_out == {str(train / "mix/a.wav"): "not audio", str(test / "mix/b.wav"): "unequal lengths"}
    assert "2 files were skipped (1 not audio, 1 unequal lengths)" in caplog.text
    (train / "mix" / "b.wav").write_bytes(b"broken")
    with pytest.raises(ValueError, match="None of the 2 mixtures"):
        prepare_wsj0mix(data, tmp_path / "other")


def test_dynamic_mixing_lists_the_speech(tmp_path, data):
    for name in ("011/011a", "011/011b", "022/022a"):
        write_noise(tmp_path / "si_tr_s" / f"{name}.wav")
    manifests = prepare_wsj0mix(data, tmp_path / "out", base_folder_dm=tmp_path / "si_tr_s")
    assert [utterance.speaker for utterance in read_utterances(manifests["train"], 8000)] == ["011", "011", "022"]
    assert [utterance.samples for utterance in read_utterances(manifests["train"], 8000)] == [3200] * 3
    assert [row["ID"] for row in read_rows(tmp_path / "out" / "train.csv")] == ["a", "b"]


def test_a_second_run_keeps_the_manifests(tmp_path, data):
    manifests = prepare_wsj0mix(data, tmp_path / "out")
    before = manifests["train"].stat().st_mtime_ns
    assert prepare_wsj0mix(data, tmp_path / "out") == manifests
    assert manifests["train"].stat().st_mtime_ns == before
    prepare_wsj0mix(data, tmp_path / "out", num_spks=3)
    assert "s3_wav" in read_rows(manifests["train"])[0]
    manifests["valid"].unlink()
    prepare_wsj0mix(data, tmp_path / "out", num_spks=3)
    assert len(read_rows(manifests["valid"])) == 2


def test_every_argument_makes_manifests_anew(tmp_path, data, monkeypatch):
    """The sets differ in the length of their mixtures."""
    sets = {
        ("2speakers", "wav8k", "max"): 0.2,
        ("3speakers", "wav16k", "max"): 0.3,
        ("3speakers", "wav16k", "min"): 0.4,
    }
    for names, seconds in sets.items():
        for subset in ("tr", "cv", "tt"):
            for key in ("mix", "s1", "s2", "s3")[: int(names[0][0]) + 1]:
                rate = 16000 if "16" in names[1] else 8000
                write_noise(data.joinpath(*names, subset, key, "a.wav"), seconds, rate)
    for name, rate in (("speech8", 8000), ("speech16", 16000)):
        write_noise(tmp_path / name / "011a.wav", sample_rate=rate)
    (tmp_path / "other" / "wsj").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def durations(folder="wsj", **options):
        manifests = prepare_wsj0mix(folder, "out", **options)
        assert all(path.is_absolute() for path in manifests.values())
        return [float(read_rows(manifests[split])[0]["duration"]) for split in SPLITS]

    assert durations() == [0.1] * 3
    assert durations(mode="max") == [0.2] * 3
    assert durations(mode="max", base_folder_dm="speech8") == [0.4, 0.2, 0.2]
    assert durations(mode="max", num_spks=3, sample_rate=16000) == [0.3] * 3
    assert durations(num_spks=3, sample_rate=16000) == [0.4] * 3
    assert durations("wsj/3speakers", num_spks=3, sample_rate=16000, base_folder_dm="speech16") == [0.4] * 3
    stamp = json.loads(Path("out/prepared.json").read_text())["settings"]
    assert stamp == {
        "data_folder": str(tmp_path / "wsj" / "3speakers"), "num_spks": 3, "sample_rate": 16000, "mode": "min",
        "base_folder_dm": str(tmp_path / "speech16"),
    }  # fmt: skip


def test_hidden_files_are_no_mixtures(tmp_path, data):
    (data / "2speakers" / "wav8k" / "min" / "tt" / "mix" / "._a.wav").write_bytes(b"of another system")
    manifests = prepare_wsj0mix(data, tmp_path / "out")
    assert [row["ID"] for row in read_rows(manifests["test"])] == ["a", "b"]


def test_bad_data_are_named(tmp_path, data):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"expected are 2speakers/wav8k/min/\{tr,cv,tt\}/\{mix,s1,s2\}/\*\.wav"):
        prepare_wsj0mix(tmp_path / "missing", out)
    with pytest.raises(FileNotFoundError, match="2speakers/wav16k/max"):
        prepare_wsj0mix(data, out, sample_rate=16000, mode="max")
    with pytest.raises(ValueError, match=r"num_spks is 3, but the data folder is .*2speakers"):
        prepare_wsj0mix(data / "2speakers", out, num_spks=3)
    (data / "2speakers").rename(data / "mixtures")
    with pytest.raises(ValueError, match=r"num_spks is 3, but .* has the sources of 2 speakers: set num_spks to 2"):
        prepare_wsj0mix(data / "mixtures", out, num_spks=3)
    (data / "3speakers").rename(data / "triples")
    with pytest.raises(ValueError, match=r"num_spks is 2, but .* has the sources of 3 speakers: set num_spks to 3"):
        prepare_wsj0mix(data / "triples", out, num_spks=2)
    with pytest.raises(ValueError, match="sample_rate is 44100"):
        prepare_wsj0mix(data, out, sample_rate=44100)
    with pytest.raises(ValueError, match="mode is 'mean'"):
        prepare_wsj0mix(data, out, mode="mean")
    assert not out.exists()


def test_mixtures_of_the_wrong_format_are_errors_together(tmp_path, data):
    test = data / "2speakers/wav8k/min/tt"
    for name in "ab":
        write_noise(test / f"mix/{name}.wav", 0.1, 16000)
    with pytest.raises(
        ValueError, match=r"2 of 2 mixtures have the wrong format:\n.*mix/a\.wav' has a sample rate of 16000"
    ):
        prepare_wsj0mix(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_that_lead_nowhere_leave_their_mixture_out(tmp_path, data):
    train, speech = data / "2speakers/wav8k/min/tr", tmp_path / "si_tr_s"
    (train / "s1/a.wav").unlink()
    (train / "s1/a.wav").symlink_to("gone.wav")
    (train / "s2/b.wav").unlink()
    write_noise(train / "mix/c.wav", 0.1)
    write_noise(train / "s1/c.wav", 0.1)
    write_noise(train / "s2/c.wav", 0.1)
    for name in ("011a", "022a"):
        write_noise(speech / f"{name}.wav")
    (speech / "033a.wav").symlink_to("gone.wav")
    prepare_wsj0mix(data, tmp_path / "out", base_folder_dm=speech)
    assert [row["ID"] for row in read_rows(tmp_path / "out/train.csv")] == ["c"]
    left_out = {row["path"]: row["reason"] for row in read_rows(tmp_path / "out/skipped.csv")}
    assert left_out == {
        str(train / "mix/a.wav"): "dangling link", str(train / "mix/b.wav"): "missing",
        str(speech / "033a.wav"): "dangling link",
    }  # fmt: skip
