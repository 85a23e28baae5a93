"""Every hyper-parameter file loads, and its models work; and files build on one another as they say."""

import pytest
import torch

from speechbrain_mamba.dataio.hparams import load_hparams, read_hparams
from speechbrain_mamba.lobes.models.separation import separate
from tests.conftest import HPARAMS

FILES = [path for path in sorted(HPARAMS.rglob("*.yaml")) if path.parent.name != "base"]
RECOGNITION = [path for path in FILES if path.parent.name == "asr"]
SEPARATION = [path for path in FILES if path.parent.name == "separation"]


@pytest.mark.parametrize("path", SEPARATION, ids=lambda path: path.stem)
def test_separation_models_are_built(path, tmp_path):
    hparams = load_hparams(path, {"data_folder": "unused", "output_folder": str(tmp_path)})
    modules = hparams["modules"]
    if sum(p.numel() for module in modules.values() for p in module.parameters()) < 3e6:
        with torch.no_grad():
            estimate = separate(modules["encoder"], modules["masknet"], modules["decoder"], torch.randn(1, 2000))
        assert estimate.shape == (1, 2000, hparams["num_spks"])
    assert hparams["experiment_name"] == path.stem


@pytest.mark.parametrize("path", RECOGNITION, ids=lambda path: path.stem)
def test_recognition_models_are_built(path, tmp_path):
    small = {"d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1}
    small |= {} if "ctc" in path.stem else {"num_decoder_layers": 1}
    hparams = load_hparams(path, {"data_folder": "unused", "output_folder": str(tmp_path), **small})
    assert hparams["experiment_name"] == path.stem
    with torch.no_grad():
        src = hparams["CNN"](hparams["compute_features"](torch.randn(1, hparams["sample_rate"])))
        if "ctc" in path.stem:
            chunks = hparams["chunk_config"] if hparams["streaming"] else None
            encoder_out = hparams["Encoder"](src, dynchunktrain_config=chunks)
        else:
            encoder_out, decoder_out = hparams["Transformer"](src, torch.tensor([[1, 5, 6]]))
            assert hparams["seq_lin"](decoder_out).shape == (1, 3, hparams["output_neurons"])
        assert hparams["ctc_lin"](encoder_out).shape == (1, 26, hparams["output_neurons"])


def test_every_base_is_built_upon():
    bases = {path.name for path in HPARAMS.rglob("base/*.yaml")}
    first_lines = [path.read_text().splitlines()[0] for path in HPARAMS.rglob("*.yaml")]
    included = [line.removeprefix("!include:").split("+") for line in first_lines if line.startswith("!include:")]
    assert bases <= {name.split("/")[-1] for names in included for name in names}


def test_later_files_replace_what_earlier_ones_say(tmp_path):
    (tmp_path / "a.yaml").write_text("x: 1\ny: 1\nz: 1")
    (tmp_path / "b.yaml").write_text("y: 2\nz: 2")
    (tmp_path / "c.yaml").write_text("!include:a.yaml+b.yaml\nz: 3")
    assert load_hparams(tmp_path / "c.yaml") == {"x": 1, "y": 2, "z": 3}


def test_overrides_reach_what_refers_to_them():
    hparams = load_hparams(HPARAMS / "separation" / "mambatasnet_XS.yaml", "data_folder: x\nn_mamba: 1\nlr: 0.5")
    assert len(hparams["MaskNet"].mamba_net.layers) == 1
    assert hparams["lr_scheduler"].lr_initial == 0.5


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no hyper-parameter file"):
        read_hparams(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("!include:b.yaml\nx: 1")
    with pytest.raises(FileNotFoundError, match=r"b\.yaml that .*a\.yaml includes"):
        read_hparams(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("!include:a.yaml\nx: 1")
    with pytest.raises(ValueError, match=r"includes itself: a\.yaml -> b\.yaml -> a\.yaml"):
        read_hparams(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="is not a mapping"):
        read_hparams(tmp_path / "c.yaml")
    with pytest.raises(ValueError, match="'data_folder' is a !PLACEHOLDER"):
        load_hparams(HPARAMS / "separation" / "mambatasnet_M.yaml")


@pytest.mark.parametrize(
    ("name", "ar", "nar"),
    [
        ("valle", 153.8, 160.4),
        ("vallm", 158.2, 169.3),
        ("vallm_hybrid", 170.8, 181.9),
        ("mini_vallm", 0.8, 0.9),
        ("mini_valle", 0.8, 0.8),
    ],
)
def test_codec_language_models_have_as_many_parameters_as_their_files_say(name, ar, nar):
    path = HPARAMS / "tts" / f"{name}.yaml"
    hparams = load_hparams(path, {"token_folder": "unused"})
    for part, millions in {"ar": ar, "nar": nar}.items():
        assert round(sum(p.numel() for p in hparams[part].parameters()) / 1e6, 1) == millions
        assert f"{millions} M" in path.read_text()
