"""Programs of torch and ONNX agree with the models that they are made of, at other lengths and numbers of examples."""

import json

import pytest
import torch

import speechbrain_mamba.ops  # noqa: F401  # the operations of exported programs
from speechbrain_mamba.inference import deployment
from speechbrain_mamba.inference.deployment import make_program, write_onnx, write_torch
from speechbrain_mamba.inference.separation import export_separator
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.conftest import HPARAMS
from tests.inference.tiny_recognizers import make_recognizer, speech

TINY_SEPARATOR = {"N_encoder_out": 16, "out_channels": 8, "n_mamba": 1}


@pytest.fixture(scope="module")
def separator(tmp_path_factory):
    folder, path = tmp_path_factory.mktemp("separator"), HPARAMS / "separation/mini_mambatasnet.yaml"
    torch.manual_seed(0)
    export_separator(
        folder / "model", read_hparams(path, TINY_SEPARATOR), load_hparams(path, TINY_SEPARATOR)["modules"]
    )
    return folder / "model"


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    return make_recognizer(tmp_path_factory.mktemp("recognizer"), num_encoder_layers=1).folder


def _inputs(examples, samples):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([samples, samples // 2 + 7, samples - 300][:examples])
    return 0.1 * torch.randn(examples, samples, generator=generator), lengths


def _wanted(program, inputs):
    with torch.no_grad():
        outputs = program.module(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


CASES = [(1, 8000), (3, 5321)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["separator", "recognizer"])
def test_onnxruntime_agrees_at_any_length(kind, request, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    source = request.getfixturevalue(kind)
    text = write_onnx(str(source), tmp_path / "deployed")
    assert f"{kind}.onnx" in text
    described = json.loads((tmp_path / "deployed/deployed.json").read_text(encoding="utf-8"))
    assert described["kind"] == kind and described["sample_rate"] == 8000
    session = onnxruntime.InferenceSession(tmp_path / "deployed" / described["file"])
    assert [value.name for value in session.get_inputs()] == list(described["inputs"])
    assert [value.name for value in session.get_outputs()] == described["outputs"]
    program = make_program(source)
    for case in CASES:
        inputs = _inputs(*case)
        found = session.run(None, {name: value.numpy() for name, value in zip(described["inputs"], inputs)})
        for got, wanted in zip(found, _wanted(program, inputs)):
            torch.testing.assert_close(torch.from_numpy(got), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["separator", "recognizer"])
def test_torch_programs_agree_at_any_length(kind, request, tmp_path):
    source = request.getfixturevalue(kind)
    write_torch(source, tmp_path / "deployed")
    module = torch.export.load(tmp_path / f"deployed/{kind}.pt2").module()
    program = make_program(source)
    for case in CASES:
        inputs = _inputs(*case)
        found = module(*inputs)
        for got, wanted in zip(found if isinstance(found, tuple) else (found,), _wanted(program, inputs)):
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_a_program_gives_what_the_recognizer_gives(recognizer):
    model, program = deployment.Recognizer.from_hparams(recognizer), make_program(recognizer)
    wav = speech(1.0)
    log_probs, frames = _wanted(program, (wav, torch.tensor([wav.shape[1]])))
    with torch.no_grad():
        wanted, _ = model.mods.encoder.encode(wav, torch.ones(1))
    torch.testing.assert_close(log_probs, wanted)
    assert frames.tolist() == [wanted.shape[1]]
    assert program.facts["tokens"][program.facts["blank"]] == model.tokenizer.id_to_piece(model.hparams.blank_index)


def test_what_cannot_be_deployed_is_refused_in_a_sentence(separator, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="give the name of a new folder"):
        write_torch(separator, tmp_path / "full")
    assert (tmp_path / "full/note.txt").read_text() == "mine"
    monkeypatch.setattr(deployment, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"speechbrain_mamba\[onnx\]"):
        write_onnx(separator, tmp_path / "new")
    s2s = make_recognizer(tmp_path / "s2s", "mini_conmambamamba_s2s_fsdd").folder
    with pytest.raises(ValueError, match="only recognizers with CTC"):
        write_torch(s2s, tmp_path / "new")
    with pytest.raises(ValueError, match="a separator or a recognizer is needed"):
        write_torch("synthesizer-digits", tmp_path / "new")
    assert not (tmp_path / "new").exists()
