"""Runs that start from models with the same mixers, with other ones, and with other ways to read: --init_from."""

import re
from types import SimpleNamespace

import pytest
import torch

from speechbrain_mamba.training.fine_tuning import FineTuning
from speechbrain_mamba.training.init_source import find_init_source
from speechbrain_mamba.utils.hparams import load_hparams
from speechbrain_mamba.utils.weights import write_weights
from tests.conftest import HPARAMS

SYSTEMS = {
    "separation/mini_mambatasnet": (
        {"N_encoder_out": 16, "out_channels": 16, "data_folder": "unused", "n_mamba": 2},
        [
            {},
            {"mixer": "mamba2"},
            {"attention_layers": "low"},
            {"bidirectional": "outer"},
            {"bidirectional": False},
        ],
    ),
    "tts/mini_vallm": (
        {"token_folder": "unused", "n_codebooks": 4, "codebook_size": 16, "num_layers": 2, "d_model": 16, "d_ffn": 16,
         "nhead": 2, "attention_interval": 2},
        [
            {},
            {"mixer": "attention"},
            {"cross": "hidden_attention"},
            {"cross": "prefix_bidirectional"},
        ],
    ),
    "asr/mini_conmambamamba_s2s_fsdd": (
        {"data_folder": "unused", "d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1,
         "num_decoder_layers": 2, "output_neurons": 9},
        [
            {},
            {"mixer": "mamba2", "cross": "attention"},
            {"cross": "attention", "cross_config": {"positions": True}},
        ],
    ),
}  # fmt: skip


class Run(FineTuning):
    """What a training has of its modules."""

    def __init__(self, modules, skip=""):
        self.hparams = SimpleNamespace(modules=modules, init_skip=skip, freeze=None)
        self.modules = torch.nn.ModuleDict(modules)
        self.checkpointer = SimpleNamespace(recoverables=modules, list_checkpoints=list)


@pytest.fixture(params=SYSTEMS)
def made(request, tmp_path):
    """Models with each choice of mixers: the choice, their modules, and an exported folder."""
    sizes, choices = SYSTEMS[request.param]
    models = []
    for number, changes in enumerate(choices):
        torch.manual_seed(number)
        modules = load_hparams(HPARAMS / f"{request.param}.yaml", {**sizes, **changes})["modules"]
        modules = {name: one for name, one in modules.items() if [*one.parameters()]}
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, module in modules.items():
            write_weights(folder / f"{name}.safetensors", module.state_dict())
        models.append((changes, modules, folder))
    return models


def test_the_same_mixers_start_a_run_and_others_are_named(made):
    for there, _, folder in made:
        for here, modules, _ in made:
            run, source = Run(modules), find_init_source(folder)
            before = {name: tensor.clone() for name, tensor in run.named_weights().tensors.items()}
            theirs = run._run_weights().read(source).tensors
            run.source = source
            if there == here:
                run.start_weights()
            else:
                with pytest.raises(ValueError, match="does not fit this run") as caught:
                    run.start_weights()
                now = run.named_weights().tensors
                assert all(torch.equal(now[name], value) for name, value in before.items())  # nothing is half done
                skip = re.search("--init_skip '(.*)', or take settings that fit", str(caught.value))[1]
                assert len(skip.split(",")) <= 20
                run = Run(modules, skip)
                run.source = source
                run.start_weights()
            now = run.named_weights().tensors
            for name, tensor in now.items():
                fits = name in theirs and theirs[name].shape == tensor.shape
                assert torch.equal(tensor, theirs[name] if fits else before[name]), name
                assert fits == (name in run.taken)
            assert run.taken
            for name, value in before.items():
                now[name].data.copy_(value)


def test_a_pattern_stands_for_all_layers_where_it_can():
    from speechbrain_mamba.training.fine_tuning import Fit

    names = [f"net.layers.{number}.{name}" for number in range(3) for name in ("mixer.A", "mixer.B", "norm.w")]
    fit = Fit(fitting=[name for name in names if "norm" in name], missing=[name for name in names if "mixer" in name])
    assert fit.patterns() == ["net.layers.*.mixer"]
    fit = Fit(fitting=[*fit.fitting, "net.layers.1.mixer.A"], missing=["net.layers.0.mixer.A", "net.layers.2.mixer.A"])
    assert fit.patterns() == ["net.layers.0.mixer", "net.layers.2.mixer"]  # layer 1 fits
