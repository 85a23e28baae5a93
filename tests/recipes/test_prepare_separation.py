"""The preparations of the separation recipe."""

import csv
import importlib.util
import json
import logging
from pathlib import Path

import pytest
import torch

from speechbrain_mamba.dataio.audio import audio_info, write_audio
from speechbrain_mamba.dataio.mixing import dynamic_mixtures
from speechbrain_mamba.dataio.mixture_dataset import separation_dataset
from speechbrain_mamba.dataio.utterances import read_utterances

RECIPES = Path(__file__).parents[2] / "recipes" / "separation"
SPLITS = ("train", "valid", "test")
SMALL = {"seconds": (0.3, 0.5), "train_mixtures": 3, "valid_mixtures": 2, "test_mixtures": 2}


def load(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prepare_folder = load("prepare_folder").prepare_folder
prepare_fsdd, fsdd_split = (getattr(load("prepare_fsdd"), name) for name in ("prepare_fsdd", "fsdd_split"))
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

    def test_names_of_divided_data(self, tmp_path):
        """Any case, any number of folders for a split, and no folder that only looks like one."""
        data = tmp_path / "data"
        for name, speaker in (
            ("Train_other", "a"),
            ("TR", "b"),
            ("train-clean-100", "c"),
            ("Dev", "de"),
            ("EVAL", "fg"),
        ):
            for one in speaker:
                write_noise(data / name / one / "0.wav")
        write_noise(data / "trainer" / "x" / "0.wav")
        write_noise(data / ".train-old" / "y" / "0.wav")
        (data / "test.txt").touch()
        (data / "train").touch()
        manifests = prepare_folder(data, tmp_path / "out", dynamic_mixing=True, **SMALL)
        assert {utterance.speaker for utterance in read_utterances(manifests["train"], 8000)} == set("abc")
        assert speakers_of(manifests["valid"]) == set("de")
        assert speakers_of(manifests["test"]) == set("fg")

    def test_a_name_that_begins_like_a_split_is_a_speaker(self, tmp_path):
        data = write_speakers(tmp_path / "data", ("trainer", "testament", "devon", "evaluator", "tracy", "cvetka"))
        manifests = prepare_folder(data, tmp_path / "out", **SMALL)
        assert len(set().union(*map(speakers_of, manifests.values()))) == 6

    @pytest.mark.parametrize(
        ("fractions", "training"), [((), 24), ((0.6, 0.3, 0.1), 18), ((0.5, 0.1, 0.4), 15), ([0.3, 0.3, 0.4], 9)]
    )
    @pytest.mark.parametrize("as_script", [False, True])
    def test_shares_of_the_speakers(self, tmp_path, fractions, training, as_script):
        data, out = tmp_path / "data", tmp_path / "out"
        for i in range(30):
            write_noise(data / f"{i:02d}" / "0.wav", seconds=0.05)
        options = {"seconds": (0.02, 0.02), "train_mixtures": 1, "valid_mixtures": 1, "test_mixtures": 1}
        if as_script:
            flags = [
                f"--{key} {' '.join(map(str, value)) if key == 'seconds' else value}" for key, value in options.items()
            ]
            flags += [f"--fractions {' '.join(map(str, fractions))}"] if fractions else []
            load("prepare_folder").main([str(data), str(out), "--dynamic_mixing", *" ".join(flags).split()])
        else:
            prepare_folder(data, out, dynamic_mixing=True, **options, **({"fractions": fractions} if fractions else {}))
        utterances = read_utterances(out / "train_utterances.csv", 8000)
        assert len({utterance.speaker for utterance in utterances}) == training
        assert json.loads((out / "prepared.json").read_text())["fractions"] == list(fractions or (0.8, 0.1, 0.1))

    def test_the_seed_shares_the_speakers_out(self, tmp_path):
        data = write_speakers(tmp_path / "data", "abcdefghijkl", seconds=0.05)
        shares = set()
        for seed in (1, 2, 3):
            options = {**SMALL, "seconds": (0.02, 0.02), "dynamic_mixing": True, "seed": seed}
            manifests = prepare_folder(data, tmp_path / "out", **options)
            shares.add(frozenset(utterance.speaker for utterance in read_utterances(manifests["train"], 8000)))
        assert len(shares) == 3

    def test_other_data_or_shares_are_prepared_anew(self, tmp_path, monkeypatch):
        for name, speakers in (("one", "abcdefgh"), ("two", "ijklmnop")):
            write_speakers(tmp_path / name, speakers, seconds=0.05)
        monkeypatch.chdir(tmp_path)

        def training(data, **options):
            options = {**SMALL, "seconds": (0.02, 0.02), "dynamic_mixing": True, **options}
            manifests = prepare_folder(data, "out", **options)
            assert all(path.is_absolute() for path in manifests.values())
            return {utterance.speaker for utterance in read_utterances(manifests["train"], 8000)}

        assert len(training("one")) == 4
        assert training("two") <= set("ijklmnop")
        assert len(training("two", fractions=(0.3, 0.4, 0.3))) == 3
        assert json.loads(Path("out/prepared.json").read_text())["data_folder"] == str(tmp_path / "two")

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
        assert "Prepared already" in caplog.text
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

    def test_the_first_takes_are_for_the_test_and_the_next_for_validation(self):
        takes = {split: [take for take in range(50) if fsdd_split(f"3_theo_{take}.wav") == split] for split in SPLITS}
        assert takes == {"train": list(range(8, 50)), "valid": [5, 6, 7], "test": [0, 1, 2, 3, 4]}

    def test_validation_hears_its_takes_alone(self, tmp_path, data):
        def valid_mixtures(out):
            prepare_fsdd(data, tmp_path / out, dynamic_mixing=True, **SMALL)
            return [path.read_bytes() for path in sorted((tmp_path / out / "mixtures" / "valid").rglob("*.wav"))]

        before = valid_mixtures("out")
        for take, same in ((4, True), (8, True), (7, False)):
            for speaker in ("george", "theo", "lucas"):
                write_noise(data / "recordings" / f"1_{speaker}_{take}.wav", seconds=0.25)
            assert (valid_mixtures(f"out{take}") == before) is same

    def test_other_data_and_other_settings_are_prepared_anew(self, tmp_path, data):
        (data / "recordings" / "notes.wav").write_text("no recording by its name")
        prepare_fsdd(data, tmp_path / "out", **SMALL)
        first = (tmp_path / "out" / "test.csv").read_text()
        (data / "recordings").rename(tmp_path / "moved")
        prepare_fsdd(tmp_path / "moved", tmp_path / "out", **SMALL)
        assert json.loads((tmp_path / "out" / "prepared.json").read_text())["fsdd"] == str(tmp_path / "moved")
        prepare_fsdd(tmp_path / "moved", tmp_path / "out", **SMALL, seed=3, num_spks=3)
        assert (tmp_path / "out" / "test.csv").read_text() != first
        assert len(speakers_of(tmp_path / "out" / "test.csv")) == 3

    def test_as_a_script(self, tmp_path, data):
        options = "--num_spks 3 --seconds 0.3 0.4 --train_mixtures 2 --valid_mixtures 3 --test_mixtures 4 --seed 9"
        load("prepare_fsdd").main([str(data), str(tmp_path / "out"), *options.split()])
        assert [len(read_rows(tmp_path / "out" / f"{split}.csv")) for split in SPLITS] == [2, 3, 4]
        stamp = json.loads((tmp_path / "out" / "prepared.json").read_text())
        assert (stamp["num_spks"], stamp["seconds"], stamp["seed"]) == (3, [0.3, 0.4], 9)

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
        assert [utterance.samples for utterance in read_utterances(manifests["train"], 8000)] == [3200] * 3
        assert [row["ID"] for row in read_rows(tmp_path / "out" / "train.csv")] == ["a", "b"]

    def test_a_second_run_keeps_the_manifests(self, tmp_path, data):
        manifests = prepare_wsj0mix(data, tmp_path / "out")
        before = manifests["train"].stat().st_mtime_ns
        assert prepare_wsj0mix(data, tmp_path / "out") == manifests
        assert manifests["train"].stat().st_mtime_ns == before
        prepare_wsj0mix(data, tmp_path / "out", num_spks=3)
        assert "s3_wav" in read_rows(manifests["train"])[0]
        manifests["valid"].unlink()
        prepare_wsj0mix(data, tmp_path / "out", num_spks=3)
        assert len(read_rows(manifests["valid"])) == 2

    def test_every_argument_makes_manifests_anew(self, tmp_path, data, monkeypatch):
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
        stamp = json.loads(Path("out/prepared.json").read_text())
        assert stamp == {
            "data_folder": str(tmp_path / "wsj" / "3speakers"), "num_spks": 3, "sample_rate": 16000, "mode": "min",
            "base_folder_dm": str(tmp_path / "speech16"),
        }  # fmt: skip

        flags = ["--num_spks", "3", "--sample_rate", "16000", "--mode", "max", "--base_folder_dm", "speech16"]
        load("prepare_wsj0mix").main(["wsj", "script", *flags])
        assert json.loads(Path("script/prepared.json").read_text()) == {
            **stamp, "data_folder": str(tmp_path / "wsj"), "mode": "max"
        }  # fmt: skip
        load("prepare_wsj0mix").main(["wsj", "script"])
        assert json.loads(Path("script/prepared.json").read_text()) == {
            "data_folder": str(tmp_path / "wsj"), "num_spks": 2, "sample_rate": 8000, "mode": "min",
            "base_folder_dm": None,
        }  # fmt: skip

    def test_hidden_files_are_no_mixtures(self, tmp_path, data):
        (data / "2speakers" / "wav8k" / "min" / "tt" / "mix" / "._a.wav").write_bytes(b"of another system")
        manifests = prepare_wsj0mix(data, tmp_path / "out")
        assert [row["ID"] for row in read_rows(manifests["test"])] == ["a", "b"]

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
        (data / "3speakers").rename(data / "triples")
        with pytest.raises(ValueError, match=r"num_spks is 2, but .* has the sources of 3 speakers: set num_spks to 3"):
            prepare_wsj0mix(data / "triples", out, num_spks=2)
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
