"""Manifests: what is read is what was written."""

import json

import pytest

from speechbrain_mamba.dataio.manifests import find_manifests, read_manifest, write_manifest

ROW = {"ID": "a", "duration": 0.5, "wav": "$data_root/a.wav", "wrd": "ABBA", "spk_id": "x"}


def test_csv_and_json_manifests_are_the_same(tmp_path):
    write_manifest(tmp_path / "a.csv", [ROW])
    (tmp_path / "a.json").write_text(json.dumps({"a": {key: value for key, value in ROW.items() if key != "ID"}}))
    expected = {"a": {"duration": 0.5, "wav": "/data/a.wav", "wrd": "ABBA", "spk_id": "x"}}
    assert read_manifest(tmp_path / "a.csv", "/data") == read_manifest(tmp_path / "a.json", "/data") == expected


def test_a_manifest_keeps_its_order_and_all_columns(tmp_path):
    rows = [
        {**ROW, "ID": name, "duration": 0.5 + index, "wrd": f'SAY "{name}", ÜBER'} for index, name in enumerate("bca")
    ]
    write_manifest(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[0] == "ID,duration,wav,wrd,spk_id"
    items = read_manifest(tmp_path / "a.csv", "/data")
    assert list(items) == ["b", "c", "a"]
    for row in rows:
        kept = {key: value for key, value in row.items() if key != "ID"}
        assert items[row["ID"]] == kept | {"wav": "/data/a.wav"}


def test_a_manifest_of_ones_own_may_have_spaces_and_more_columns(tmp_path):
    (tmp_path / "a.csv").write_text("ID, duration, wav, wrd, language\na, 2, {data_root}/x/a.wav, GOOD  DAY, en\n")
    expected = {"duration": 2.0, "wav": "here/x/a.wav", "wrd": "GOOD  DAY", "language": "en"}
    assert read_manifest(tmp_path / "a.csv", "here") == {"a": expected}
    (tmp_path / "a.json").write_text(json.dumps({"ü": {**expected, "duration": "2", "wav": "b.wav"}}))
    assert read_manifest(tmp_path / "a.json") == {"ü": {**expected, "wav": "b.wav"}}
    assert type(read_manifest(tmp_path / "a.json")["ü"]["duration"]) is float


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "a", "must be a .csv or .json file"),
        ("a.csv", "ID,duration,wav,wrd\n", "lists nothing: prepare the data again"),
        ("a.csv", "id,duration,wav,wrd\na,1,a.wav,A\n", "has no column 'ID'"),
        ("a.csv", "ID,duration,wav\na,1,a.wav\n", "has no 'wrd' for 'a'"),
        ("a.csv", "ID,duration,wav,wrd\na,1,a.wav,A\na,1,a.wav,A\n", "has the id 'a' twice"),
        ("a.csv", "ID,duration,wav,wrd\na,long,a.wav,A\n", "has the duration 'long' for 'a'"),
        ("a.csv", "ID,duration,wav,wrd\na,1,$data_root/a.wav,A\n", "have $data_root: set data_root"),
        ("a.csv", "ID,duration,wav,wrd\na,1,{data_root}/a.wav,A\n", "have {data_root}: set data_root"),
        ("a.csv", "ID,wrd,duration,wav\na,A,1,a.wav\nb,A,1\n", "has no 'wav' for 'b'"),
        ("a.csv", "ID,duration,wav,wrd\na,1,a.wav,GOOD, DAY\n", "has more values than columns for 'a'"),
        ("a.json", '{"a": {"wav": "a.wav", "wrd": "A"}}', "has no 'duration' for 'a': it needs duration, wav, wrd"),
        ("a.json", '{"a": {"duration": [1], "wav": "a.wav", "wrd": "A"}}', "has the duration .* for 'a'"),
        ("a.json", '{"a": 1}', "must map each id"),
        ("a.json", "{}", "lists nothing: prepare the data again"),
        ("a.json", "{", "is not valid JSON"),
        ("a.json", "[1]", "must map each id"),
    ],
)
def test_manifest_errors(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message.replace("$", r"\$")):
        read_manifest(tmp_path / name)


def test_a_manifest_has_the_columns_that_are_asked_for(tmp_path):
    row = {"duration": 1.5, "mix_wav": "$data_root/mix.wav", "s1_wav": "{data_root}/s1.wav", "note": "$data_root"}
    write_manifest(tmp_path / "a.csv", [{"ID": "a", **row}])
    expected = {**row, "mix_wav": "/data/mix.wav", "s1_wav": "/data/s1.wav"}
    assert read_manifest(tmp_path / "a.csv", "/data", ["s1_wav", "duration"]) == {"a": expected}
    with pytest.raises(ValueError, match="has no 's2_wav' for 'a': it needs s1_wav, s2_wav"):
        read_manifest(tmp_path / "a.csv", "/data", ["s1_wav", "s2_wav"])


def test_a_manifest_lists_something_in_one_set_of_columns(tmp_path):
    with pytest.raises(ValueError, match="nothing to list in the manifest"):
        write_manifest(tmp_path / "a.csv", [])
    with pytest.raises(ValueError, match="language"):
        write_manifest(tmp_path / "a.csv", [ROW, {**ROW, "language": "de"}])
    assert not list(tmp_path.iterdir())


def test_missing_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: prepare the data first"):
        read_manifest(tmp_path / "a.csv")


def test_a_csv_manifest_comes_before_a_json_one(tmp_path):
    for name in ("train.csv", "train.json", "valid.json", "test.csv", "test-clean.json"):
        (tmp_path / name).write_text("")
    found = find_manifests(tmp_path)
    assert found == {"train": tmp_path / "train.csv", "valid": tmp_path / "valid.json", "test": tmp_path / "test.csv"}
    assert find_manifests(str(tmp_path), ["test-clean"]) == {"test-clean": tmp_path / "test-clean.json"}
    (tmp_path / "test.csv").rename(tmp_path / "test.txt")
    with pytest.raises(FileNotFoundError, match=r"has no test\.csv and no test\.json"):
        find_manifests(tmp_path)
