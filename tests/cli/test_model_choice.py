"""Which model is loaded, and where it computes."""

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from speechbrain_mamba.cli.model_choice import ModelChoice, choose_device
from speechbrain_mamba.nnet.reduced_linear import ReducedLinear


class Model:
    @classmethod
    def from_hparams(cls, **options):
        return options


@pytest.mark.parametrize(
    ("asked", "gpus", "device"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_devices(monkeypatch, asked, gpus, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    options = ModelChoice("folder", asked, "bf16", trust_yaml=True).load(Model, search="beam")
    run_opts = {"device": device, "precision": "bf16"}
    assert options == {"source": "folder", "run_opts": run_opts, "trust_yaml": True, "search": "beam"}


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("separator", "separation.SpeechSeparator"),
        ("recognizer", "recognition.Recognizer"),
        ("streaming_recognizer", "streaming.StreamingRecognizer"),
        ("synthesizer", "synthesis.SpeechSynthesizer"),
    ],
)
def test_device_and_precision_are_those_of_every_class(models, monkeypatch, folder, name):
    monkeypatch.setattr("speechbrain_mamba.inference.precision.bf16_unavailable", lambda: None)
    module, _, name = name.partition(".")
    cls = getattr(import_module(f"speechbrain_mamba.inference.{module}"), name)
    loaded = cls.from_hparams(models / folder, run_opts={"device": "cpu", "precision": "bf16"})
    with loaded.inference_ctx:
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
    reduced = {id(part.weight) for part in loaded.mods.modules() if isinstance(part, ReducedLinear)}
    kept = {parameter.dtype for parameter in loaded.mods.parameters() if id(parameter) not in reduced}
    assert loaded.device == "cpu" and kept == {torch.float32}
    with pytest.raises(ValueError, match=r"The device 'cuda:77' is not there: .* Use cpu, or cuda on a machine with"):
        cls.from_hparams(models / folder, run_opts={"device": "cuda:77"})
    with pytest.raises(ValueError, match="precision is 'fp8', but must be one of fp32, bf16, int8, fp16"):
        cls.from_hparams(models / folder, run_opts={"precision": "fp8"})


def test_a_bundled_model_says_what_it_is_good_for(monkeypatch, caplog):
    bundled = SimpleNamespace(limits="It knows nobody.")
    monkeypatch.setattr("speechbrain_mamba.inference.bundled.bundled_models", lambda: {"separator": bundled})
    ModelChoice("folder").load(Model)
    assert not caplog.messages
    ModelChoice("separator").load(Model)
    assert caplog.messages == ["'separator' is a small model for trying out. It knows nobody."]
    there = [ModelChoice(name).is_there() for name in ("separator", "recognizer-digits", "folder")]
    assert there == [True, False, True]


@pytest.mark.parametrize(
    ("asked", "gpus", "message"),
    [
        ("cuda", 0, "There is no device 'cuda': torch can use no GPUs here. Give another one, or see what"),
        ("cuda:1", 1, "There is no device 'cuda:1': torch can use 1 GPU here."),
        ("meta", 0, "There is no device 'meta': give auto, cpu, cuda, or cuda:1 and on"),
        ("cuda0", 1, "There is no device 'cuda0': give auto, cpu, cuda, or cuda:1 and on"),
    ],
)
def test_devices_that_are_not_there(monkeypatch, asked, gpus, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=message):
        choose_device(asked)
