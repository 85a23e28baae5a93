"""Weights in files: read without running anything, loaded all or not at all."""

import io
import os
import re
import struct

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from speechbrain_mamba.utils.weights import (
    find_weights,
    load_strictly,
    read_saved,
    read_weights,
    write_weights,
)

SUFFIXES = [".safetensors", ".ckpt", ".pt"]


class Payload:
    """An object that runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_come_back_as_they_were(tmp_path, suffix):
    shared = torch.randn(4, 6)
    state = {
        "a": shared,
        "b": shared,  # two names of one tensor
        "c": shared[:, ::2],  # not contiguous
        "d.half": torch.randn(3).half(),
        "e": torch.tensor(3),
        "f": torch.ones(2, requires_grad=True),
    }
    write_weights(tmp_path / f"x{suffix}", state)
    found = read_weights(tmp_path / f"x{suffix}")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items())
    assert [path.name for path in tmp_path.iterdir()] == [f"x{suffix}"]
    if suffix == ".safetensors":
        assert load_file(tmp_path / "x.safetensors").keys() == state.keys()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_others_may_read_weights_as_far_as_the_umask_lets_them(tmp_path, suffix):
    (tmp_path / "note.txt").write_text("")
    write_weights(tmp_path / f"layer{suffix}", {"weight": torch.ones(2)})
    assert (tmp_path / f"layer{suffix}").stat().st_mode == (tmp_path / "note.txt").stat().st_mode


def test_only_tensors_are_written(tmp_path):
    with pytest.raises(TypeError, match="a str under 'b'"):
        write_weights(tmp_path / "x.ckpt", {"a": torch.ones(1), "b": "text"})
    assert not list(tmp_path.iterdir())


def test_safetensors_come_before_checkpoints(tmp_path):
    write_weights(tmp_path / "a.ckpt", {})
    assert find_weights(tmp_path, "a").suffix == ".ckpt"
    write_weights(tmp_path / "a.safetensors", {})
    assert find_weights(str(tmp_path), "a").suffix == ".safetensors"
    with pytest.raises(FileNotFoundError, match=r"no weights b\.safetensors or b\.ckpt"):
        find_weights(tmp_path, "b")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pickle_runs_nothing_whatever_its_name(tmp_path, suffix, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which others set to load their old files
    marker, path = tmp_path / "marker", tmp_path / f"x{suffix}"
    torch.save({"weight": torch.ones(2), "more": Payload(f"touch {marker}")}, path)
    with pytest.raises(ValueError, match=r"runs? code|not safetensors") as caught:
        read_weights(path)
    assert str(path) in str(caught.value) and "weights_only" not in str(caught.value)
    assert not marker.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert marker.exists()  # it was live


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "one byte", "header"])
def test_a_damaged_file_is_named_in_a_sentence(tmp_path, suffix, damage):
    path = tmp_path / f"x{suffix}"
    write_weights(path, {"weight": torch.randn(100, 100)})
    whole = path.read_bytes()
    damaged = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 40216\n",
        "one byte": b"\x80",
        "header": struct.pack("<Q", 1 << 60) + whole[8:],
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"'{re.escape(str(path))}' are damaged or not ") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(1)], "holds a list, but weights"),
        ({"a": {"b": torch.ones(1)}}, "holds a dict under 'a'"),
        ({3: torch.ones(1)}, "under 3, but weights are tensors with names"),
        ({"a": torch.eye(3).to_sparse()}, "a tensor of layout torch.sparse_coo under 'a'"),
        (nn.Linear(1, 1), "the Python object torch.nn.modules.linear.Linear, which could run code"),
    ],
)
def test_what_is_not_weights_is_named(tmp_path, content, words):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=re.escape(words)):
        read_weights(tmp_path / "x.ckpt")


def test_a_missing_file_a_folder_and_a_pipe_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.ckpt")  # reading it would wait for ever
    for name in ("missing.ckpt", "missing.safetensors", ".", "pipe.ckpt"):
        with pytest.raises(FileNotFoundError, match=r"There is no file .* of weights"):
            read_weights(tmp_path / name)


def test_plain_values_can_be_saved_too(tmp_path):
    torch.save({"count": 3, "mean": torch.ones(2)}, tmp_path / "x.ckpt")
    assert read_saved(tmp_path / "x.ckpt")["count"] == 3


def test_weights_are_loaded_into_the_types_of_the_module():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {name: value.half() if value.is_floating_point() else value for name, value in module.state_dict().items()}
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    load_strictly(other, state, "it")
    assert torch.equal(other[0].weight, module[0].weight.half().double()) and other[0].weight.dtype == torch.float64


def test_all_that_does_not_fit_is_listed_at_once():
    module = nn.ModuleDict({name: nn.Linear(2, 3) for name in "abcdefghijkl"})
    state = module.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    given = {name: value + 1 for name, value in state.items() if name[0] in "abc"}
    given |= {"a.weight": torch.zeros(3, 4), "x.bias": torch.ones(1), "b.bias": torch.tensor(1.0)}
    with pytest.raises(ValueError) as caught:
        load_strictly(module, given, "net of 'folder'")
    message = str(caught.value)
    assert message.startswith("The weights of net of 'folder' do not fit: 18 missing (d.weight, d.bias, ")
    assert "h.weight, h.bias and 8 more), 1 extra (x.bias), 2 misshapen" in message
    assert "a.weight is 3 x 4, needs 3 x 2" in message and "b.bias is a number, needs 3" in message
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("name", ["weight", "extra"])
def test_one_missing_or_extra_entry_is_an_error(name):
    state = nn.Linear(2, 3).state_dict()
    state["extra"] = torch.ones(1)
    if name == "weight":
        del state["weight"], state["extra"]
    with pytest.raises(ValueError, match=f"do not fit: 1 {'missing' if name == 'weight' else 'extra'} .{name}"):
        load_strictly(nn.Linear(2, 3), state, "it")


def test_names_in_a_message_are_short_and_harmless_to_a_terminal():
    with pytest.raises(ValueError, match="2 extra") as caught:
        load_strictly(
            nn.Linear(2, 3),
            {**nn.Linear(2, 3).state_dict(), "\x1b[2J\n": torch.ones(1), "x" * 9999: torch.ones(1)},
            "it",
        )
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_older_names_that_a_module_accepts_fit():
    """torch renames the weights of normalized layers as it loads them."""
    old = nn.Linear(2, 3)
    old.weight.data.fill_(2)
    new = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    state = {"bias": old.bias, "weight_g": old.weight.norm(dim=1, keepdim=True), "weight_v": old.weight}
    load_strictly(new, state, "it")
    torch.testing.assert_close(new.weight, old.weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    module = nn.BatchNorm1d(3)
    module.register_buffer("mask", torch.zeros(2))
    state = module.state_dict()
    state["mask"] = torch.tensor([0.0, float("-inf")])  # as in attention
    load_strictly(module, state, "it")
    for name in ("weight", "running_var") if value != value else ("weight",):
        broken = {**state, name: torch.tensor([1.0, value, 1.0])}
        with pytest.raises(ValueError, match=f"weights of it are not finite: 1 broken .{name}"):
            load_strictly(module, broken, "it")
