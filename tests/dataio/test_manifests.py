"""Manifests: what is read is what was written, and every fault is told with its place."""

import json

import pytest

from speechbrain_mamba.dataio.manifests import find_line, find_manifests, read_manifest, write_manifest

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


HEADER = "ID,duration,wav,wrd\n"
GOOD = "g,1,g.wav,GOOD\n"
ITEM = {"duration": 1, "wav": "a.wav", "wrd": "A"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, ": it lists nothing: prepare the data again."),
        ("", ": it lists nothing: prepare the data again."),
        ("id,duration,wav,wrd\na,1,a.wav,A\n",
         ", line 1: there is no column 'ID': it has id, duration, wav, wrd, but needs ID, duration, wav, wrd."),
        ("ID,duration,wav\na,1,a.wav\n",
         ", line 1: there is no column 'wrd': it has ID, duration, wav, but needs ID, duration, wav, wrd."),
        (HEADER.replace(",", "\t") + "a\t1\ta.wav\tA\n",
         ", line 1: the columns are separated by tabs, but must be separated by commas."),
        (HEADER.replace(",", ";") + "a;1;a.wav;A\n",
         ", line 1: the columns are separated by semicolons, but must be separated by commas."),
        (",ID,duration,wav,wrd\n0,a,1,a.wav,A\n", ", line 1: column 1 has no name: name it, or remove it."),
        ("ID,duration,wav,wrd,wav\na,1,a.wav,A,b.wav\n",
         ", line 1, column 'wav': there are two such columns: remove one."),
        (HEADER + GOOD + "a,1,a.wav,A\n" + GOOD,
         ", line 4, column 'ID': the id 'g' occurs twice, first in line 2: ids must be unique."),
        (HEADER + GOOD + " ,1,a.wav,A\n", ", line 3, column 'ID': the id is empty: give each row an id of its own."),
        (HEADER + f"{'ä' * 101},1,a.wav,A\n", "has more than 200 bytes, but files are called after it: shorten it."),
        (HEADER + "../a,1,a.wav,A\n",
         "'../a' must not begin with '/' or contain '..', since files are called after it."),
        (HEADER + "/a,1,a.wav,A\n", "'/a' must not begin with '/' or contain '..', since files are called after it."),
        (HEADER + "a,long,a.wav,A\n", ", line 2, column 'duration': 'long' must be a number of seconds."),
        (HEADER + "a,1_0,a.wav,A\n", ", line 2, column 'duration': '1_0' must be a number of seconds."),
        (HEADER + "a,,a.wav,A\n", ", line 2, column 'duration': '' must be a number of seconds."),
        (HEADER + "a,nan,a.wav,A\n", ", line 2, column 'duration': 'nan' must be a number of seconds above 0."),
        (HEADER + "a,inf,a.wav,A\n", ", line 2, column 'duration': 'inf' must be a number of seconds above 0."),
        (HEADER + "a,-1,a.wav,A\n", ", line 2, column 'duration': '-1' must be a number of seconds above 0."),
        (HEADER + "a,0.0,a.wav,A\n", ", line 2, column 'duration': '0.0' must be a number of seconds above 0."),
        (HEADER + "a,1,,A\n", ", line 2, column 'wav': the path is empty: give an audio file."),
        (HEADER + "a,1,$data_root/a.wav,A\n",
         ", line 2, column 'wav': the path has $data_root: set data_root to that folder."),
        (HEADER + "a,1,{data_root}/a.wav,A\n",
         ", line 2, column 'wav': the path has {data_root}: set data_root to that folder."),
        (HEADER + "a,1,a.wav\n", ", line 2, column 'wrd': the row has 3 values, but there are 4 columns."),
        (HEADER + GOOD + "a,1,a.wav,GOOD, DAY\n",
         ", line 3: 'a' has more values (5) than there are columns (4): put texts with commas in quotation marks."),
        (HEADER + GOOD + 'a,1,a.wav,"GOOD\nDAY"\n',
         ", line 3, column 'wrd': the value 'GOOD\\nDAY' has a line break (is a quotation mark not closed?): remove "
         "that."),
        (HEADER + 'a,1,a.wav,"GOOD\n' + GOOD * 9, "has a line break (is a quotation mark not closed?): remove that."),
        (HEADER + 'a,1,a.wav,"GOOD\n' + GOOD * 20000,
         ", line 2: field larger than field limit (131072) (is a quotation mark not closed?)."),
        (HEADER + GOOD + "a,1,a.wav,A\0B\n",
         ", line 3: there is a NUL character: write the file again, as text."),
        (HEADER + "a,1,a.wav,A\x0bB\n",
         ", line 2, column 'wrd': the value of 'a' has a control character: remove that."),
        (HEADER + '"a\tb",1,a.wav,A\n', ", line 2, column 'ID': the id 'a\\tb' has a control character: remove that."),
    ],
)  # fmt: skip
def test_a_fault_of_a_csv_manifest_has_its_line_and_column(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_manifest(tmp_path / "a.csv")
    assert str(caught.value).startswith(f"The manifest '{tmp_path / 'a.csv'}'")
    assert str(caught.value).endswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", ": it lists nothing: prepare the data again."),
        ("[1]", ", line 1: it must map each id to a mapping from column to value."),
        ("5", ", line 1: it must map each id to a mapping from column to value."),
        ("{", "it is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
        ("[" * 100000, "it is not valid JSON: "),
        ('{\n"a": 1}', ", line 2: 1 for 'a' must be a mapping from column to value."),
        ({"a": {"wav": "a.wav", "wrd": "A"}}, "'a' has no value for it: needed are duration, wav, wrd."),
        ({"a": {**ITEM, "wav": None}}, "column 'wav': 'a' has no value for it: needed are duration, wav, wrd."),
        ({"a": {**ITEM, "duration": [1]}}, "column 'duration': [1] must be a number of seconds."),
        ({"a": {**ITEM, "duration": True}}, "column 'duration': true must be a number of seconds."),
        ({"a": {**ITEM, "duration": 10**400}}, "... must be a number of seconds."),
        ({"a": {**ITEM, "duration": float("nan")}}, "column 'duration': NaN must be a number of seconds above 0."),
        ({"a": {**ITEM, "duration": -2}}, "column 'duration': -2 must be a number of seconds above 0."),
        ({"a": {**ITEM, "wrd": 7}}, "column 'wrd': 7 for 'a' must be text: put it in quotation marks."),
        ({"a": {**ITEM, "wrd": ["A", "B"]}},
         "column 'wrd': [\"A\", \"B\"] for 'a' must be text: put it in quotation marks."),
        ({"a": {**ITEM, "spk_id": 19}}, "column 'spk_id': 19 for 'a' must be text: put it in quotation marks."),
        ({"a": {**ITEM, "wav": 3}}, "column 'wav': 3 must be the path of an audio file."),
        ({"a": {**ITEM, "wrd": "A\nB"}}, "has a line break (is a quotation mark not closed?): remove that."),
        ({"a": {**ITEM, "wav": "a\0.wav"}}, "column 'wav': the value of 'a' has a control character: remove that."),
        ({"": ITEM}, "line 7, column 'ID': the id is empty: give each row an id of its own."),
        ('{"a": {"wav": "a.wav"},\n"b": {"wav": "a.wav"},\n"a": {}}', "line 3, column 'ID': the id 'a' occurs twice."),
        ('{\n"a": {"wav": "a.wav",\n"wav": "b.wav"}}', ", line 2, column 'wav': 'a' has it twice."),
    ],
)  # fmt: skip
def test_a_fault_of_a_json_manifest_has_its_id_and_column(tmp_path, text, message):
    if not isinstance(text, str):
        text = json.dumps({"first": ITEM, **text}, indent=0).replace("0: ", "0:\n")
    (tmp_path / "a.json").write_text(text)
    needed = ["wav"] if '"b"' in text else ["duration", "wav", "wrd"]
    with pytest.raises(ValueError) as caught:
        read_manifest(tmp_path / "a.json", columns=needed)
    assert str(caught.value).startswith(f"The manifest '{tmp_path / 'a.json'}'")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    if "'a'" in message or "column '" in message:
        assert ", line " in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEADER.encode() + GOOD.encode() + "a,1,a.wav,GRÜN\n".encode("latin-1"),
         ", line 3, column 'wrd': the byte 0xDC is not UTF-8: save the file as UTF-8."),
        ((HEADER + GOOD).encode("utf-16"), ", line 1: it is encoded as UTF-16: save it as UTF-8."),
        (("ÜD" + HEADER).encode("latin-1"), ", line 1: the byte 0xDC is not UTF-8: save the file as UTF-8."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_another_encoding_is_named_with_its_place(tmp_path, data, message, name):
    (tmp_path / name).write_bytes(data)
    if name == "a.json":
        message = message.replace(", column 'wrd'", "")
    with pytest.raises(ValueError) as caught:
        read_manifest(tmp_path / name)
    assert str(caught.value) == f"The manifest '{tmp_path / name}'{message}"


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(HEADER + GOOD)
    with pytest.raises(ValueError, match=r"must be a \.csv or \.json file"):
        read_manifest(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match="does not exist: prepare the data first"):
        read_manifest(tmp_path / "a.csv")


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
