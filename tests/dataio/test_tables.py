"""Manifests that are read from their files row by row."""

import csv
import itertools
import pickle

import numpy as np
import pytest
from torch.utils.data import DataLoader

from speechbrain_mamba.dataio import manifests, tables
from speechbrain_mamba.dataio.length_batches import LengthBatches, length_sampler
from speechbrain_mamba.dataio.manifests import read_manifest
from speechbrain_mamba.dataio.selection import select_usable
from speechbrain_mamba.dataio.speech_datasets import piece_dataset
from speechbrain_mamba.dataio.tables import ManifestTable, TableDataset, keep_items, open_table


@pytest.fixture
def write(tmp_path):
    """Write a manifest with odd texts; returns its path."""

    def write(name="train.csv", count=20, first=0, extra="", encoding="utf-8", end="\n"):
        path = tmp_path / name
        with open(path, "w", newline="", encoding=encoding) as file:
            writer = csv.writer(file, lineterminator=end)
            writer.writerow(["ID", "duration", "wav", "wrd"])
            for i in range(first, first + count):
                writer.writerow([f"utt{i}", 1 + i / 8, f"$data_root/{i}.wav", f'ÄRGER, "{i}"' if i % 3 else "JA"])
                file.write(end if i % 5 == 2 else "")  # an empty line
            file.write(extra)
        return path

    return write


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(tables, "LARGE_BYTES", 1)


@pytest.mark.parametrize("style", [{}, {"encoding": "utf-8-sig"}, {"end": "\r\n"}])
def test_a_large_manifest_holds_what_a_small_one_holds(write, monkeypatch, style):
    path = write(**style)
    small = read_manifest(path, "speech")
    monkeypatch.setattr(tables, "LARGE_BYTES", 1)
    table = read_manifest(path, "speech")
    assert isinstance(small, dict) and isinstance(table, ManifestTable)
    assert dict(table) == small and list(table) == list(small) and len(table) == 20
    assert list(table.values()) == list(small.values()) and list(table.items()) == list(small.items())
    assert table["utt7"]["wrd"] == 'ÄRGER, "7"' and "utt7" in table and "utt99" not in table and 7 not in table
    assert table.durations.tolist() == [item["duration"] for item in small.values()]
    with pytest.raises(KeyError, match="utt99"):
        table["utt99"]


def test_several_files_are_one_table(write, large):
    table = read_manifest([write("a.csv", 3), write("b.csv", 4, first=3)], "speech")
    assert list(table) == [f"utt{i}" for i in range(7)] and table["utt5"]["wav"] == "speech/5.wav"


def test_an_index_is_used_until_a_file_changes(write, large, monkeypatch):
    path, written = write(), []
    write_index = tables._write_index
    monkeypatch.setattr(tables, "_write_index", lambda *a: (written.append(1), write_index(*a)))
    read_manifest(path, "speech")
    read_manifest(path, "elsewhere")
    assert len(written) == 1
    write(count=21)
    assert len(read_manifest(path, "speech")) == 21 and len(written) == 2
    assert len(list((path.parent / ".manifest_index").glob("*/facts.json"))) == 1  # that of the old file is removed


def test_an_index_goes_to_the_cache_if_the_folder_is_not_writable(write, large, monkeypatch, tmp_path):
    path = write()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tables.tempfile, "TemporaryFile", lambda dir: (_ for _ in ()).throw(PermissionError))
    assert len(read_manifest(path, "speech")) == 20
    assert list((tmp_path / "cache/speechbrain_mamba/manifest_index").glob("*/facts.json"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("utt3,1,a.wav,X\n", r"line \d+, column 'ID': the id 'utt3' occurs twice, first in line 6 of "),
        ("new,-1,a.wav,X\n", r"column 'duration': '-1' must be a number of seconds above 0"),
        ("new,1,a.wav\n", r"the row has 3 values, but there are 4 columns"),
    ],
)
def test_all_rows_are_checked_before_one_is_used(write, large, tmp_path, extra, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(write(extra=extra), "speech")
    assert not list((tmp_path / ".manifest_index").glob("*/facts.json"))


def test_ids_of_one_hash_are_told_apart(write, large, monkeypatch):
    monkeypatch.setattr(tables, "_hash", lambda name: len(name))
    table = read_manifest(write(), "speech")
    assert [table[name]["duration"] for name in ("utt3", "utt13")] == [1.375, 2.625] and "utt99" not in table
    with pytest.raises(ValueError, match="occurs twice"):
        read_manifest(write(extra="utt13,1,a.wav,X\n"), "speech")


def test_parts_of_a_table_are_tables(write, large):
    table = read_manifest(write(), "speech")
    long = keep_items(table, lambda name, item: item["duration"] > 2)
    assert isinstance(long, ManifestTable) and "utt3" not in long and len(long) == 11
    assert long["utt9"] == table["utt9"] and long.durations.min() > 2
    assert list(keep_items(long, lambda name, item: name != "utt9"))[:2] == ["utt10", "utt11"]
    again = pickle.loads(pickle.dumps(long))
    assert dict(again) == dict(long)


class Letters:
    def encode(self, text):
        return [1] * len(text)

    def unk_id(self):
        return 0


def test_recognizers_leave_out_rows_of_a_table(write, large):
    usable = select_usable(read_manifest(write(), "speech"), Letters(), "utterances", lambda item: 4)
    assert isinstance(usable, ManifestTable) and list(usable)[:3] == ["utt0", "utt3", "utt6"]


def test_a_dataset_of_a_table_reads_its_rows(write, large, tmp_path):
    table = read_manifest(write(), tmp_path)
    dataset = piece_dataset(table, 8000, keys=["wrd"])
    assert isinstance(dataset, TableDataset) and len(dataset) == 20
    dataset.set_output_keys(["id", "wav"])
    assert dataset[3] == {"id": "utt3", "wav": f"{tmp_path}/3.wav"}
    assert dataset.data_ids[-1] == "utt19" and dataset.data_ids[1:3] == ["utt1", "utt2"]
    with pytest.raises(IndexError):
        dataset.data_ids[20]
    sampler = length_sampler(dataset, 10, 3, None, seed=1)
    assert isinstance(sampler, LengthBatches)
    loader = DataLoader(
        dataset, batch_sampler=sampler, num_workers=2, collate_fn=lambda items: [i["id"] for i in items]
    )
    assert sorted(itertools.chain(*loader)) == sorted(table)
    assert len(dataset.filtered_sorted(key_min_value={"duration": 3.0})) == 4


def test_manifests_without_durations_are_tables_too(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("ID,wav\na,a.wav\n")
    assert np.isnan(open_table([path]).durations).all() and not tables.is_large([path])
    assert manifests.find_line(path, "a") == 2
