"""ConMamba and its decoders against the published architectures: names, shapes, counts, outputs and gradients."""

import json

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_mamba.utils.hparams import read_hparams, select_hparams
from tests.conftest import GOLDEN, HPARAMS
from tests.errors import relative_error

MANIFEST = json.loads((GOLDEN / "asr_manifest.json").read_text())
FILES = {
    "S2S/conmamba_small": "conmamba_small",
    "S2S/conmambamamba_small": "conmambamamba_small",
    "S2S/conmamba_large": "conmamba_large",
    "S2S/conmambamamba_large": "conmambamamba_large",
    "CTC/conmamba_large": "conmamba_ctc",
}
TINY = ["conmamba_ctc_tiny", "conmamba_s2s_tiny", "conmambamamba_s2s_tiny"]
PUBLISHED_BASELINES = {"conformer_small": 13.3e6, "conformer_large": 109.1e6, "conformer_ctc": 28.8e6}


def load_modules(name, **overrides):
    text = read_hparams(HPARAMS / "asr" / f"{name}.yaml", overrides)
    hparams = load_hyperpyyaml(select_hparams(text, ["modules", "Transformer"]))
    # CTC has the Transformer in SpeechBrain's EncoderWrapper
    modules = {key: module for key, module in hparams["modules"].items() if key != "Encoder"}
    return torch.nn.ModuleDict({**modules, "Transformer": hparams["Transformer"]}).eval()


@pytest.mark.parametrize("name", MANIFEST)
def test_state_dict_and_parameter_count(name):
    modules = load_modules(FILES[name])
    expected = MANIFEST[name]
    shapes = {
        part: {key: list(value.shape) for key, value in module.state_dict().items()} for part, module in modules.items()
    }
    assert {part: shape for part, shape in shapes.items() if shape} == expected["state_dict"]
    assert sum(p.numel() for p in modules.parameters()) == expected["parameters"]


@pytest.mark.parametrize("name", PUBLISHED_BASELINES)
def test_baselines_have_the_published_size(name):
    parameters = sum(p.numel() for p in load_modules(name).parameters())
    assert parameters == pytest.approx(PUBLISHED_BASELINES[name], abs=0.05e6)


@pytest.mark.parametrize("name", TINY)
def test_outputs_and_gradients(name, golden):
    expected = golden(name)
    modules = load_modules(FILES[expected["source"]], **expected["overrides"])
    for part, weights in expected["state_dict"].items():
        modules[part].load_state_dict(weights, strict=True)

    src = modules["CNN"](expected["feats"])
    encoder_out, decoder_out = modules["Transformer"](src, expected.get("tokens_bos"))
    ctc_logits = modules["ctc_lin"](encoder_out)
    assert relative_error(encoder_out, expected["encoder_out"]) < 1e-4
    assert relative_error(ctc_logits, expected["ctc_logits"]) < 1e-4
    loss = ctc_logits.pow(2).mean()
    if decoder_out is not None:
        seq_logits = modules["seq_lin"](decoder_out)
        assert relative_error(decoder_out, expected["decoder_out"]) < 1e-4
        assert relative_error(seq_logits, expected["seq_logits"]) < 1e-4
        loss = loss + seq_logits.pow(2).mean()

    loss.backward()
    for key, norm in expected["grad_norm"].items():
        assert modules.get_parameter(key).grad.norm().item() == pytest.approx(float(norm), rel=1e-3), key
