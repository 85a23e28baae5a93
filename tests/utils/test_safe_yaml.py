"""HyperPyYAML of models: hostile files run nothing and are refused, harmless ones load as HyperPyYAML loads them."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_mamba.utils import yaml_builder
from speechbrain_mamba.utils.safe_yaml import (
    UnsafeModelError,
    build_model_yaml,
    check_model_yaml,
    plan_model_yaml,
    read_model_yaml,
)
from tests.utils.hostile_yaml import HOSTILE, hostile_text


@pytest.fixture
def field(tmp_path, monkeypatch):
    """A folder with a module and a file that make a marker when they are imported or included; and the marker."""
    marker = tmp_path / "marker"
    (tmp_path / "hostile_module.py").write_text(f"open({str(marker)!r}, 'w').close()\ndef harmless(): pass\n")
    (tmp_path / "other.yaml").write_text(f"x: !apply:os.system [touch {marker}]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path, marker
    sys.modules.pop("hostile_module", None)


@pytest.fixture
def unbuilt(monkeypatch):
    """Nothing may be imported or called."""
    monkeypatch.setattr(yaml_builder, "_call", lambda *given: pytest.fail(f"{given} was called"))


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_a_hostile_file_is_refused_and_nothing_of_it_runs(case, field, unbuilt):
    _, marker = field
    with pytest.raises(UnsafeModelError) as caught:
        build_model_yaml(check_model_yaml(hostile_text(case, str(marker)), "folder/model.yaml"))
    message = str(caught.value)
    assert message.startswith(f"'folder/model.yaml', line {case.line}: " if case.line else "'folder/model.yaml'")
    assert case.words in message and len(message) < 500 and message.isprintable()
    assert not marker.exists()


@pytest.mark.parametrize("case", [case for case in HOSTILE if case.runs], ids=lambda case: case.name)
def test_the_hostile_files_are_live(case, field):
    """What was refused does run when HyperPyYAML, with which SpeechBrain loads models, reads it."""
    folder, marker = field
    (folder / "model.yaml").write_text(hostile_text(case, str(marker)))
    with open(folder / "model.yaml") as stream:
        try:
            made = load_hyperpyyaml(stream)
        except Exception:  # after it ran
            made = {}
    if hasattr(made.get("x"), "wait"):
        made["x"].wait()
    assert marker.exists()


def test_there_are_hostile_files_of_many_kinds():
    assert len(HOSTILE) >= 60 and len({case.name for case in HOSTILE}) == len(HOSTILE)
    assert sum(case.runs for case in HOSTILE) >= 15


def test_the_configuration_of_pyannote_2000_is_text_here(field):
    """There a ``name`` is looked up and called with its ``params``; here only tags name anything."""
    text = "preprocessors:\n  key:\n    name: os.system\n    params:\n      command: touch MARKER"
    _, marker = field
    built = build_model_yaml(check_model_yaml(text.replace("MARKER", str(marker)), "config.yaml"))
    assert built["preprocessors"]["key"]["name"] == "os.system" and not marker.exists()


@pytest.mark.parametrize("text", ['x: "HIDDEN"', 'a: "HIDDEN"\nx: !ref <a>', 'a: "HIDDEN"\nx: !ref <a> '])
def test_a_tag_in_quotes_is_text(text, field):
    _, marker = field
    hidden = f"(!!python/object/apply:os.system ['touch {marker}'])"
    assert build_model_yaml(check_model_yaml(text.replace("HIDDEN", hidden), "model.yaml"))["x"] == hidden
    assert not marker.exists()


def test_lists_of_aliases_are_not_unfolded():
    """Nine times nine times nine, thirty times: each list is one object."""
    text = "b0: &b0 [1]\n" + "\n".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in range(1, 30))
    built = build_model_yaml(check_model_yaml(text, "model.yaml"))
    assert built["b29"][0] is built["b29"][8] is built["b28"]


def test_what_was_checked_is_what_is_built(monkeypatch):
    """A name that leaves the list between check and construction is not called, whatever the tree says."""
    checked = check_model_yaml("layer: !new:torch.nn.Linear [1, 2]", "model.yaml")
    monkeypatch.setattr(yaml_builder, "_locate", lambda name: pytest.fail(f"{name} was looked up"))
    object.__setattr__(checked, "allowed", {})
    with pytest.raises(UnsafeModelError, match=r"line 1: !new:torch\.nn\.Linear is not among"):
        build_model_yaml(checked)


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        ("{a: !apply:os.system [touch MARKER]}", UnsafeModelError, r"with overrides', line 1: !apply:os\.system"),
        ("a: (!!python/object/apply:os.system ['touch MARKER'])", UnsafeModelError, "a tag stands in the tuple"),
        ({"zzz": 1}, ValueError, "'model.yaml' has no 'zzz' to override; it has a, b"),
        ("[1]", ValueError, "Overrides are keys with values"),
        ("{a", ValueError, "The text of the overrides is not valid YAML"),
        ({"a": object()}, ValueError, "Overrides are numbers, text, lists and mappings"),
    ],
)
def test_overrides_are_held_to_the_same_rules(overrides, error, words, field):
    _, marker = field
    if isinstance(overrides, str):
        overrides = overrides.replace("MARKER", str(marker))
    with pytest.raises(error, match=words):
        check_model_yaml("a: 1\nb: !new:torch.nn.Linear\n  in_features: 2", "model.yaml", overrides=overrides)
    assert not marker.exists()


def test_overrides_replace_values():
    text = "a: 1\nb: !new:torch.nn.Linear\n  in_features: !ref <a>\n  out_features: 2"
    for overrides in ({"a": 5, "b": {"out_features": 3}}, "a: 5\nb: {out_features: 3}"):
        assert build_model_yaml(check_model_yaml(text, "", overrides=overrides))["b"].weight.shape == (3, 5)
    more = check_model_yaml(text, "", overrides={"c": 1}, must_match=False)
    assert build_model_yaml(more)["c"] == 1
    assert build_model_yaml(check_model_yaml(text, "", overrides="# none"))["a"] == 1


SAME = {
    "plain": "a: 1\nb: 1.5\nc: text\nd: null\ne: true\nf: [1, two]\ng: {h: {i: 1}}\nj: 1e-3\nk: 0x10\nl: no\nm:\nn: ''",
    "hidden": "a: 1\n__hidden: 1",
    "keys": "a: {1: b, 2.5: c, false: d}",
    "quotes": "a: '1'\nb: \"x\\ty\"\nc: |\n  two\n  lines\nd: '<unk>'\ne: <unk>",
    "tuples": "a: (1, 2)\nb: (a, 'b c')\nc: (1,)\nd: (False, null)\ne: !tuple (3, 4)\nf: '(5, 6)'\ng: !tuple '(7, 8)'",
    "references": "a: 3\nb: {c: {d: 4}}\ne: !ref <a>\nf: !ref <b[c][d]>\ng: !ref <b>",
    "text": "a: x\nb: 3\nc: !ref <a>/<b>/y\nd: !ref <a>\ne: !ref results/<b>\nf: !ref <b>",
    "arithmetic": "a: 16\nb: 0.5\nc: !ref <a> // 3 + 1\nd: !ref <a> * <b> - 2\ne: !ref (<a> + 2) % 5\nf: !ref 2 ** <a>",
    "tuple of references": "a: 3\nb: !ref (<a>, <a>)",
    "aliases": "a: &x [1, 2]\nb: *x\nc: {d: *x}",
    "a reference into a reference": "a: {b: {c: 5}}\nd: {e: !ref <a>}\nf: !ref <d[e][b][c]>",
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_values_are_those_of_hyperpyyaml(text):
    built = build_model_yaml(check_model_yaml(text, "model.yaml"))
    expected = load_hyperpyyaml(text)
    assert built == expected
    assert [type(value) for value in built.values()] == [type(value) for value in expected.values()]


def test_objects_are_shared_by_references_and_aliases_and_copied_by_copies():
    text = """
    inner: !new:torch.nn.Linear [2, 2]
    list: &list !new:torch.nn.ModuleList [[!ref <inner>]]
    modules: {a: !ref <inner>, b: !ref <list>, c: *list}
    other: !copy <list>
    kind: !name:torch.nn.GELU
    part: !name:torch.nn.LeakyReLU {negative_slope: 0.5}
    flag: !apply:operator.not_ [true]
    """
    built = build_model_yaml(check_model_yaml(text, "model.yaml"))
    assert built["modules"]["a"] is built["inner"] is built["list"][0]
    assert built["modules"]["b"] is built["modules"]["c"] is built["list"]
    assert built["other"] is not built["list"] and built["other"][0] is not built["inner"]
    assert built["kind"] is torch.nn.GELU and built["part"]().negative_slope == 0.5 and built["flag"] is False


def test_what_a_class_refuses_is_named_with_its_place():
    checked = check_model_yaml("a: 1\nb: !new:torch.nn.Linear\n  size: 3", "model.yaml")
    with pytest.raises(ValueError, match=r"'model\.yaml', line 2: !new:torch\.nn\.Linear cannot be made: .*size"):
        build_model_yaml(checked)
    divided = "a: 0\nb: !ref 1 / <a>"
    with pytest.raises(UnsafeModelError, match="line 2: '1 / 0' divides by zero"):
        check_model_yaml(divided, "model.yaml")


def test_models_that_the_caller_names_may_be_downloaded():
    text = "x: !new:speechbrain.integrations.huggingface.wav2vec2.Wav2Vec2\n  source: a/b\n  save_path: /tmp"
    with pytest.raises(UnsafeModelError, match=r"sources=\['a/b'\]"):
        check_model_yaml(text, "model.yaml", sources=["a/c"])
    planned = plan_model_yaml(check_model_yaml(text, "model.yaml", sources=["a/b"]))["x"]
    assert planned.named == {"source": "a/b", "save_path": None}  # nothing is written where the file says


def test_a_file_is_read_once_and_as_utf8(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: \xc3\xa4\n")  # a byte order mark does no harm
    assert build_model_yaml(check_model_yaml(read_model_yaml(path), "")) == {"a": "ä"}
    for content in (b"a: 1\nb: \xff\xfe", "a: 1\nb: ä".encode("latin-1")):
        path.write_bytes(content)
        with pytest.raises(UnsafeModelError, match=r"line 2: the text is not UTF-8"):
            read_model_yaml(path)
    path.write_bytes("a: 1".encode("utf-16"))
    with pytest.raises(UnsafeModelError, match="is not UTF-8"):
        read_model_yaml(path)
    path.write_bytes(b"a" * 900_000)
    with pytest.raises(UnsafeModelError, match="more than 200000 characters"):
        read_model_yaml(path)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_model_yaml(tmp_path)  # nor a device or a pipe


@pytest.mark.parametrize("text", ["", "[1]", "a", "!apply:os.system [a]", "!new:torch.nn.ReLU {}", "# nothing"])
def test_a_file_is_one_mapping(text):
    with pytest.raises(UnsafeModelError, match="not a mapping of settings"):
        check_model_yaml(text, "model.yaml")


HARMLESS = sorted(Path(__file__).parent.glob("harmless_yaml/*.yaml"))


@pytest.mark.parametrize("path", HARMLESS, ids=lambda path: path.stem)
def test_files_of_speechbrains_recognizers_and_speaker_encoders_pass(path):
    hubs = ["facebook/wav2vec2-large-lv60", "openai/whisper-tiny"]
    plan = plan_model_yaml(check_model_yaml(path.read_text(encoding="utf-8"), str(path), sources=hubs))
    assert plan["modules"] and plan["pretrainer"].named["loadables"]


@pytest.mark.parametrize(
    "path", [path for path in HARMLESS if path.stem not in ("wav2vec2", "whisper")], ids=lambda path: path.stem
)
def test_what_is_built_is_what_hyperpyyaml_builds(path):
    text = path.read_text(encoding="utf-8")
    built, expected = build_model_yaml(check_model_yaml(text, str(path))), load_hyperpyyaml(text)
    assert built.keys() == expected.keys()
    for name, part in expected["pretrainer"].loadables.items():
        other = built["pretrainer"].loadables[name]
        assert type(other) is type(part)
        if isinstance(part, torch.nn.Module):
            shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (part, other)]
            assert shapes[0] == shapes[1]
