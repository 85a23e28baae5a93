"""Manifests: what is read is what was written, and every fault is told with its place."""

import json

import pytest

from speechbrain_mamba.dataio.manifests import find_line, find_manifests, read_manifest, write_manifest
from tests.broken_data.check import check_manifests
from tests.broken_data.manifests import MANIFESTS, write_manifests

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
    (tmp_path / "a.csv").write_text("ID, duration, wav, wrd, language\na, 2, {data_root}/x/a.wav, GOOD  DAY, en\n\n")
    expected = {"duration": 2.0, "wav": "here/x/a.wav", "wrd": "GOOD  DAY", "language": "en"}
    assert read_manifest(tmp_path / "a.csv", "here") == {"a": expected}
    more = {"chapter": 5, "phones": ["A", {"b": 1}], "language": None}
    (tmp_path / "a.json").write_text(json.dumps({"ü": {**expected, **more, "duration": "2", "wav": "/x/b.wav"}}))
    assert read_manifest(tmp_path / "a.json") == {"ü": {**expected, **more, "wav": "/x/b.wav"}}
    assert type(read_manifest(tmp_path / "a.json")["ü"]["duration"]) is float


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_relative_paths_begin_at_the_manifest(tmp_path, monkeypatch, name):
    folder = tmp_path / "lists"
    folder.mkdir()
    wavs = {"a": "b/1.wav", "b": "../2.wav", "c": "/x/3.wav", "d": "$data_root/4.wav", "e": "{data_root}/5.wav"}
    rows = [{**ROW, "ID": key, "wav": wav, "noise_wav": wav} for key, wav in wavs.items()]
    if name == "a.csv":
        write_manifest(folder / name, rows)
    else:
        (folder / name).write_text(json.dumps({row["ID"]: row for row in rows}))
    monkeypatch.chdir("/")
    found = read_manifest(folder / name, "data")
    expected = [f"{folder}/b/1.wav", f"{folder}/../2.wav", "/x/3.wav", "data/4.wav", "data/5.wav"]
    assert [item["wav"] for item in found.values()] == [item["noise_wav"] for item in found.values()] == expected
    monkeypatch.chdir(folder)
    assert read_manifest(name, "data")["a"]["wav"] == "b/1.wav"


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path, name):
    text = (
        "ID,duration,wav,wrd\nä,1,/a.wav,Ä\n"
        if name == "a.csv"
        else '{"ä": {"duration": 1, "wav": "/a.wav", "wrd": "Ä"}}'
    )
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read_manifest(tmp_path / name) == {"ä": {"duration": 1.0, "wav": "/a.wav", "wrd": "Ä"}}


@pytest.mark.parametrize("kind", MANIFESTS, ids=lambda kind: f"{kind.name}{kind.suffix}")
def test_a_fault_is_told_in_a_sentence_with_its_line_and_column(tmp_path, kind):
    account = check_manifests(write_manifests(tmp_path / "a", [kind]))
    assert not account.differences
    assert account.fates == {"refused" if kind.message else "read": 1}


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("ID,duration,wav,wrd\ng,1,g.wav,GOOD\n")
    with pytest.raises(ValueError, match=r"must be a \.csv or \.json file"):
        read_manifest(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match="does not exist: prepare the data first"):
        read_manifest(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_a_manifest_that_must_not_be_read_is_named(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("{}")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ValueError, match=rf"{name}': it cannot be read \(Permission denied\)"):
        read_manifest(tmp_path / name)


def test_a_manifest_has_the_columns_that_are_asked_for(tmp_path):
    row = {"duration": 1.5, "mix_wav": "$data_root/mix.wav", "s1_wav": "{data_root}/s1.wav", "note": "$data_root"}
    write_manifest(tmp_path / "a.csv", [{"ID": "a", **row}])
    expected = {**row, "mix_wav": "/data/mix.wav", "s1_wav": "/data/s1.wav"}
    assert read_manifest(tmp_path / "a.csv", "/data", ["s1_wav", "duration"]) == {"a": expected}
    with pytest.raises(ValueError, match=r"no column 's2_wav': it has .* but needs ID, s1_wav, s2_wav"):
        read_manifest(tmp_path / "a.csv", "/data", ["s1_wav", "s2_wav"])


def test_several_manifests_are_read_as_one(tmp_path):
    write_manifest(tmp_path / "a.csv", [{**ROW, "ID": name} for name in "ba"])
    (tmp_path / "c.json").write_text(json.dumps({"c": ROW}))
    found = read_manifest([tmp_path / "a.csv", str(tmp_path / "c.json")], "/data")
    assert list(found) == ["b", "a", "c"]
    assert found["a"] == read_manifest(tmp_path / "a.csv", "/data")["a"]
    (tmp_path / "c.json").write_text(json.dumps({"c": ROW, "a": ROW}, indent=1))
    with pytest.raises(ValueError) as caught:
        read_manifest([tmp_path / "a.csv", tmp_path / "c.json"], "/data")
    assert str(caught.value) == (
        f"The id 'a' is in the manifest '{tmp_path / 'a.csv'}' (line 3) and in '{tmp_path / 'c.json'}' (line 9): files "
        "of one split must not share ids."
    )
    with pytest.raises(ValueError, match="no manifest to read"):
        read_manifest([])


def test_a_row_is_found_by_its_id(tmp_path):
    write_manifest(tmp_path / "a.csv", [{**ROW, "ID": name} for name in ("a", "wav", "ü")])
    (tmp_path / "a.json").write_text('{"a": {"wav": "wav"},\n\n "\\u00fc" : {}}')
    assert [find_line(tmp_path / "a.csv", name) for name in ("a", "ü", "x")] == [2, 4, None]
    assert [find_line(tmp_path / "a.json", name) for name in ("a", "ü", "x")] == [1, 3, None]


def test_a_manifest_lists_something_in_one_set_of_columns(tmp_path):
    with pytest.raises(ValueError, match="nothing to list in the manifest"):
        write_manifest(tmp_path / "a.csv", [])
    with pytest.raises(ValueError, match="language"):
        write_manifest(tmp_path / "a.csv", [ROW, {**ROW, "ID": "b", "language": "de"}])
    for wrong, message in (
        (ROW, "line 3, column 'ID': the id 'a' occurs twice"),
        ({**ROW, "ID": "b", "wrd": "A\nB"}, "line 3, column 'wrd': the value of 'b' has a line break"),
        ({**ROW, "ID": ""}, "line 3, column 'ID': the id is empty"),
        ({**ROW, "ID": "b", "duration": 0}, "line 3, column 'duration': 0 must be a number of seconds above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            write_manifest(tmp_path / "a.csv", [ROW, wrong])
    assert not list(tmp_path.iterdir())


def test_a_csv_manifest_comes_before_a_json_one(tmp_path):
    for name in ("train.csv", "train.json", "valid.json", "test.csv", "test-clean.json"):
        (tmp_path / name).write_text("")
    found = find_manifests(tmp_path)
    assert found == {"train": tmp_path / "train.csv", "valid": tmp_path / "valid.json", "test": tmp_path / "test.csv"}
    assert find_manifests(str(tmp_path), ["test-clean"]) == {"test-clean": tmp_path / "test-clean.json"}
    (tmp_path / "test.csv").rename(tmp_path / "test.txt")
    with pytest.raises(FileNotFoundError, match=r"has no test\.csv and no test\.json"):
        find_manifests(tmp_path)
