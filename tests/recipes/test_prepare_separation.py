"""The preparations of the separation recipe."""

import csv
import importlib.util
import logging
from pathlib import Path

import pytest
import torch

from speechbrain_mamba.dataio.audio import audio_info, write_audio
from speechbrain_mamba.dataio.corpus import read_utterances
from speechbrain_mamba.dataio.mixing import dynamic_mixtures
from speechbrain_mamba.dataio.separation import separation_dataset

RECIPES = Path(__file__).parents[2] / "recipes" / "separation"
SMALL = {"seconds": (0.3, 0.5), "train_mixtures": 3, "valid_mixtures": 2, "test_mixtures": 2}


def load(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prepare_folder = load("prepare_folder").prepare_folder
prepare_fsdd = load("prepare_fsdd").prepare_fsdd
prepare_wsj0mix = load("prepare_wsj0mix").prepare_wsj0mix


def write_noise(path, seconds=0.4, sample_rate=8000):
    torch.manual_seed(len(str(path)))
    write_audio(path, 0.1 * torch.randn(round(seconds * sample_rate)), sample_rate)


def write_speakers(folder, speakers, **settings):
    for speaker in speakers:
        for index in range(2):
            write_noise(folder / speaker / "book" / f"{index}.flac", **settings)
    return folder


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def speakers_of(manifest):
    """The speakers of the mixtures, which are in their IDs."""
    return {speaker for row in read_rows(manifest) for speaker in row["ID"].split("_")[1:]}


class TestFolder:
    def test_speakers_are_shared_out(self, tmp_path):
        data = write_speakers(tmp_path / "data", "abcdefgh")
        manifests = prepare_folder(data, tmp_path / "out", **SMALL)
        assert {split: path.name for split, path in manifests.items()} == {
            "train": "train.csv", "valid": "valid.csv", "test": "test.csv"
        }  # fmt: skip
        heard = {split: speakers_of(path) for split, path in manifests.items()}
        assert not (heard["train"] & heard["test"] or heard["train"] & heard["valid"] or heard["valid"] & heard["test"])
        for split, path in manifests.items():
            dataset = separation_dataset(path, 2, 8000)
            assert len(dataset) == SMALL[f"{split}_mixtures"]
            example = dataset[0]
            assert torch.equal(example["mix_sig"], example["s1_sig"] + example["s2_sig"])

    @pytest.mark.parametrize(
        "names", [("train", "valid", "test"), ("train-clean-100", "dev-clean", "test-clean"), ("tr", "cv", "tt")]
    )
    def test_divided_data_stay_divided(self, tmp_path, names):
        for name, speakers in zip(names, ("abc", "de", "fg")):
            write_speakers(tmp_path / "data" / name, speakers)
        manifests = prepare_folder(tmp_path / "data", tmp_path / "out", **SMALL)
        assert [speakers_of(path) <= set(own) for path, own in zip(manifests.values(), ("abc", "de", "fg"))] == [
            True
        ] * 3

    def test_dynamic_mixing_lists_the_training_speech(self, tmp_path):
        data = write_speakers(tmp_path / "data", "abcdefghijk")
        manifests = prepare_folder(data, tmp_path / "out", num_spks=3, dynamic_mixing=True, **SMALL)
        assert manifests["train"].name == "train_utterances.csv"
        assert not (tmp_path / "out" / "train.csv").exists()
        assert len({utterance.speaker for utterance in read_utterances(manifests["train"], 8000)}) == 5
        example = dynamic_mixtures(manifests["train"], 2, 3, 8000, (0.3, 0.5))[1]
        assert torch.allclose(example["mix_sig"], example["s1_sig"] + example["s2_sig"] + example["s3_sig"], atol=1e-6)
        assert len(separation_dataset(manifests["test"], 3, 8000)) == 2

    def test_a_second_run_keeps_and_another_setting_makes_anew(self, tmp_path, caplog):
        data = write_speakers(tmp_path / "data", "abcdefgh")

        def mixtures(**settings):
            prepare_folder(data, tmp_path / "out", **{**SMALL, **settings})
            return {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

        first = mixtures()
        times = {path: path.stat().st_mtime_ns for path in first}
        with caplog.at_level(logging.INFO):
            assert mixtures() == first
        assert "prepared already" in caplog.text
        assert {path: path.stat().st_mtime_ns for path in first} == times
        assert mixtures(seed=2) != first
        assert mixtures() == first
        (tmp_path / "out" / "mixtures" / "test" / "mix").rename(tmp_path / "gone")
        assert mixtures() == first

    def test_bad_data_are_named(self, tmp_path, caplog):
        with pytest.raises(FileNotFoundError, match=r"does not exist: it should hold speaker/\*\*/\*.wav"):
            prepare_folder(tmp_path / "missing", tmp_path / "out")
        data = write_speakers(tmp_path / "data", "abcdef")
        with pytest.raises(ValueError, match="16000 Hz are wanted"):
            prepare_folder(data, tmp_path / "out", sample_rate=16000)
        with pytest.raises(ValueError, match=r"have 6 speaker\(s\), .* mixtures of 3 speakers need at least 9"):
            prepare_folder(data, tmp_path / "out", num_spks=3)
        with pytest.raises(ValueError, match="add up to 1"):
            prepare_folder(data, tmp_path / "out", fractions=(0.5, 0.1, 0.1))
        write_speakers(data / "train", "ab")
        with pytest.raises(ValueError, match="no folder for valid and test"):
            prepare_folder(data, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_split_with_too_few_speakers_is_named(self, tmp_path):
        for name, speakers in (("train", "abc"), ("valid", "d"), ("test", "ef")):
            write_speakers(tmp_path / "data" / name, speakers)
        with pytest.raises(ValueError, match=r"data for valid cannot be mixed: num_spks is 2, .* 1 speaker"):
            prepare_folder(tmp_path / "data", tmp_path / "out", **SMALL)

    def test_a_corrupt_file_is_named_and_skipped(self, tmp_path, caplog):
        data = write_speakers(tmp_path / "data", "abcdef")
        (data / "a" / "empty.wav").write_bytes(b"")
        prepare_folder(data, tmp_path / "out", **SMALL)
        assert "empty.wav" in caplog.text


class TestFsdd:
    @pytest.fixture
    def data(self, tmp_path):
        for speaker in ("george", "theo", "lucas"):
            for digit in range(2):
                for take in (0, 4, 5, 7, 8, 49):
                    write_noise(tmp_path / "fsdd" / "recordings" / f"{digit}_{speaker}_{take}.wav", seconds=0.2)
        return tmp_path / "fsdd"

    def test_takes_decide_the_split(self, tmp_path, data):
        manifests = prepare_fsdd(data, tmp_path / "out", dynamic_mixing=True, **SMALL)
        takes = {utterance.path.rsplit("_", 1)[1] for utterance in read_utterances(manifests["train"], 8000)}
        assert takes == {"8.wav", "49.wav"}

        # takes that are not for the test leave no trace in the test mixtures
        def test_mixtures(out):
            return [path.read_bytes() for path in sorted((tmp_path / out / "mixtures" / "test").rglob("*.wav"))]

        before = test_mixtures("out")
        for speaker in ("george", "theo", "lucas"):
            for digit in range(2):
                for take in (5, 7, 8, 49):
                    write_noise(data / "recordings" / f"{digit}_{speaker}_{take}.wav", seconds=0.3)
        prepare_fsdd(data, tmp_path / "again", dynamic_mixing=True, **SMALL)
        assert test_mixtures("again") == before

    def test_strings_of_digits_of_two_speakers(self, tmp_path, data):
        manifests = prepare_fsdd(data / "recordings", tmp_path / "out", **{**SMALL, "seconds": (0.5, 0.9)})
        for split, path in manifests.items():
            rows = read_rows(path)
            assert len(rows) == SMALL[f"{split}_mixtures"]
            for row in rows:
                assert len(set(row["ID"].split("_")[1:])) == 2
                assert 0.5 <= audio_info(row["mix_wav"], 8000).seconds <= 0.9

    def test_bad_data_are_named(self, tmp_path, data):
        with pytest.raises(FileNotFoundError, match="should be a clone of free-spoken-digit-dataset"):
            prepare_fsdd(tmp_path / "missing", tmp_path / "out")
        with pytest.raises(ValueError, match="the speech has 3 speaker"):
            prepare_fsdd(data, tmp_path / "out", num_spks=4)
        write_noise(tmp_path / "other" / "speech.wav")
        with pytest.raises(ValueError, match="has no speech"):
            prepare_fsdd(tmp_path / "other", tmp_path / "out")


class TestWsj0Mix:
    @pytest.fixture
    def data(self, tmp_path):
        for num_spks in (2, 3):
            for subset in ("tr", "cv", "tt"):
                for name in ("a", "b"):
                    folder = tmp_path / "wsj" / f"{num_spks}speakers" / "wav8k" / "min" / subset
                    for key in ("mix", "s1", "s2", "s3")[: num_spks + 1]:
                        write_noise(folder / key / f"{name}.wav", seconds=0.1)
        return tmp_path / "wsj"

    @pytest.mark.parametrize("num_spks", [2, 3])
    @pytest.mark.parametrize("below", [False, True])
    def test_every_mixture_is_listed(self, tmp_path, data, num_spks, below):
        root = data / f"{num_spks}speakers" if below else data
        manifests = prepare_wsj0mix(root, tmp_path / "out", num_spks=num_spks)
        for path in manifests.values():
            dataset = separation_dataset(path, num_spks, 8000, data_root=root)
            assert [example["id"] for example in dataset] == ["a", "b"]
        assert read_rows(manifests["train"])[0]["duration"] == "0.1"

    def test_a_mixture_with_a_bad_file_is_named_and_skipped(self, tmp_path, data, caplog):
        train = data / "2speakers" / "wav8k" / "min" / "tr"
        (train / "s2" / "a.wav").write_bytes(b"broken")
        test = data / "2speakers" / "wav8k" / "min" / "tt"
        write_noise(test / "s1" / "b.wav", seconds=0.2)
        manifests = prepare_wsj0mix(data, tmp_path / "out")
        assert [row["ID"] for row in read_rows(manifests["train"])] == ["b"]
        assert [row["ID"] for row in read_rows(manifests["test"])] == ["a"]
        assert "Skipped the mixture 'a'" in caplog.text
        assert "unequal lengths" in caplog.text
        (train / "mix" / "b.wav").write_bytes(b"broken")
        with pytest.raises(ValueError, match="None of the 2 mixtures"):
            prepare_wsj0mix(data, tmp_path / "other")

    def test_dynamic_mixing_lists_the_speech(self, tmp_path, data):
        for name in ("011/011a", "011/011b", "022/022a"):
            write_noise(tmp_path / "si_tr_s" / f"{name}.wav")
        manifests = prepare_wsj0mix(data, tmp_path / "out", base_folder_dm=tmp_path / "si_tr_s")
        assert [utterance.speaker for utterance in read_utterances(manifests["train"], 8000)] == ["011", "011", "022"]

    def test_a_second_run_keeps_the_manifests(self, tmp_path, data):
        manifests = prepare_wsj0mix(data, tmp_path / "out")
        before = manifests["train"].stat().st_mtime_ns
        assert prepare_wsj0mix(data, tmp_path / "out") == manifests
        assert manifests["train"].stat().st_mtime_ns == before
        prepare_wsj0mix(data, tmp_path / "out", num_spks=3)
        assert "s3_wav" in read_rows(manifests["train"])[0]

    def test_bad_data_are_named(self, tmp_path, data):
        out = tmp_path / "out"
        with pytest.raises(
            FileNotFoundError, match=r"expected are 2speakers/wav8k/min/\{tr,cv,tt\}/\{mix,s1,s2\}/\*\.wav"
        ):
            prepare_wsj0mix(tmp_path / "missing", out)
        with pytest.raises(FileNotFoundError, match="2speakers/wav16k/max"):
            prepare_wsj0mix(data, out, sample_rate=16000, mode="max")
        with pytest.raises(ValueError, match=r"num_spks is 3, but the data folder is .*2speakers"):
            prepare_wsj0mix(data / "2speakers", out, num_spks=3)
        (data / "2speakers").rename(data / "mixtures")
        with pytest.raises(ValueError, match=r"num_spks is 3, but .* has the sources of 2 speakers: set num_spks to 2"):
            prepare_wsj0mix(data / "mixtures", out, num_spks=3)
        with pytest.raises(ValueError, match="sample_rate is 44100"):
            prepare_wsj0mix(data, out, sample_rate=44100)
        with pytest.raises(ValueError, match="mode is 'mean'"):
            prepare_wsj0mix(data, out, mode="mean")
        assert not out.exists()


@pytest.mark.parametrize("name", ["prepare_folder", "prepare_fsdd", "prepare_wsj0mix"])
def test_as_scripts_they_say_what_is_wrong_in_one_line(tmp_path, capsys, name):
    with pytest.raises(SystemExit) as exited:
        load(name).main([str(tmp_path / "missing"), str(tmp_path / "out")])
    assert exited.value.code == 1
    error = capsys.readouterr().err
    assert "missing" in error
    assert error.count("\n") == 1


def test_as_a_script_it_prepares(tmp_path):
    write_speakers(tmp_path / "data", "abcdef")
    options = (
        "--num_spks 2 --seconds 0.3 0.5 --train_mixtures 1 --valid_mixtures 1 --test_mixtures 1 --fractions .6 .2 .2"
    )
    load("prepare_folder").main([str(tmp_path / "data"), str(tmp_path / "out"), *options.split()])
    assert len(read_rows(tmp_path / "out" / "test.csv")) == 1
