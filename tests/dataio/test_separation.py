"""Datasets of mixtures from a manifest."""

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.separation import separation_dataset
from speechbrain_mamba.utils.files import write_csv


@pytest.fixture
def manifest(tmp_path):
    """A manifest with two mixtures of two speakers."""
    rows = []
    for name in ("a", "b"):
        sources = torch.randint(-8000, 8000, (2, 100), dtype=torch.int16)
        row = {"ID": name, "duration": 100 / 8000}
        for key, signal in (("mix", sources.sum(0, dtype=torch.int16)), ("s1", sources[0]), ("s2", sources[1])):
            write_audio(tmp_path / key / f"{name}.wav", signal, 8000)
            row[f"{key}_wav"] = f"$data_root/{key}/{name}.wav"
        rows.append(row)
    write_csv(tmp_path / "test.csv", rows, list(rows[0]))
    return tmp_path / "test.csv"


def test_examples_have_the_signals_and_the_columns(manifest):
    dataset = separation_dataset(manifest, 2, 8000, data_root=manifest.parent)
    example = dataset[1]
    assert list(example) == ["id", "mix_sig", "s1_sig", "s2_sig"]
    assert example["id"] == "b"
    assert torch.equal(example["mix_sig"], example["s1_sig"] + example["s2_sig"])
    with dataset.output_keys_as(["duration"]):
        assert dataset[0]["duration"] == 100 / 8000


@pytest.mark.parametrize("num_spks", [1, 3])
def test_num_spks_must_fit_the_manifest(manifest, num_spks):
    with pytest.raises(ValueError, match=rf"num_spks is {num_spks}, but the manifest .* has mixtures of 2 speakers"):
        separation_dataset(manifest, num_spks, 8000, data_root=manifest.parent)


def test_sources_of_another_length_are_named(manifest):
    write_audio(manifest.parent / "s2" / "b.wav", torch.zeros(99), 8000)
    dataset = separation_dataset(manifest, 2, 8000, data_root=manifest.parent)
    assert dataset[0]["id"] == "a"
    with pytest.raises(ValueError, match="example 'b', source s2 has 99 samples, but the mixture has 100"):
        dataset[1]


def test_files_of_another_rate_are_named(manifest):
    dataset = separation_dataset(manifest, 2, 16000, data_root=manifest.parent)
    with pytest.raises(ValueError, match="8000 Hz, but 16000 Hz are wanted"):
        dataset[0]


def test_an_unusable_manifest_is_named(manifest):
    with pytest.raises(ValueError, match="set data_root"):
        separation_dataset(manifest, 2, 8000)
    with pytest.raises(FileNotFoundError, match="prepare the data first"):
        separation_dataset(manifest.parent / "train.csv", 2, 8000)
    manifest.write_text("ID,duration,mix_wav,s1_wav,s2_wav\n")
    with pytest.raises(ValueError, match="lists no mixture"):
        separation_dataset(manifest, 2, 8000)
    manifest.write_text("ID,duration,noisy_wav\na,1.0,a.wav\n")
    with pytest.raises(ValueError, match="lacks the column mix_wav"):
        separation_dataset(manifest, 2, 8000)
