"""Graphed functions: which calls are captured and what a replay gives, with captures that are imitated on the CPU."""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace

import pytest
import torch

from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator, export_separator
from speechbrain_mamba.lobes.models.synthesis import AutoregressiveCodecLM, VallE
from speechbrain_mamba.nnet.mamba import Mamba
from speechbrain_mamba.utils import cuda_graphs
from speechbrain_mamba.utils.cuda_graphs import GraphedFunction, flatten, unflatten
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.conftest import HPARAMS
from tests.inference.tiny_recognizers import make_recognizer, speech


@pytest.fixture
def captures(monkeypatch):
    """Imitate captures: a replay computes from the static inputs, and writes into the static outputs."""
    made = []

    def capture(function, device, pool):
        outputs = function()
        statics = flatten(outputs)[0]

        def replay():
            for static, now in zip(statics, flatten(function())[0]):
                static.copy_(now)

        made.append(function)
        return replay, outputs

    monkeypatch.setattr(cuda_graphs, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_graphs, "capture", capture)
    return made


@torch.no_grad()
def test_a_shape_is_captured_when_it_comes_again(captures):
    calls = []
    square = GraphedFunction(lambda x: (calls.append(x.shape), x * x)[1], limit=2)
    for size, captured in [(2, 0), (2, 1), (2, 1), (3, 1), (3, 2), (2, 2), (4, 2), (4, 3), (2, 3), (3, 4)]:
        x = torch.randn(size)
        assert torch.equal(square(x), x * x)
        assert len(captures) == captured, size
    assert len(square._graphs) == 2  # the third pushed out the least recently used


@torch.no_grad()
def test_outputs_are_copied_unless_they_are_the_next_inputs(captures):
    kept, reused = GraphedFunction(lambda x: x + 1), GraphedFunction(lambda x: x + 1, clones=False)
    for graphed, expected in ((kept, [2.0, 3.0]), (reused, [3.0, 3.0])):
        graphed(torch.zeros(1))
        outputs = [graphed(torch.full((1,), start)) for start in (1.0, 2.0)]
        assert [y.item() for y in outputs] == expected
    y = torch.zeros(1)
    for _ in range(5):
        y = reused(y)
    assert y.item() == 5


def test_calls_with_gradients_and_of_other_devices_run_as_they_are(captures, monkeypatch):
    double = GraphedFunction(lambda x: 2 * x)
    x = torch.ones(2, requires_grad=True)
    for _ in range(3):
        assert double(x).requires_grad
    monkeypatch.setattr(cuda_graphs, "DEVICE", "cuda")
    with torch.no_grad():
        for _ in range(3):
            double(x)
    assert not captures and double.failure is None


@torch.no_grad()
def test_a_capture_that_fails_is_said_once_and_not_tried_again(monkeypatch, caplog):
    def capture(function, device, pool):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(cuda_graphs, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_graphs, "capture", capture)
    double = GraphedFunction(lambda x: 2 * x)
    with caplog.at_level(logging.WARNING):
        for size in (1, 1, 1, 2, 2):
            assert torch.equal(double(torch.ones(size)), torch.full((size,), 2.0))
    (record,) = caplog.records
    assert record.message.endswith("runs without: RuntimeError: operation not permitted when stream is capturing")


def test_a_failed_capture_leaves_random_numbers_as_they_were(monkeypatch):
    """Torch leaves the generator inside the capture, where it refuses to draw."""

    class Generator:
        def __init__(self, state):
            self.state = state

        def clone_state(self):
            return Generator(self.state)

        def graphsafe_set_state(self, other):
            self.state = other.state

    @contextlib.contextmanager
    def graph(graph, pool, stream):
        generator.state = "capturing"
        yield
        generator.state = "captured"

    def function():
        if fails and generator.state == "capturing":
            raise RuntimeError("it reads a value")

    stream, generator = SimpleNamespace(wait_stream=lambda other: None), Generator("fresh")
    for name, value in {
        "Stream": lambda device: stream, "current_stream": lambda device: stream, "graph": graph,
        "stream": contextlib.nullcontext, "CUDAGraph": lambda: SimpleNamespace(replay=None),
        "default_generators": [None, generator],
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    for fails, expected in ((True, "fresh"), (False, "captured")):
        with pytest.raises(RuntimeError, match="reads a value") if fails else contextlib.nullcontext():
            cuda_graphs.capture(function, torch.device("cuda:1"), None)
        assert generator.state == expected


@torch.no_grad()
def test_a_mamba_layer_steps_alike(captures):
    layer = Mamba(8, d_state=4).eval()
    graphed, state = GraphedFunction(layer.step, clones=False), layer.init_state(2)
    right = state
    for frame in torch.randn(6, 2, 8):
        y, state = graphed(frame, state)
        expected, right = layer.step(frame, right)
        torch.testing.assert_close((y, state), (expected, right), rtol=0, atol=0)
    assert len(captures) == 1


@pytest.mark.parametrize(("backbone", "graphs"), [("mamba", 1), ("transformer", 0)])
def test_generation_speaks_the_same(captures, backbone, graphs):
    sizes = {"backbone": backbone, "num_layers": 2, "d_model": 16, "d_ffn": 32, "nhead": 2}
    model = VallE(AutoregressiveCodecLM(40, 16, **sizes)).eval()
    prompt = Utterances(Padded(torch.randint(40, (2, 6)), torch.tensor([6, 4])),
                        Padded(torch.randint(16, (2, 7, 1)), torch.tensor([7, 5])))  # fmt: skip
    phonemes = Padded(torch.randint(40, (2, 5)), torch.tensor([5, 3]))
    expected = model.generate(prompt, phonemes, max_frames=9)
    model.use_cuda_graphs()
    for _ in range(2):
        assert all(map(torch.equal, model.generate(prompt, phonemes, max_frames=9), expected))
    assert len(captures) == graphs
    model.use_cuda_graphs(False)
    model.generate(prompt, phonemes, max_frames=9)
    assert len(captures) == graphs


def test_a_separator_is_captured_on_request(captures, tmp_path):
    path, sizes = HPARAMS / "separation" / "mini_mambatasnet.yaml", {"N_encoder_out": 16, "out_channels": 8}
    export_separator(tmp_path / "model", read_hparams(path, sizes), load_hparams(path, sizes)["modules"])
    folders = {"source": str(tmp_path / "model"), "savedir": str(tmp_path / "cache")}
    plain = SpeechSeparator.from_hparams(**folders)
    graphed = SpeechSeparator.from_hparams(**folders, cuda_graphs=True)
    mix, lens = torch.randn(2, 1003), torch.tensor([1.0, 0.6])
    for given in [(mix,), (mix, lens)]:
        for _ in range(3):
            torch.testing.assert_close(graphed.separate_batch(*given), plain.separate_batch(*given), rtol=0, atol=0)
    assert len(captures) == 2


@torch.no_grad()
def test_options_are_arguments_too_and_constants_that_cannot_be_compared_are_not_captured(captures):
    graphed = GraphedFunction(lambda x, *, factor, terms=(): factor * x + sum(terms))
    x = torch.ones(2)
    for factor in (2, 3):
        for _ in range(3):
            assert torch.equal(graphed(x, factor=factor, terms=[x, 1]), factor * x + 2)
    assert len(captures) == 2
    for _ in range(3):
        assert torch.equal(graphed(x, factor=2, terms={1, 4}), 2 * x + 5)  # a set
    assert len(captures) == 2 and graphed.failure is None


@pytest.mark.parametrize("name", ["mini_conmamba_ctc_fsdd", "mini_conformer_ctc_fsdd", "mini_conmambamamba_s2s_fsdd"])
def test_a_recognizers_encoder_is_captured_on_request(captures, tmp_path, name):
    """ConMamba once for recordings of similar length, padded to one shape; all that is valid is heard as alone."""
    folder = make_recognizer(tmp_path, name, **({"max_decode_ratio": 0.1} if "s2s" in name else {})).folder
    plain, graphed = Recognizer.from_hparams(folder), Recognizer.from_hparams(folder, cuda_graphs=True)
    waves = [speech(seconds, seed=seed)[0] for seed, seconds in enumerate((0.95, 0.9, 0.87, 0.95, 0.9))]
    found, expected = ([recognizer.transcribe_batch([wave]) for wave in waves] for recognizer in (graphed, plain))
    assert found == expected
    assert len(captures) == (2 if "conformer" in name else 1)  # a Conformer sees padding, and gets none


def test_structures_are_put_together_again():
    value = {"a": (torch.ones(1), None), "b": [Padded(torch.zeros(2), torch.ones(1)), 3, "c"]}
    tensors, structure = flatten(value)
    again = unflatten(structure, tensors)
    assert again == value and isinstance(again["b"][0], Padded)
    assert flatten(value)[1] == structure != flatten({"a": value["a"]})[1] and hash(structure)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_graph_of_a_gpu_gives_the_same_bits(caplog):
    layer = Mamba(64).cuda().eval()
    sequence, step = GraphedFunction(layer), GraphedFunction(layer.step, clones=False)
    state = right = layer.init_state(2)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        for _ in range(4):
            x, lengths = torch.randn(2, 300, 64, device="cuda"), torch.tensor([300, 77], device="cuda")
            assert torch.equal(sequence(x, lengths), layer(x, lengths))
            y, state = step(x[:, 0], state)
            expected, right = layer.step(x[:, 0], right)
            assert torch.equal(y, expected) and all(torch.equal(state[name], right[name]) for name in right)
    assert len(sequence._graphs) == len(step._graphs) == 1
    assert "cannot be captured" not in caplog.text
