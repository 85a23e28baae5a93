"""Which data the separation recipe reads."""

from pathlib import Path

import pytest
import torch

from speechbrain_mamba.corpora.preparation import prepare_separation
from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.dataio.augmentation import MixtureAugmentation
from speechbrain_mamba.dataio.dynamic_mixing import dynamic_mixtures
from speechbrain_mamba.dataio.level_laws import PublishedLaw, Wsj0MixLaw
from tests.recipes.conftest import RATE, SPEAKERS, table, write_set


def make_datasets(separation, settings):
    """The data of the recipe: for training, validation and test."""
    train, valid, tests = separation.SeparationBrain.make_datasets(None, settings)
    return [train, valid, tests["test"]]


class TestData:
    @pytest.fixture
    def settings(self, tmp_path, corpus):
        """Settings that are no one's defaults."""
        return {
            "data_folder": str(corpus), "save_folder": str(tmp_path / "save"), "num_spks": SPEAKERS,
            "sample_rate": RATE, "dynamic_mixing": False, "train_mixtures": 2, "valid_mixtures": 3, "test_mixtures": 4,
            "seed": 77, "mixture_seconds": [0.2, 0.25], "mixtures_per_epoch": 5, "base_folder_dm": None,
            "corpus": "folder", "level_law": None, "augmentation": None,
        }  # fmt: skip

    def test_mixtures_on_disk(self, separation, settings):
        prepare_separation(settings)
        datasets = make_datasets(separation, settings)
        for dataset, split in zip(datasets, ("train", "valid", "test"), strict=True):
            rows = table(Path(settings["save_folder"]) / f"{split}.csv")
            assert [example["id"] for example in dataset] == [row["ID"] for row in rows]
            assert torch.equal(dataset[1]["s3_sig"], read_audio(rows[1]["s3_wav"], RATE))
            assert not hasattr(dataset, "set_epoch")

    @pytest.mark.parametrize(
        ("options", "law"),
        [
            ({}, Wsj0MixLaw()),
            ({"level_law": "published"}, PublishedLaw()),
            ({"corpus": "wsj0mix"}, PublishedLaw()),
            ({"corpus": "wsj0mix", "level_law": "wsj0mix"}, Wsj0MixLaw()),
        ],
    )
    def test_mixtures_on_the_fly(self, separation, settings, options, law):
        prepare_separation({**settings, "dynamic_mixing": True})
        train, *others = make_datasets(separation, {**settings, "dynamic_mixing": True, **options})
        listing = Path(settings["save_folder"]) / "train_utterances.csv"
        expected = dynamic_mixtures(listing, 5, SPEAKERS, RATE, (0.2, 0.25), seed=77, law=law)
        assert len(train) == 5
        assert all(torch.equal(train[i]["s3_sig"], expected[i]["s3_sig"]) for i in range(5))
        assert [len(dataset) for dataset in others] == [3, 4]

    def test_mixtures_on_the_fly_are_augmented(self, separation, settings):
        prepare_separation({**settings, "dynamic_mixing": True})
        augmentation = MixtureAugmentation(speeds=(80, 120), noise=1.0)
        settings |= {"dynamic_mixing": True, "augmentation": augmentation}
        train, valid, _ = make_datasets(separation, settings)
        listing = Path(settings["save_folder"]) / "train_utterances.csv"
        expected = dynamic_mixtures(listing, 5, SPEAKERS, RATE, (0.2, 0.25), seed=77, augmentation=augmentation)
        assert all(torch.equal(train[i]["s3_sig"], expected[i]["s3_sig"]) for i in range(5))
        plain = make_datasets(separation, {**settings, "augmentation": None})
        assert not torch.equal(train[0]["s3_sig"], plain[0][0]["s3_sig"])
        assert torch.equal(valid[0]["mix_sig"], plain[1][0]["mix_sig"])

    def test_manifests_may_be_relative_to_the_data_folder(self, separation, settings, tmp_path):
        write_set(tmp_path, fault="rate")
        paths = {"data_folder": str(tmp_path), "save_folder": str(tmp_path / "out" / "save")}
        datasets = make_datasets(separation, {**settings, **paths, "num_spks": 2, "sample_rate": 16000})
        assert [len(dataset[0]["mix_sig"]) for dataset in datasets] == [2000] * 3

    def test_manifests_that_were_not_made_here_are_checked(self, separation, settings, tmp_path):
        write_set(tmp_path, fault="rate")
        paths = {"data_folder": str(tmp_path), "save_folder": str(tmp_path / "out" / "save")}
        with pytest.raises(ValueError, match=r"train\.csv', line 2: 'a' cannot be used\. .* 8000 Hz are wanted"):
            make_datasets(separation, {**settings, **paths, "num_spks": 2, "sample_rate": 8000, "skip_prep": True})
        rows = "ID,duration,wav,spk_id\na,1,gone.wav,a\n"
        (tmp_path / "out/save/train_utterances.csv").write_text(rows)
        with pytest.raises(ValueError, match=r"train_utterances\.csv', line 2: 'a' cannot be used\. .*gone\.wav'"):
            make_datasets(separation, {**settings, **paths, "dynamic_mixing": True, "skip_prep": True})
