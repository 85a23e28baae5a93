"""The listing of hyper-parameters: the same values, all comments, and where each value is from."""

import re
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML

from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from speechbrain_mamba.utils.hparams_listing import list_hparams
from tests.conftest import HPARAMS
from tests.hparams.settings import flatten, read_settings

FILES = [path for path in sorted(HPARAMS.glob("*/*.yaml"))]
CHANGES = {"seed": 5, "experiment_name": "mine", "optimizer": {"lr": 0.5}}
CHANGED = [
    HPARAMS / f"{name}.yaml"
    for name in (
        "separation/mini_mambatasnet_fsdd", "asr/mini_conmamba_ctc_fsdd", "tts/mini_vallm_hybrid", "codec/mini_codec",
        "speaker/mini_speaker",
    )
]  # fmt: skip
"""A file of each task, built on as many others as any."""


def placeholders(path):
    """A value for each key that needs one."""
    return {key: "given" for key, value in read_settings(path).items() if value == "!PLACEHOLDER"}


@pytest.mark.parametrize(
    ("path", "changes"),
    [(path, {}) for path in FILES] + [(path, CHANGES) for path in CHANGED],
    ids=lambda given: f"{given.parent.name}/{given.stem}" if isinstance(given, Path) else "changed" * bool(given),
)
def test_a_listing_has_the_values_of_its_file(path, changes):
    overrides = placeholders(path) | changes
    text = list_hparams(path, overrides)
    ours, theirs = (YAML().load(part) for part in (text, read_hparams(path, overrides)))
    assert flatten(ours) == flatten(theirs)
    origins = dict(re.findall(r"^(\w+):.*  # from ([^#\n]*)$", text, re.MULTILINE))
    assert list(origins) == list(ours)
    for key, origin in origins.items():
        if key in overrides and key != "optimizer":
            assert origin == "the command line"
        else:
            assert f"\n{key}:" in "\n" + (path.parent / origin).read_text()
    assert ("\n  lr: 0.5 " in text) == bool(changes)


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.startswith("mini")], ids=lambda path: path.stem)
def test_speechbrains_loader_makes_the_same_of_a_listing(path):
    overrides = placeholders(path)
    ours, theirs = load_hyperpyyaml(list_hparams(path, overrides)), load_hparams(path, overrides)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, (int, float, str, list, type(None))) and key != "model":
            assert ours[key] == value
        assert type(ours[key]) is type(value)
    for key, module in theirs["modules"].items():
        shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        assert {name: tuple(value.shape) for name, value in ours["modules"][key].state_dict().items()} == shapes


@pytest.fixture
def write(tmp_path):
    """Write ``name.yaml`` files, and answer the last one's path."""

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / f"{name}.yaml"
            path.write_text(text, encoding="utf-8")
        return path

    return write


def squeeze(text):
    return [re.sub(" +", " ", line) for line in text.splitlines()]


def test_comments_stay_with_their_values(write):
    base = """\
# What all share.

# -- data
path: x  # a folder
rate: 8000  # Hz
size:  # of the net
    low: 1  # at least
    high: 2

# -- training
# before the step
lr: 1.0  # at first
net: !new:torch.nn.Linear
    in_features: 3
    # as many
    out_features: 3

# nothing below
"""
    top = """\
!include:base.yaml
# Mine.
rate: 16000  # Hz, too
# smaller
lr: 0.5
more: |
    # text, not comment
"""
    path = write(base=base, top=top)
    assert squeeze(list_hparams(path, {"path": "y", "size.high": 3})) == [
        "# Mine.",
        "",
        "# -- data",
        "path: y # a folder # from the command line",
        "rate: 16000 # Hz, too # from top.yaml",
        "size: # of the net # from base.yaml",
        " low: 1 # at least",
        " high: 3 # from the command line",
        "",
        "# -- training",
        "# smaller",
        "lr: 0.5 # from top.yaml",
        "net: !new:torch.nn.Linear # from base.yaml",
        " in_features: 3",
        " # as many",
        " out_features: 3",
        "more: | # from top.yaml",
        " # text, not comment",
    ]


def test_origins_may_be_left_out(write):
    path = write(base="a: 1  # one\nb: 2  # two", top="!include:base.yaml\nb: 3")
    assert list_hparams(path, "a: 5", origins=False) == "a: 5  # one\nb: 3\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: one\n  two", "  two  # from top.yaml"),
        ('a: "one\n  two"', '  two"  # from top.yaml'),
        ("a: >\n  one\n  two", "a: >  # from top.yaml"),
        ("a: [1,\n  2]", "  2]  # from top.yaml"),
        ("a:", "a:  # from top.yaml"),
        ("a: !ref <b>", "a: !ref <b>  # from top.yaml"),
        ("a: {c: 1, d: 2}", "a: {c: 1, d: 2}  # from top.yaml"),
        ("a:\n- 1\n- 2", "a:  # from top.yaml"),
        ("a: x#y", "a: x#y  # from top.yaml"),
        ("a: '# no'", "a: '# no'  # from top.yaml"),
    ],
)
def test_notes_do_not_change_values(write, text, line):
    path = write(top=f"{text}\nb: 1\n")
    found = list_hparams(path)
    assert " ".join(line.split()) in [" ".join(other.split()) for other in found.splitlines()]
    assert flatten(YAML().load(found)) == read_settings(path)


@pytest.mark.parametrize("text", ["{a: 1, b: {c: 2}}", "a: &x {c: 2}\nb: *x"])
def test_what_cannot_be_taken_apart_is_written_again(write, text):
    path = write(base=text, top="!include:base.yaml\n# mine\na: 3")
    assert load_hyperpyyaml(list_hparams(path)) == load_hparams(path) == {"a": 3, "b": {"c": 2}}
    assert "base.yaml" in list_hparams(path)


def test_a_flow_mapping_has_two_origins(write):
    path = write(top="net: {size: 1, depth: 2}")
    assert squeeze(list_hparams(path, "net.size: 3")) == [
        "net: {size: 3, depth: 2} # from top.yaml and the command line"
    ]


def test_mistakes_are_those_of_reading(write, tmp_path):
    with pytest.raises(ValueError, match="has no hyper-parameter 'b' to override"):
        list_hparams(write(top="a: 1"), "b: 1")
    with pytest.raises(FileNotFoundError, match="There is no hyper-parameter file"):
        list_hparams(tmp_path / "none.yaml")
