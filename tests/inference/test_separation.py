"""The separator that is loaded from a folder."""

from __future__ import annotations

import pytest
import torch
import torchaudio.functional

from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.inference.separation import SpeechSeparator, export_separator
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.conftest import HPARAMS

SIZES = {"N_encoder_out": 16, "out_channels": 8}
MODELS = {"mini_mambatasnet": {"n_mamba": 2}, "mini_sepformer": {"n_transformer": 1, "d_ffn": 16, "nhead": 2}}


def load(tmp_path, name="mini_mambatasnet", **options):
    """Trained modules in training, and the separator that users load."""
    path, options = HPARAMS / "separation" / f"{name}.yaml", {**SIZES, **MODELS[name], **options}
    modules = load_hparams(path, options)["modules"]
    export_separator(tmp_path / "model", read_hparams(path, options), modules)
    separator = SpeechSeparator.from_hparams(source=str(tmp_path / "model"), savedir=str(tmp_path / "cache"))
    return modules, separator


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("speakers", [2, 3])
def test_a_separator_gives_the_estimates_of_the_exported_model(tmp_path, name, speakers):
    modules, separator = load(tmp_path, name, num_spks=speakers)
    mix, lens = torch.randn(3, 1003), torch.tensor([1.0, 0.6, 0.25])
    for module in modules.values():
        module.eval()
    parts = [modules[part] for part in ("encoder", "masknet", "decoder")]
    with torch.no_grad():
        padded, whole = separate(*parts, mix, lens), separate(*parts, mix)
    assert padded.shape == (3, 1003, speakers)
    torch.testing.assert_close(separator.separate_batch(mix, lens), padded)
    torch.testing.assert_close(separator.separate_batch(mix), whole)
    torch.testing.assert_close(separator(mix), whole)
    assert not torch.allclose(padded, whole)
    assert (padded[2, 260:] == 0).all()


@pytest.mark.parametrize("rate", [8000, 16000])
def test_files_are_brought_to_the_rate_of_the_separator(tmp_path, rate):
    _, separator = load(tmp_path, sample_rate=rate)
    write_audio(tmp_path / "mix.wav", 0.1 * torch.randn(1600), 16000)
    wav = torchaudio.functional.resample(read_audio(tmp_path / "mix.wav"), 16000, rate)
    expected = separator.separate_batch(wav[None])
    expected /= expected.abs().amax(1, keepdim=True)
    estimates = separator.separate_file(str(tmp_path / "mix.wav"), savedir=str(tmp_path / "audio"))
    torch.testing.assert_close(estimates, expected, rtol=1e-4, atol=1e-4)


def test_an_exported_separator_has_only_what_it_needs(tmp_path):
    load(tmp_path, num_spks=3)
    files = {path.name for path in (tmp_path / "model").iterdir()}
    networks = ("encoder", "masknet", "decoder")
    assert files == {"hyperparams.yaml"} | {f"{name}{end}" for name in networks for end in (".ckpt", ".safetensors")}
    hparams = load_hparams(tmp_path / "model" / "hyperparams.yaml")
    assert hparams["num_spks"] == 3 and hparams["sample_rate"] == 8000 and "checkpointer" not in hparams
