"""Datasets of mixtures from a manifest."""

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.manifests import write_manifest
from speechbrain_mamba.dataio.mixture_dataset import separation_dataset, source_keys


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
    write_manifest(tmp_path / "test.csv", rows)
    return tmp_path / "test.csv"


def test_examples_have_the_signals_and_the_columns(manifest):
    dataset = separation_dataset(manifest, 2, 8000, data_root=manifest.parent)
    example = dataset[1]
    assert list(example) == ["id", "mix_sig", "s1_sig", "s2_sig"]
    assert example["id"] == "b"
    assert torch.equal(example["mix_sig"], example["s1_sig"] + example["s2_sig"])
    with dataset.output_keys_as(["duration"]):
        assert dataset[0]["duration"] == 100 / 8000


def test_each_source_of_three_has_its_own_key(tmp_path):
    assert source_keys(3) == ["s1", "s2", "s3"]
    for level, name in enumerate(("mix", "s1", "s2", "s3"), start=1):
        write_audio(tmp_path / f"{name}.wav", torch.full((50,), level * 1000, dtype=torch.int16), 8000)
    # as SpeechBrain's own recipes write it: with spaces, and further columns
    (tmp_path / "a.csv").write_text(
        "ID, duration, s3_wav, s2_wav, s1_wav, mix_wav, mix_wav_format, s1_wav_format, noise_wav\n"
        "a, 0.00625, $data_root/s3.wav, $data_root/s2.wav, $data_root/s1.wav, $data_root/mix.wav, wav, wav, n.wav\n"
    )
    with pytest.raises(ValueError, match="set data_root"):
        separation_dataset(tmp_path / "a.csv", 3, 8000)
    dataset = separation_dataset(tmp_path / "a.csv", 3, 8000, data_root=str(tmp_path))
    assert list(dataset[0]) == ["id", "mix_sig", "s1_sig", "s2_sig", "s3_sig"]
    levels = [float(dataset[0][f"{name}_sig"][7] * 32768) for name in ("mix", "s1", "s2", "s3")]
    assert levels == [1000, 2000, 3000, 4000]
    with dataset.output_keys_as(["noise_wav"]):
        assert dataset[0]["noise_wav"] == str(tmp_path / "n.wav")


def test_paths_without_a_data_root_need_none(manifest):
    plain = manifest.with_name("plain.csv")
    plain.write_text(manifest.read_text().replace("$data_root", str(manifest.parent)))
    assert separation_dataset(plain, 2, 8000)[0]["id"] == "a"


@pytest.mark.parametrize("num_spks", [1, 3])
def test_num_spks_must_fit_the_manifest(manifest, num_spks):
    with pytest.raises(ValueError, match=rf"num_spks is {num_spks}, but the manifest .* has mixtures of 2 speakers"):
        separation_dataset(manifest, num_spks, 8000, data_root=manifest.parent)


@pytest.mark.parametrize(("name", "samples"), [("s1", 101), ("s2", 99)])
def test_sources_of_another_length_are_named(manifest, name, samples):
    write_audio(manifest.parent / name / "b.wav", torch.zeros(samples), 8000)
    dataset = separation_dataset(manifest, 2, 8000, data_root=manifest.parent)
    assert dataset[0]["id"] == "a"
    words = f"example 'b', source {name} has {samples} samples, but the mixture has 100"
    with pytest.raises(ValueError, match=words):
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
    with pytest.raises(ValueError, match="lists nothing"):
        separation_dataset(manifest, 2, 8000)
    columns = ["ID", "duration", "mix_wav", "s1_wav"]
    for missing in columns:
        kept = [column for column in columns if column != missing]
        manifest.write_text(f"{','.join(kept)}\na,1.0,a.wav\n")
        with pytest.raises(ValueError, match=rf"no column '{missing}'"):
            separation_dataset(manifest, 2, 8000)
