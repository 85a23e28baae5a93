"""Precision of inference on a CPU: what is computed in, on machines that have the instructions and others."""

from __future__ import annotations

import threading

import pytest
import torch

from speechbrain_mamba.corpora.mini.samples import SAMPLES
from speechbrain_mamba.evaluation.word_errors import WordErrors
from speechbrain_mamba.inference import precision
from speechbrain_mamba.inference.precision import ReducedPrecision, check_precision
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator, export_separator
from speechbrain_mamba.nnet.reduced_linear import ReducedLinear
from speechbrain_mamba.utils import processor
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.conftest import HPARAMS
from tests.ops.test_int8 import needs_int8

CPU = torch.device("cpu")


@pytest.fixture
def bf16(monkeypatch):
    """As if the processor had bfloat16, or not."""

    def choose(there):
        monkeypatch.setattr(precision, "bf16_unavailable", lambda: None if there else "it is too old.")

    choose(True)
    return choose


def reduced(model):
    return [module for module in model.mods.modules() if isinstance(module, ReducedLinear)]


def test_a_precision_that_would_be_slower_is_not_taken(bf16, monkeypatch, caplog):
    assert check_precision("bf16", CPU) == "bf16" and not caplog.messages
    bf16(False)
    monkeypatch.setattr(precision, "int8_unavailable", lambda: "it has no VNNI.")
    for name, reason in (("bf16", "it is too old."), ("int8", "it has no VNNI.")):
        caplog.clear()
        assert check_precision(name, CPU) == "fp32"
        assert caplog.messages == [
            f"The model computes in fp32 instead of {name}, which would be slower here: {reason}"
        ]
    caplog.clear()
    assert check_precision("fp32", CPU) == "fp32" and check_precision("bf16", torch.device("cuda")) == "bf16"
    assert not caplog.messages


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("fp8", "cpu", "precision is 'fp8', but must be one of fp32, bf16, int8, fp16"),
        (8, "cpu", "precision is '8', but must be one of"),
        ("fp16", "cpu", "precision is 'fp16', which needs a GPU: on a CPU take bf16, int8 or fp32"),
        ("int8", "cuda:1", "precision is 'int8', which is for a CPU: on 'cuda:1' take bf16, fp16 or fp32"),
    ],
)
def test_precisions_that_are_refused(name, device, message):
    with pytest.raises(ValueError, match=message):
        check_precision(name, torch.device(device))


@pytest.mark.parametrize("there", [True, False])
def test_the_context_can_be_entered_again_and_by_threads(bf16, there):
    bf16(there)
    context, inner, seen = ReducedPrecision(), threading.Event(), []

    def other():
        with context:
            inner.wait(10)
            seen.append(torch.is_autocast_enabled("cpu"))
        seen.append(torch.is_autocast_enabled("cpu"))

    with context:
        thread = threading.Thread(target=other)
        thread.start()
        with context:
            assert torch.is_autocast_enabled("cpu") == there
        assert torch.is_autocast_enabled("cpu") == there
    assert not torch.is_autocast_enabled("cpu")
    inner.set()
    thread.join()
    assert seen == [there, False]


@pytest.mark.parametrize("name", ["bf16", pytest.param("int8", marks=needs_int8)])
@pytest.mark.parametrize("there", [True, False])
def test_a_bundled_separator_loses_little(bf16, caplog, name, there):
    torch.manual_seed(0)
    mix = 0.1 * torch.randn(2, 2000)
    exact = SpeechSeparator.from_hparams("separator")
    bf16(there)
    model = SpeechSeparator.from_hparams("separator", run_opts={"precision": name})
    assert bool(reduced(model)) == (there or name == "int8") and not reduced(exact)
    expected, found = exact.separate_batch(mix), model.separate_batch(mix)
    assert found.dtype == expected.dtype == torch.float32
    assert (found - expected).norm() / expected.norm() < 0.1
    assert torch.equal(found, expected) == (not there and name == "bf16")
    alone = model.separate_batch(mix[1:, :900])
    padded = model.separate_batch(mix, torch.tensor([1.0, 900 / 2000]))
    torch.testing.assert_close(padded[1:, :900], alone, rtol=0.05, atol=0.02 * float(alone.abs().max()))


@needs_int8
def test_a_bundled_recognizer_hears_the_same():
    """But for a word that it is unsure of: the first recording has a digit of which one frame decides, 53 to 47."""
    exact, model = (
        Recognizer.from_hparams("recognizer-digits", run_opts={"precision": name}) for name in ("fp32", "int8")
    )
    assert len(reduced(model)) > 10 and model.precision == "int8"
    errors = WordErrors()
    for sample in SAMPLES:
        (expected, words), (found, heard) = (listen(one, str(sample.path)) for one in (exact, model))
        assert (found - expected).norm() < 0.05 * expected.norm()
        errors.add(sample.path.name, heard, words)
    wrong, said = errors.counts()
    assert wrong <= 1 and said == 14


def listen(recognizer, path):
    """Probabilities of tokens over the frames of a recording, and the words."""
    found = []
    watch = recognizer.mods.proj_enc.register_forward_hook(lambda _, x, y: found.append(y.float().softmax(-1)))
    words = recognizer.transcribe_file(path)
    watch.remove()
    return torch.cat(found, 1), words


@needs_int8
def test_a_stream_computes_in_the_precision_of_its_model(tmp_path, bf16):
    path, folder = HPARAMS / "separation/mini_mambatasnet_streaming.yaml", tmp_path / "model"
    sizes = {"N_encoder_out": 64, "out_channels": 64, "n_mamba": 1}
    export_separator(folder, read_hparams(path, sizes), load_hparams(path, sizes)["modules"])
    exact, model = (SpeechSeparator.from_hparams(folder, run_opts={"precision": name}) for name in ("fp32", "int8"))
    mix = 0.1 * torch.randn(1, 700)
    whole, stream, entered = model.separate_batch(mix), model.stream(), []
    stream.model.register_forward_hook(lambda *_: entered.append(torch.is_autocast_enabled("cpu")))
    pieces = torch.cat([*(stream.add(piece) for piece in mix.split(130, 1)), stream.finish()], 1)
    assert entered and all(entered) and pieces.dtype == torch.float32
    torch.testing.assert_close(pieces, whole, rtol=0.05, atol=0.05 * float(whole.abs().max()))
    assert not torch.equal(whole, exact.separate_batch(mix))


def test_flags_of_processors(monkeypatch, tmp_path):
    listed = tmp_path / "cpuinfo"
    for text, flag, reason in (
        ("processor\t: 0\nflags\t\t: fpu amx_bf16 avx2\nflags : none\n", "amx_bf16", None),
        ("Features\t: fp asimd bf16\n", "bf16", None),
        ("flags : avx2\n", "avx2", "no instructions for bfloat16"),
        ("nothing\n", None, "no instructions for bfloat16"),
        (None, None, "no instructions for bfloat16"),
    ):
        if text is None:
            listed.unlink()
        else:
            listed.write_text(text)
        monkeypatch.setattr(processor, "_LISTED", listed)
        processor.processor_flags.cache_clear()
        found = processor.bf16_unavailable()
        assert flag is None or flag in processor.processor_flags()
        assert found is None if reason is None else reason in found
    processor.processor_flags.cache_clear()
