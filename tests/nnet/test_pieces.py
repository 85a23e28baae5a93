"""Long sequences in pieces of frames give what they give at once, in less memory."""

import json
from functools import partial

import pytest
import torch
from speechbrain.lobes.models.dual_path import Decoder, Encoder
from torch import nn
from torch.profiler import ProfilerActivity, profile

from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet import pieces
from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.chunked_mamba import ChunkedBiMamba
from speechbrain_mamba.nnet.mamba import BiMamba
from speechbrain_mamba.ops import use_backend
from tests.nnet.test_mamba import scramble

LENGTHS = [None, torch.tensor([41, 0]), torch.tensor([41, 19])]


@pytest.fixture
def short_pieces(monkeypatch):
    """Cut into pieces of 7 frames, which sequences of 41 frames do not fill; answers how often it was done."""
    found, find = [], pieces.find_pieces

    def noted(*arguments):
        found.append(find(*arguments))
        return found[-1]

    monkeypatch.setattr(pieces, "FRAMES", 14)
    for module in (
        "nnet.mamba",
        "nnet.blocks",
        "lobes.models.separation.mamba_tasnet",
        "lobes.models.separation.masking",
    ):
        monkeypatch.setattr(f"speechbrain_mamba.{module}.find_pieces", noted)
    return found


def in_pieces_and_at_once(function, found):
    """The results of a function without gradients, which works in pieces, and with them, which does not."""
    with torch.no_grad():
        one = function()
    assert found and all(len(cut) == 6 for cut in found)
    found.clear()
    other = function()
    assert found and all(cut is None for cut in found)
    return one, other.detach()


def frames(*shape, lengths=None):
    """Random frames; what is past the lengths is no number."""
    x = torch.randn(*shape)
    for i, length in enumerate([] if lengths is None else lengths.tolist()):
        x[i, length:] = torch.nan
    return x


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("layer", [partial(BiMamba, bias=True, conv_bias=False), partial(ChunkedBiMamba, d_conv=2)])
def test_a_layer(short_pieces, backend, lengths, layer):
    model, x = scramble(layer(6, d_state=3)), frames(2, 41, 6, lengths=lengths)
    with use_backend(backend):
        torch.testing.assert_close(*in_pieces_and_at_once(lambda: model(x, lengths), short_pieces))


def test_a_layer_with_other_projections(short_pieces):
    """Modules that take the place of the projections are called as they are, such as quantized ones."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model, x = scramble(BiMamba(6, d_state=3)), torch.randn(2, 41, 6)
    with torch.no_grad():
        expected = model(x)
        for name in ("in_proj", "out_proj"):
            linear = getattr(model, name)
            doubled = Doubled(linear.in_features, linear.out_features, bias=False)
            doubled.weight.copy_(linear.weight / 2)
            setattr(model, name, doubled)
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("options", [{}, {"attention_layers": [1]}, {"mixer": "mamba2"}])
def test_a_stack_leaves_its_input_alone(short_pieces, lengths, options):
    model, x = scramble(MambaBlocksSequential(3, True, 8, d_state=3, **options)), frames(2, 41, 8, lengths=lengths)
    before = x.clone()
    torch.testing.assert_close(*in_pieces_and_at_once(lambda: model(x, lengths), short_pieces), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


def test_layers_in_bfloat16_between_residuals_in_float32(short_pieces):
    model, x = scramble(MambaBlocksSequential(2, True, 8, d_state=3)), torch.randn(2, 41, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        one, other = in_pieces_and_at_once(lambda: model(x), short_pieces)
    assert one.dtype == other.dtype
    torch.testing.assert_close(one, other, rtol=0.03, atol=0.03)


def separator(**options):
    """The parts of a small Mamba-TasNet."""
    masknet = MaskNet(N=12, B=8, C=3, mamba_net=scramble(MambaBlocksSequential(2, True, 8, d_state=3, **options)))
    return Encoder(16, 12), masknet, Decoder(12, 1, 16, stride=8, bias=False)


@pytest.mark.parametrize("lengths", [None, torch.tensor([1.0, 0.3])])
def test_a_separator(short_pieces, lengths):
    """Estimates of successive pieces overlap by half the kernel of the decoder."""
    parts, mix = separator(), torch.randn(2, 8 * 42 + 3)
    torch.testing.assert_close(*in_pieces_and_at_once(lambda: separate(*parts, mix, lengths), short_pieces))


def test_a_decoder_with_a_bias_decodes_at_once(short_pieces):
    """Where pieces overlap, the bias would count twice."""
    encoder, masknet, _ = separator()
    decoder, mix = Decoder(12, 1, 16, stride=8), torch.randn(1, 8 * 90)
    with torch.no_grad():
        one = separate(encoder, masknet, decoder, mix)
    assert short_pieces
    torch.testing.assert_close(one, separate(encoder, masknet, decoder, mix).detach())


def test_when_frames_are_cut(monkeypatch):
    layer = nn.Linear(3, 3)
    x = torch.zeros(2, 5000, 3)
    find = partial(pieces.find_pieces, layer, x, 5000)
    assert find() is None
    with torch.no_grad():
        assert [piece.start for piece in find()] == [0, 1024, 2048, 3072, 4096]
        assert find()[-1].stop == 5000
        assert pieces.find_pieces(layer, x[:1], 5000) is None  # fewer than four of 2048
        assert pieces.find_pieces(layer, x.to("meta"), 5000) is None
        assert pieces.find_pieces(layer, x[:0], 0) is None
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert find() is None
    monkeypatch.undo()
    layer.requires_grad_(False)
    assert find() is not None
    x.requires_grad_()
    assert find() is None


def peak(function, path):
    """The most memory that tensors have at one time while a function runs, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    profiled.export_chrome_trace(str(path))
    events = [event["args"] for event in json.loads(path.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    return max(event["Total Allocated"] for event in events) - events[0]["Total Allocated"]


def test_memory_of_a_separator_grows_with_few_tensors(tmp_path):
    """For each frame there are the encoded mixture, the residual, and two tensors of the layer's inner width, which is
    twice that of the model: 6 times 32 numbers here. At once it takes three times as much."""
    masknet = MaskNet(N=32, B=32, C=2, mamba_net=MambaBlocksSequential(1, True, 32))
    parts = Encoder(16, 32), masknet, Decoder(32, 1, 16, stride=8, bias=False)
    with torch.no_grad():
        short, long = (
            peak(lambda: separate(*parts, torch.zeros(1, 8 * count)), tmp_path / "trace.json")  # noqa: B023
            for count in (10_000, 26_000)
        )
    assert (long - short) / 16_000 < 7 * 32 * 4
