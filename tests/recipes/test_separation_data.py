"""Which data the separation recipe prepares and reads."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch

from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.mixing import dynamic_mixtures
from tests.recipes.conftest import RATE, SPEAKERS, buzz, table, write_set


class TestData:
    @pytest.fixture
    def settings(self, tmp_path, corpus):
        """Settings that are no one's defaults."""
        return {
            "data_folder": str(corpus), "save_folder": str(tmp_path / "save"), "num_spks": SPEAKERS,
            "sample_rate": RATE, "dynamic_mixing": False, "train_mixtures": 2, "valid_mixtures": 3, "test_mixtures": 4,
            "seed": 77, "mixture_seconds": [0.2, 0.25], "mixtures_per_epoch": 5, "base_folder_dm": None,
        }  # fmt: skip

    @staticmethod
    def made(settings):
        """What the preparation left: the names of the manifests, and the parameters of the stamp."""
        folder = Path(settings["save_folder"])
        return {path.name for path in folder.glob("*.csv")}, json.loads((folder / "prepared.json").read_text())

    @pytest.mark.parametrize("corpus_name", ["folder", "fsdd", "mini"])
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_a_preparation_has_every_setting(self, separation, settings, tmp_path, monkeypatch, corpus_name, dynamic):
        corpus, settings["data_folder"] = settings["data_folder"], str(tmp_path / "data")
        built = []

        def build_mini_corpus(folder, sample_rate, **options):
            built.append((folder, sample_rate, options))
            shutil.copytree(corpus, folder)

        monkeypatch.setattr(separation, "build_mini_corpus", build_mini_corpus)
        if corpus_name == "folder":
            shutil.copytree(corpus, tmp_path / "data")
        elif corpus_name == "fsdd":
            for speaker, take in itertools.product("abc", (0, 5, 9)):
                path = tmp_path / "data" / "recordings" / f"4_{speaker}_{take}.wav"
                write_audio(path, buzz(100 + 10 * take, 0.3, seed=take), RATE)
        options = {"corpus": corpus_name, "dynamic_mixing": dynamic, "mini_corpus": {"sentences": 5}}
        separation.prepare_data({**settings, **options})
        manifests, stamp = self.made(settings)
        assert manifests == {"train_utterances.csv" if dynamic else "train.csv", "valid.csv", "test.csv"}
        assert {
            "num_spks": SPEAKERS, "sample_rate": RATE, "dynamic_mixing": dynamic, "train_mixtures": 2,
            "valid_mixtures": 3, "test_mixtures": 4, "seed": 77, "seconds": [0.2, 0.25],
        }.items() <= stamp.items()  # fmt: skip
        assert str(tmp_path / "data") in "".join(map(str, stamp.values()))
        assert built == ([(str(tmp_path / "data"), RATE, {"sentences": 5})] if corpus_name == "mini" else [])

    @pytest.mark.parametrize("dynamic", [False, True])
    def test_wsj0mix_draws_from_its_speech_if_asked_to(self, separation, settings, tmp_path, dynamic):
        for subset, key in itertools.product(("tr", "cv", "tt"), ("mix", "s1", "s2", "s3")):
            path = tmp_path / "data" / "3speakers" / "wav16k" / "min" / subset / key / "a.wav"
            write_audio(path, buzz(100, 0.1, seed=1), 16000)
        for name in ("011/011a", "022/022a"):
            write_audio(tmp_path / "si_tr_s" / f"{name}.wav", buzz(100, 0.1, seed=1), 16000)
        folders = {"data_folder": str(tmp_path / "data"), "base_folder_dm": str(tmp_path / "si_tr_s")}
        options = {"corpus": "wsj0mix", "sample_rate": 16000, "dynamic_mixing": dynamic, **folders}
        separation.prepare_data({**settings, **options})
        manifests, stamp = self.made(settings)
        assert manifests == {"train.csv", "valid.csv", "test.csv"} | ({"train_utterances.csv"} if dynamic else set())
        speech = folders["base_folder_dm"] if dynamic else None
        assert stamp == {**folders, "base_folder_dm": speech, "num_spks": 3, "sample_rate": 16000, "mode": "min"}

    def test_mixtures_on_disk(self, separation, settings):
        separation.prepare_data({**settings, "corpus": "folder"})
        datasets = separation.make_datasets(settings)
        for dataset, split in zip(datasets, ("train", "valid", "test"), strict=True):
            rows = table(Path(settings["save_folder"]) / f"{split}.csv")
            assert [example["id"] for example in dataset] == [row["ID"] for row in rows]
            assert torch.equal(dataset[1]["s3_sig"], read_audio(rows[1]["s3_wav"], RATE))
            assert not hasattr(dataset, "set_epoch")

    def test_mixtures_on_the_fly(self, separation, settings):
        separation.prepare_data({**settings, "corpus": "folder", "dynamic_mixing": True})
        train, *others = separation.make_datasets({**settings, "dynamic_mixing": True})
        listing = Path(settings["save_folder"]) / "train_utterances.csv"
        expected = dynamic_mixtures(listing, 5, SPEAKERS, RATE, (0.2, 0.25), seed=77)
        assert len(train) == 5
        assert all(torch.equal(train[i]["s3_sig"], expected[i]["s3_sig"]) for i in range(5))
        assert [len(dataset) for dataset in others] == [3, 4]

    def test_manifests_may_be_relative_to_the_data_folder(self, separation, settings, tmp_path):
        write_set(tmp_path, fault="rate")
        paths = {"data_folder": str(tmp_path), "save_folder": str(tmp_path / "out" / "save")}
        datasets = separation.make_datasets({**settings, **paths, "num_spks": 2, "sample_rate": 16000})
        assert [len(dataset[0]["mix_sig"]) for dataset in datasets] == [2000] * 3
