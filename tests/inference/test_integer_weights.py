"""Models that are exported with weights of 8-bit integers: the same as those that are quantized on loading."""

from __future__ import annotations

import shutil

import pytest
import torch

from speechbrain_mamba.inference import precision
from speechbrain_mamba.inference.models import SeparationModel
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.inference.sharing import export_model
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer
from speechbrain_mamba.nnet import reduced_linear
from speechbrain_mamba.nnet.reduced_linear import ReducedLinear
from speechbrain_mamba.ops import int8
from speechbrain_mamba.utils.weights import SAFETENSORS, read_weights, write_weights
from tests.ops.test_int8 import needs_int8

MODELS = {
    "separator": SpeechSeparator,
    "recognizer-digits": Recognizer,
    "synthesizer-digits": SpeechSynthesizer,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """What the export of the bundled separator returned."""
    return export_model("separator", tmp_path_factory.mktemp("exported") / "int8", precision="int8")


def reduced_layers(model):
    return {name: part for name, part in model.mods.named_modules() if isinstance(part, ReducedLinear)}


@needs_int8
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_the_one_that_is_quantized_on_loading(tmp_path, monkeypatch, name):
    source, cls = tmp_path / "model", MODELS[name]
    made = export_model(name, source, precision="int8")
    quantized = cls.from_hparams(name, run_opts={"precision": "int8"})
    monkeypatch.setattr(int8, "quantize_weight", None)  # nothing is quantized again
    loaded = cls.from_hparams(source)
    assert loaded.precision == "int8"
    ours, theirs = reduced_layers(loaded), reduced_layers(quantized)
    assert len(ours) > 10 and ours.keys() == theirs.keys()
    for key, layer in ours.items():
        x = torch.randn(3, layer.in_features)
        assert layer.bits == theirs[key].bits
        assert torch.equal(*(ReducedLinear.forward(one, x) for one in (layer, theirs[key]))), key
    kept = loaded.mods.state_dict()
    assert all(torch.equal(value, kept[key]) for key, value in quantized.mods.state_dict().items())
    assert made.parameters == export_model(name, tmp_path / "floats").parameters
    assert not any(path.suffix == ".ckpt" for path in source.iterdir() if path.stem in ("masknet", "ar", "model"))


@needs_int8
def test_a_separator_of_integers_separates_the_same_and_is_small(exported):
    mix = 0.1 * torch.randn(2, 2000)
    stored, quantized = (
        SpeechSeparator.from_hparams(source, run_opts=options)
        for source, options in ((exported.folder, None), ("separator", {"precision": "int8"}))
    )
    assert torch.equal(stored.separate_batch(mix), quantized.separate_batch(mix))
    size = exported.files["masknet.safetensors"]
    floats = read_weights(exported.folder / "masknet.safetensors")
    assert size < 0.45 * sum(value.numel() * 4 for value in floats.values())
    card = (exported.folder / "README.md").read_text()
    assert card.count("are 8-bit integers") == 1


def test_floats_are_made_of_the_integers_where_these_cannot_be_computed_with(exported, monkeypatch, caplog):
    mix = 0.1 * torch.randn(1, 2000)
    floats = SpeechSeparator.from_hparams(exported.folder, run_opts={"precision": "fp32"})
    assert not reduced_layers(floats) and floats.precision == "fp32"
    monkeypatch.setattr(precision, "int8_unavailable", lambda: "it has no VNNI.")
    assert not caplog.messages
    other = SpeechSeparator.from_hparams(exported.folder)
    assert caplog.messages == [
        "The model computes in fp32 instead of int8, which would be slower here: it has no VNNI."
    ]
    assert torch.equal(other.separate_batch(mix), floats.separate_batch(mix))
    exact = SpeechSeparator.from_hparams("separator").separate_batch(mix)
    assert 0 < (other.separate_batch(mix) - exact).norm() / exact.norm() < 0.1
    network = SeparationModel.from_pretrained(exported.folder)
    torch.testing.assert_close(network(mix), floats.separate_batch(mix))
    weights = dict(floats.mods.masknet.named_parameters())
    first = "mamba_net.layers.0.mixer.in_proj.weight"
    original = dict(SpeechSeparator.from_hparams("separator").mods.masknet.named_parameters())[first]
    step = original.abs().amax(1, keepdim=True) / 127
    assert ((weights[first] - original).abs() <= 0.51 * step).all()


def test_a_machine_without_bfloat16_computes_all_layers_in_int8(exported, monkeypatch):
    if int8.int8_unavailable() is not None:
        pytest.skip("this machine has no products of 8-bit integers")
    monkeypatch.setattr(reduced_linear, "bf16_unavailable", lambda: "it is too old.")
    loaded = SpeechSeparator.from_hparams(exported.folder)
    assert {layer.bits for layer in reduced_layers(loaded).values()} == {"int8"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, key: state.pop(f"{key}.scales"), "but not with one finite scale for each output: it is damaged"),
        (lambda state, key: state[f"{key}.scales"].fill_(torch.nan), "not with one finite scale"),
        (lambda state, key: state.update({f"{key}.int8": state[f"{key}.int8"].float()}), "not with one finite scale"),
    ],
)
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_damaged_integers_are_refused(exported, tmp_path, change, message, precision):
    with pytest.raises(ValueError, match=message):
        SpeechSeparator.from_hparams(changed(exported, tmp_path, change), run_opts={"precision": precision})


def changed(exported, tmp_path, change):
    """A copy of the folder with other weights; ``change`` gets them, and the name of one that is of integers."""
    folder = shutil.copytree(exported.folder, tmp_path / "changed")
    state = read_weights(folder / "masknet.safetensors", integers=True)
    key = next(name for name in state if name.endswith(".int8")).removesuffix(".int8")
    change(state, key)
    write_weights(folder / "masknet.safetensors", state)
    return folder


def reshape(state, key):
    state[f"{key}.int8"] = state[f"{key}.int8"][:, 1:]


def rename(state, key):
    for end in (".int8", ".scales"):
        state[f"mamba_net.norm_f.weight{end}"] = state.pop(f"{key}{end}")


@needs_int8
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (reshape, "is of 8-bit integers, .*, but there is no linear layer of this size"),
        (rename, "norm_f.weight is of 8-bit integers, .*, but there is no linear layer of this size"),
    ],
)
def test_integers_of_another_model_are_refused(exported, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        SpeechSeparator.from_hparams(changed(exported, tmp_path, change))


def test_what_cannot_be_exported_so_is_refused(tmp_path):
    with pytest.raises(ValueError, match="precision is 'bf16', but a model is exported in fp32 or int8"):
        export_model("separator", tmp_path / "model", precision="bf16")
    codec = tmp_path / "codec"
    codec.mkdir()
    for path in SpeechSynthesizer.from_hparams("synthesizer-digits").source_files.folder.glob("codec.*"):
        shutil.copy(path, codec)
    with pytest.raises(ValueError, match="The codec cannot be exported in int8: separators, recognizers and"):
        export_model(codec, tmp_path / "model", precision="int8")
    assert not (tmp_path / "model").exists()


def test_an_export_again_keeps_the_integers(exported, tmp_path):
    again = export_model(exported.folder, tmp_path / "again")
    assert {path.suffix for path in again.folder.glob("masknet.*")} == {SAFETENSORS}
    assert again.files["masknet.safetensors"] == exported.files["masknet.safetensors"]
    assert (again.folder / "README.md").read_text().count("are 8-bit integers") == 1
