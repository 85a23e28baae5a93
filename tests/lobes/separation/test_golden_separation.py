"""Mamba-TasNet and DPMamba against the published architectures: names, shapes, counts, outputs and gradients."""

import json
import shutil

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.utils.hparams import load_hparams
from tests.conftest import GOLDEN, HPARAMS
from tests.errors import relative_error

MANIFEST = json.loads((GOLDEN / "separation_manifest.json").read_text())
TINY = ["mamba_tasnet_tiny", "dpmamba_tiny"]


def load_modules(name, **overrides):
    hparams = load_hparams(HPARAMS / "separation" / f"{name}.yaml", {"data_folder": "", **overrides})
    return torch.nn.ModuleDict(hparams["modules"]).eval()


@pytest.mark.parametrize("name", MANIFEST)
def test_state_dict_and_parameter_count(name):
    modules = load_modules(name)
    shapes = {part: {key: list(value.shape) for key, value in modules[part].state_dict().items()} for part in modules}
    assert shapes == MANIFEST[name]["state_dict"]
    assert sum(p.numel() for p in modules.parameters()) == MANIFEST[name]["parameters"]


@pytest.mark.parametrize("name", TINY)
def test_outputs_and_gradients(name, golden):
    expected = golden(name)
    modules = load_modules(expected["source"], **expected["overrides"])
    for part, module in modules.items():
        module.load_state_dict(expected["state_dict"][part], strict=True)

    features = modules["encoder"](expected["mix"])
    mask = modules["masknet"](features)
    estimate = separate(modules["encoder"], modules["masknet"], modules["decoder"], expected["mix"])
    assert relative_error(features, expected["features"]) < 1e-4
    assert relative_error(mask, expected["mask"]) < 1e-4
    assert relative_error(estimate, expected["estimate"]) < 1e-4

    estimate.pow(2).sum().backward()
    for key, norm in expected["grad_norm"].items():
        assert modules.get_parameter(key).grad.norm().item() == pytest.approx(float(norm), rel=1e-3), key


@pytest.mark.parametrize("name", TINY)
def test_published_checkpoint_folder_loads(name, golden, tmp_path):
    expected = golden(name)
    folder = tmp_path / "CKPT+2024-05-01+00-00-00+00"
    folder.mkdir()
    for part, weights in expected["state_dict"].items():
        torch.save(weights, folder / f"{part}.ckpt")
    shutil.copy(GOLDEN / "CKPT.yaml", folder)

    modules = load_modules(expected["source"], **expected["overrides"])
    checkpointer = Checkpointer(tmp_path, recoverables=dict(modules.items()))
    assert checkpointer.recover_if_possible() is not None
    estimate = separate(modules["encoder"], modules["masknet"], modules["decoder"], expected["mix"])
    assert relative_error(estimate, expected["estimate"]) < 1e-4
