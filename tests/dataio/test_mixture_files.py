"""Mixtures on disk."""

import csv

import pytest
import soundfile
import torch

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.dataio.mixing import MixtureSampler
from speechbrain_mamba.dataio.mixture_files import manifest_files, write_mixtures


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_mixtures_on_disk_add_up_exactly(tmp_path, utterances):
    write_mixtures(MixtureSampler(utterances, 3, 8000, (0.3, 0.6)), 4, tmp_path / "test", tmp_path / "test.csv")
    rows = read_rows(tmp_path / "test.csv")
    assert list(rows[0]) == ["ID", "duration", "mix_wav", "s1_wav", "s2_wav", "s3_wav"]
    assert len({row["ID"] for row in rows}) == 4
    for row in rows:
        mix, *sources = (read_audio(row[f"{name}_wav"], 8000) for name in ("mix", "s1", "s2", "s3"))
        assert torch.equal(mix, sum(sources))
        assert float(row["duration"]) == len(mix) / 8000


def test_files_hold_what_was_drawn(tmp_path, voices):
    sampler = MixtureSampler(voices, 3, 8000, (0.05, 0.1), seed=9)
    write_mixtures(sampler, 3, tmp_path / "out" / "valid", tmp_path / "lists" / "valid.csv")
    rows = read_rows(tmp_path / "lists" / "valid.csv")
    for index, row in enumerate(rows):
        mixture = sampler.draw(index)
        assert row["ID"] == "_".join([f"{index:06d}", *mixture.speakers])
        for name, source in zip(("s1", "s2", "s3"), mixture.sources):
            assert row[f"{name}_wav"] == str(tmp_path / "out" / "valid" / name / f"{row['ID']}.wav")
            torch.testing.assert_close(read_audio(row[f"{name}_wav"], 8000), source, atol=0.51 / 32768, rtol=0)
        assert soundfile.info(row["mix_wav"]).subtype == "PCM_16"
    assert len(rows) == 3
    with pytest.raises(ValueError, match="number of mixtures is 0, but must be at least 1"):
        write_mixtures(sampler, 0, tmp_path / "none", tmp_path / "none.csv")


def test_a_manifest_comes_with_all_its_files(tmp_path, voices):
    manifest = tmp_path / "test.csv"
    assert list(manifest_files(manifest)) == [manifest]
    write_mixtures(MixtureSampler(voices, 3, 8000, (0.05, 0.1)), 2, tmp_path / "test", manifest)
    assert set(manifest_files(manifest)) == {manifest, *(tmp_path / "test").rglob("*.wav")}
    assert len(list(manifest_files(str(manifest)))) == 9


@pytest.mark.parametrize("same", [True, False])
def test_an_interrupted_list_goes_on_with_the_same_parameters_alone(tmp_path, voices, same):
    def write(seed, count=3, fail_at=None):
        sampler = MixtureSampler(voices, 2, 8000, (0.05, 0.1), seed)
        draw = sampler.draw
        sampler.draw = lambda index: draw(index / 0 if index == fail_at else index)
        write_mixtures(sampler, count, tmp_path / "out", tmp_path / "out.csv")
        return {path: content for path, (content, _) in files_below(tmp_path / "out").items()}

    expected = write(seed=3)
    write(seed=1)
    with pytest.raises(ZeroDivisionError):
        write(seed=3 if same else 2, fail_at=2)
    assert not (tmp_path / "out.csv").exists()
    begun = files_below(tmp_path / "out")
    assert write(seed=3) == expected
    kept = [path for path, state in files_below(tmp_path / "out").items() if state == begun.get(path)]
    assert bool(kept) == same
    assert len(write(seed=3, count=2)) < len(expected)


def files_below(folder):
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_mixtures_on_disk_are_kept_completed_or_made_anew(tmp_path, utterances, caplog):
    caplog.set_level("INFO")

    def write(seed=0):
        sampler = MixtureSampler(utterances, 2, 8000, (0.3, 0.6), seed)
        write_mixtures(sampler, 4, tmp_path / "out" / "test", tmp_path / "out" / "test.csv")
        return files_below(tmp_path / "out")

    (tmp_path / "out" / "test").mkdir(parents=True)  # which an empty folder is no hindrance to
    first = write()
    assert not caplog.records
    assert write() == first
    assert "Prepared already" in caplog.text
    row = read_rows(tmp_path / "out" / "test.csv")[2]
    (tmp_path / "out" / "test.csv").unlink()
    (tmp_path / "out" / "test" / "s1" / f"{row['ID']}.wav").rename(tmp_path / "out" / "test" / "s1" / ".half.wav")
    completed = write()
    assert {path: content for path, (content, _) in completed.items()} == {
        path: content for path, (content, _) in first.items()
    }
    assert sum(completed[path] != first[path] for path in first) == 3  # manifest, source and stamp
    other = write(seed=1)
    assert "are made again" in caplog.text
    assert not any(first[path] == other[path] for path in first.keys() & other.keys())
    assert len(other) == len(first)


def test_a_folder_of_other_files_is_left_alone(tmp_path, utterances):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(
        ValueError, match=r"mine' is not empty and was not written by this preparation, .* choose another"
    ):
        write_mixtures(MixtureSampler(utterances, 2, 8000), 1, tmp_path / "mine", tmp_path / "test.csv")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
