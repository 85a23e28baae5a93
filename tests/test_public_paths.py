"""Module paths that exported folders and users' YAML name stay importable."""

import importlib

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_mamba.inference.separation import export_separator
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.conftest import HPARAMS

PATHS = [
    "speechbrain_mamba.nnet.blocks.MambaBlocksSequential",
    "speechbrain_mamba.lobes.models.mamba_tasnet.MaskNet",
    "speechbrain_mamba.lobes.models.dual_path.DualPathModel",
    "speechbrain_mamba.lobes.models.transformer_asr.TransformerASR",
    "speechbrain_mamba.decoders.S2SMambaBeamSearcher",
]

EXPORTED = """
blocks: !new:speechbrain_mamba.nnet.blocks.MambaBlocksSequential
    n_mamba: 1
    bidirectional: True
    d_model: 8
    d_state: 4
single_path: !new:speechbrain_mamba.lobes.models.mamba_tasnet.MaskNet
    N: 16
    B: 8
    C: 2
    mamba_net: !ref <blocks>
dual_path: !new:speechbrain_mamba.lobes.models.dual_path.DualPathModel
    in_channels: 16
    out_channels: 8
    intra_model: !copy <blocks>
    inter_model: !copy <blocks>
    K: 10
Transformer: !new:speechbrain_mamba.lobes.models.transformer_asr.TransformerASR
    input_size: 12
    tgt_vocab: 7
    d_model: 8
    nhead: 2
    num_encoder_layers: 1
    num_decoder_layers: 1
    d_ffn: 16
    encoder_module: conmamba
    decoder_module: mamba
    attention_type: RelPosMHAXL
    normalize_before: True
    causal: False
seq_lin: !new:speechbrain.nnet.linear.Linear
    input_size: 8
    n_neurons: 7
search: !new:speechbrain_mamba.decoders.S2SMambaBeamSearcher
    modules: [!ref <Transformer>, !ref <seq_lin>]
    bos_index: 1
    eos_index: 2
    min_decode_ratio: 0.0
    max_decode_ratio: 0.5
    beam_size: 2
"""


@pytest.mark.parametrize("path", PATHS)
def test_a_public_path_is_importable(path):
    module, name = path.rsplit(".", 1)
    assert getattr(importlib.import_module(module), name).__name__ == name


def test_yaml_that_names_the_public_paths_loads_and_runs():
    assert all(f":{path}\n" in EXPORTED for path in PATHS)
    loaded = load_hyperpyyaml(EXPORTED)
    for name in ("single_path", "dual_path"):
        assert loaded[name](torch.rand(3, 16, 50), torch.tensor([50, 20, 1])).shape == (2, 3, 16, 50)
    encoded = loaded["Transformer"].eval().encode(torch.randn(2, 9, 12), torch.ones(2))
    tokens, *_ = loaded["search"].eval()(encoded, torch.ones(2))
    assert len(tokens) == 2


@pytest.mark.parametrize(
    ("name", "paths"), [("mambatasnet_XS", [PATHS[0], PATHS[1]]), ("dpmamba_XS", [PATHS[0], PATHS[2]])]
)
def test_exported_separators_name_the_public_paths(tmp_path, name, paths):
    file = HPARAMS / "separation" / f"{name}.yaml"
    overrides = {"data_folder": "unused"}
    export_separator(tmp_path / "model", read_hparams(file, overrides), load_hparams(file, overrides)["modules"])
    text = (tmp_path / "model" / "hyperparams.yaml").read_text(encoding="utf-8")
    assert all(path in text for path in paths)
    assert "lobes.models.separation" not in text
