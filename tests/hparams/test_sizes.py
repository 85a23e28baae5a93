"""The number of parameters does not depend on the kind of mixer, nor on whether a small model is the baseline."""

import functools

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_mamba.nnet.mixers import TOLERANCE
from speechbrain_mamba.utils.hparams import read_hparams, select_hparams
from tests.conftest import HPARAMS
from tests.hparams.settings import read_settings

PARTS = {
    "separation": ["Encoder", "MaskNet", "Decoder"],
    "asr": ["CNN", "Transformer", "ctc_lin"],
    "tts": ["ar", "nar"],
}
LARGER = ("_S", "_M", "_large", "_fsdd")
"""Ends of files that differ from others in sizes or data alone."""
CHANGES = [
    {"mixer": "mamba2"},
    {"mixer": "attention"},
    {"attention_layers": "spread"},
    {"bidirectional": "outer"},
    {"mixer": "mamba2", "attention_layers": "every 2", "attention_window": 5, "bidirectional": "outer_concat"},
]
QUICK = {"mini_mambatasnet", "mini_vallm"}
"""Files that are tried with all changes and in every run; the others with one change each and the slow tests."""


@functools.cache
def count_usual(path):
    """The parameters of each part of a file's model as it is."""
    return count(path)


def count(path, **overrides):
    """The parameters of each part of a file's model, which gets no memory."""
    unused = {key: "unused" for key, value in read_settings(path).items() if value == "!PLACEHOLDER"}
    names = PARTS[path.parent.name]
    text = select_hparams(read_hparams(path, unused | overrides), names)
    with torch.device("meta"):
        loaded = load_hyperpyyaml(text)
    return {name: sum(parameter.numel() for parameter in loaded[name].parameters()) for name in names}


def files():
    for number, path in enumerate(sorted(HPARAMS.glob("*/*.yaml"))):
        settings = read_settings(path)
        if path.stem in QUICK:
            yield pytest.param(path, CHANGES, id=path.stem)
        elif path.stem.endswith(LARGER):
            continue
        elif path.parent.name == "tts" or settings.get("mixer") == "mamba":
            change = CHANGES[number % len(CHANGES)]
            yield pytest.param(path, [change], marks=pytest.mark.slow, id=path.stem)


@pytest.mark.parametrize(("path", "changes"), list(files()))
def test_a_model_is_as_large_with_other_mixers(path, changes):
    usual = count_usual(path)
    for change in changes:
        if read_settings(path).get("bidirectional") == "False":  # causal
            change = {key: value for key, value in change.items() if key != "bidirectional"}
        if path.parent.name == "tts":
            change = {"prompt_order": "joint", "positions": True} | change
        if "conmambamamba" in path.stem and "attention_layers" in change:
            change = change | {"decoder_attention_layers": change["attention_layers"]}
        for part, parameters in count(path, **change).items():
            assert abs(parameters / usual[part] - 1) < TOLERANCE, (part, change, parameters, usual[part])


@pytest.mark.parametrize(
    ("baseline", "model"),
    [
        ("tts/mini_valle", "tts/mini_vallm"),
        ("tts/mini_vallm_hybrid", "tts/mini_vallm"),
        ("separation/mini_sepformer", "separation/mini_mambatasnet"),
        ("asr/mini_conformer_ctc", "asr/mini_conmamba_ctc"),
        ("asr/mini_conformer_ctc_fsdd", "asr/mini_conmamba_ctc_fsdd"),
    ],
)
def test_a_small_baseline_is_as_large_as_its_model(baseline, model):
    theirs, ours = (count_usual(HPARAMS / f"{name}.yaml") for name in (baseline, model))
    if baseline.startswith("tts"):
        assert all(abs(theirs[part] / ours[part] - 1) < TOLERANCE for part in ours), (theirs, ours)
    assert abs(sum(theirs.values()) / sum(ours.values()) - 1) < TOLERANCE, (theirs, ours)
