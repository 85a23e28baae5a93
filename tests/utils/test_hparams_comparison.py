"""The differences between the hyper-parameters of a run and those of a command."""

import pytest
from hyperpyyaml import resolve_references

from speechbrain_mamba.utils.hparams import read_hparams
from speechbrain_mamba.utils.hparams_comparison import MISSING, find_differences
from tests.conftest import HPARAMS

TEXT = """
lr: 0.1
size: 4
rates: [1, 2]
folder: data
layer: !new:torch.nn.Linear
    in_features: !ref <size>
    out_features: 3
optimizer: !name:torch.optim.SGD
    lr: !ref <lr>
    momentum: 0.5
modules:
    layer: !ref <layer>
__set_seed: !apply:speechbrain.utils.seed_everything [!ref <size>]
parts: [!ref <layer>, {depth: 2}]
flag: True
nothing: null
"""


def compare(before, now):
    return {d.name: (d.before, d.now) for d in find_differences(resolve_references(before).getvalue(), now)}


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ("lr: 0.1", "lr: 0.2", {"lr": (0.1, 0.2)}),
        ("size: 4", "size: 8", {"size": (4, 8)}),
        ("[1, 2]", "[1, 3]", {"rates": ([1, 2], [1, 3])}),
        ("momentum: 0.5", "momentum: 0.9", {"optimizer.momentum": (0.5, 0.9)}),
        ("momentum", "nesterov", {"optimizer.momentum": (0.5, MISSING), "optimizer.nesterov": (MISSING, 0.5)}),
        ("out_features: 3", "out_features: 5", {"layer.out_features": (3, 5)}),
        ("SGD", "Adam", {"optimizer": ("!name:torch.optim.SGD", "!name:torch.optim.Adam")}),
        ("depth: 2", "depth: 3", {"parts[1].depth": (2, 3)}),
        ("flag: True", "flag: False", {"flag": (True, False)}),
        ("nothing: null", "nothing: ''", {"nothing": (None, "")}),
        ("nothing: null", "", {"nothing": (None, MISSING)}),
        ("!ref <size>\n", "4\n", {}),
        ("lr: 0.1", "lr: 1e-1", {}),
        ("size: 4", "size: 4  # a comment", {}),
    ],
)  # fmt: skip
def test_settings_that_differ_are_named_without_what_is_derived_from_them(before, now, expected):
    found = compare(TEXT, TEXT.replace(before, now))
    assert found == expected
    assert compare(TEXT.replace(before, now), TEXT).keys() == expected.keys() or "<size>" in before


def test_another_way_to_derive_a_value_is_a_difference():
    assert compare("a: 4\nb: !ref <a> * 2", "a: 4\nb: !ref <a> * 3") == {"b": (8, 12)}
    assert compare("a: 4\nb: 8", "a: 4\nb: !ref <a> * 2") == {}


def test_names_of_one_folder_are_equal(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert compare("a: ./data", f"a: {tmp_path}/data/") == {}
    assert compare("a: ./data", f"a: {tmp_path}/other/").keys() == {"a"}


def test_differences_read_well():
    (one, two) = find_differences("a: 1\nnet: !new:torch.nn.ReLU", f"a: {'x' * 200}\nnet: !new:torch.nn.GELU")
    assert str(one) == f"a was 1, is now '{'x' * 76}..."
    assert str(two) == "net was !new:torch.nn.ReLU, is now !new:torch.nn.GELU"
    assert str(find_differences("", "a: 1")[0]) == "a was not set, is now 1"


@pytest.mark.parametrize("name", ["separation/mini_mambatasnet", "asr/mini_conmamba_ctc", "tts/vallm"])
def test_our_files_equal_their_own_records(name):
    options = {"output_folder": "out"} | ({"token_folder": "tokens"} if name.startswith("tts") else {})
    text = read_hparams(HPARAMS / f"{name}.yaml", options)
    record = resolve_references(text).getvalue()
    assert find_differences(record, text) == []
    again = read_hparams(HPARAMS / f"{name}.yaml", {**options, "number_of_epochs": 77, "lr": 0.5})
    assert [difference.name for difference in find_differences(record, again)] == ["number_of_epochs", "lr"]
