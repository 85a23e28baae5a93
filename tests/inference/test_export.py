"""Folders of trained models."""

from __future__ import annotations

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from safetensors.torch import load_file
from torch import nn

from speechbrain_mamba.inference.export import exported
from speechbrain_mamba.utils.hparams import select_hparams

TEXT = """
size: 3
unused: 9
width: !ref <size> + 1
linear: !new:torch.nn.Linear
    in_features: !ref <width>
    out_features: 2
"""


class Wrapper(nn.Module):
    """Like DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_an_exported_folder_has_what_is_needed_and_the_weights(tmp_path):
    plain, wrapped = nn.Linear(4, 2), nn.Linear(3, 5)
    folder = tmp_path / "parent" / "model"
    text = select_hparams(TEXT, ["linear"]) + "twice: !ref <width> * 2\n"
    with exported(folder, text, {"a": plain, "b": Wrapper(wrapped)}) as path:
        (path / "more.txt").write_text("ä")
        assert not folder.exists()
    weights = {f"{name}{suffix}" for name in "ab" for suffix in (".ckpt", ".safetensors")}
    assert {path.name for path in folder.iterdir()} == {"hyperparams.yaml", "more.txt"} | weights
    assert list(folder.parent.iterdir()) == [folder]
    hparams = load_hyperpyyaml((folder / "hyperparams.yaml").read_text(encoding="utf-8"))
    assert hparams.pop("linear").in_features == 4
    assert hparams == {"size": 3, "width": 4, "twice": 8}
    for name, module in {"a": plain, "b": wrapped}.items():
        # for SpeechBrain, which reads nothing else, and for all others
        for state in (
            torch.load(folder / f"{name}.ckpt", weights_only=True),
            load_file(folder / f"{name}.safetensors"),
        ):
            assert state.keys() == module.state_dict().keys()
            assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())


def test_an_earlier_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    with exported(folder, select_hparams(TEXT, ["size"]), {}) as path:
        (path / "old.txt").write_text("")

    def fail():
        with exported(folder, TEXT, {"a": nn.Linear(1, 1)}) as path:
            (path / "new.txt").write_text("")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert {path.name for path in tmp_path.rglob("*")} == {"model", "hyperparams.yaml", "old.txt"}
    with exported(folder, select_hparams(TEXT, ["width"]), {}):
        pass
    assert {path.name for path in tmp_path.rglob("*")} == {"model", "hyperparams.yaml"}
    assert load_hyperpyyaml((folder / "hyperparams.yaml").read_text()) == {"size": 3, "width": 4}
