"""Long sequences in pieces of frames give what they give at once, in less memory."""

import json
from functools import partial

import pytest
import torch
from speechbrain.lobes.models.dual_path import Decoder, Encoder, SBTransformerBlock
from torch import nn
from torch.profiler import ProfilerActivity, profile

from speechbrain_mamba.lobes.models.separation.dual_path import DualPathModel
from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet import pieces
from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.chunked_mamba import ChunkedBiMamba
from speechbrain_mamba.nnet.mamba import BiMamba
from speechbrain_mamba.nnet.mamba2 import BiMamba2
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
        "nnet.mamba_layer",
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


LAYERS = [
    partial(BiMamba, bias=True, conv_bias=False),
    partial(ChunkedBiMamba, d_conv=2),
    partial(BiMamba2, headdim=4, bias=True),
    partial(BiMamba2, headdim=3, d_ssm=6, rmsnorm=False, ngroups=2, D_has_hdim=True),
]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer(short_pieces, backend, lengths, layer):
    model, x = scramble(layer(6, d_state=3)), frames(2, 41, 6, lengths=lengths)
    with use_backend(backend):
        torch.testing.assert_close(
            *in_pieces_and_at_once(lambda: model(x, lengths), short_pieces), rtol=1e-5, atol=1e-5
        )


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
@pytest.mark.parametrize(
    "form, options",
    [
        (True, {}),
        (True, {"attention_layers": [1]}),
        (True, {"mixer": "mamba2"}),
        ("outer", {}),
        ("outer_concat", {"mixer": "mamba2"}),
        (False, {"attention_layers": [1]}),
        (False, {"mixer": "mamba2"}),
    ],
)
def test_a_stack_leaves_its_input_alone(short_pieces, lengths, form, options):
    model, x = scramble(MambaBlocksSequential(3, form, 8, d_state=3, **options)), frames(2, 41, 8, lengths=lengths)
    before = x.clone()
    torch.testing.assert_close(*in_pieces_and_at_once(lambda: model(x, lengths), short_pieces), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("lengths", [None, torch.tensor([13, 0, 5] * 4 + [13])])
def test_a_large_batch_goes_in_groups_of_examples(monkeypatch, lengths):
    """2 * 14 // 13 examples at a time."""
    monkeypatch.setattr(pieces, "FRAMES", 28)
    stack, calls = scramble(MambaBlocksSequential(2, True, 8, d_state=3)), []
    stack.layers[0].mixer.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    x = frames(13, 13, 8, lengths=lengths)
    with torch.no_grad():
        y = stack(x, lengths)
        assert calls == [2] * 6 + [1]
        layer = stack.layers[0].mixer
        layer_output = layer(x.nan_to_num(), lengths)
    torch.testing.assert_close(y, stack(x, lengths).detach())
    torch.testing.assert_close(layer_output, layer(x.nan_to_num(), lengths).detach())


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


def dual_path(norm="ln", size=10, transformer=False, **options):
    """The parts of a small DPMamba or SepFormer."""
    if transformer:
        models = [SBTransformerBlock(1, 8, 2, d_ffn=8) for _ in range(2)]
    else:
        models = [MambaBlocksSequential(1, True, 8, d_state=3) for _ in range(2)]
    torch.manual_seed(2)
    masknet = DualPathModel(12, 8, *models, num_layers=3, norm=norm, K=size, num_spks=3, **options).eval()
    return Encoder(16, 12), scramble(masknet), Decoder(12, 1, 16, stride=8, bias=False)


@pytest.mark.parametrize("lengths", [None, torch.tensor([1.0, 0.3])])
@pytest.mark.parametrize(
    "options",
    [
        {"size": 6, "skip_around_intra": False, "linear_layer_after_inter_intra": False},
        {"size": 9},
        {"size": 100, "transformer": True},
        {"size": 2, "skip_around_intra": False},
    ],
)
def test_a_dual_path_separator(short_pieces, lengths, options):
    """Chunks of a piece overlap those of the next one; pieces are shorter and longer than chunks."""
    parts, mix = dual_path(**options), torch.randn(2, 8 * 42 + 3)
    with torch.no_grad():
        one = separate(*parts, mix, lengths)
    assert len(short_pieces[0]) == 6
    torch.testing.assert_close(one, separate(*parts, mix, lengths).detach(), rtol=1e-4, atol=1e-5)


def test_a_dual_path_separator_with_another_norm_works_at_once(short_pieces):
    parts, mix = dual_path("gln"), torch.randn(1, 8 * 90)
    with torch.no_grad():
        one = separate(*parts, mix)
    assert not parts[1].in_pieces
    torch.testing.assert_close(one, separate(*parts, mix).detach(), rtol=1e-4, atol=1e-5)


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
        assert pieces.find_groups(layer, torch.zeros(9, 1000, 3), 1000) is None
        monkeypatch.undo()
        assert pieces.find_groups(layer, torch.zeros(9, 1000, 3), 1000)[-1] == slice(8, 9)
        assert pieces.find_groups(layer, torch.zeros(9, 900, 3), 900) is None  # fewer than 8192 frames
        assert pieces.find_groups(layer, torch.zeros(8, 9000, 3), 9000) is None  # which goes in pieces of time
    assert pieces.find_groups(layer, torch.zeros(9, 1000, 3), 1000) is None
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


def single_path_of_32_channels(mixer):
    """For each frame there are the encoded mixture, the residual, what both scans read, and the output of one. At once
    it takes two to three times as much."""
    stack = MambaBlocksSequential(1, True, 32, mixer=mixer)
    layer = stack.layers[0].mixer
    inner = 2 * layer.d_inner if mixer == "mamba" else layer.conv_dim + layer.nheads + layer.d_ssm
    return MaskNet(N=32, B=32, C=2, mamba_net=stack), 2 * 32 + inner


def dual_path_of_32_channels(mixer):
    """There are the encoded mixture, and two tensors of chunks, which hold each frame twice."""
    models = [MambaBlocksSequential(1, True, 32, mixer=mixer) for _ in range(2)]
    return DualPathModel(32, 32, *models, num_layers=2, K=100, linear_layer_after_inter_intra=False), 5 * 32


@pytest.mark.parametrize(
    "make, mixer",
    [
        (single_path_of_32_channels, "mamba"),
        (single_path_of_32_channels, "mamba2"),
        (dual_path_of_32_channels, "mamba"),
    ],
)
def test_memory_of_a_separator_grows_with_few_tensors(tmp_path, make, mixer):
    masknet, numbers = make(mixer)
    parts = Encoder(16, 32), masknet, Decoder(32, 1, 16, stride=8, bias=False)
    with torch.no_grad():
        short, long = (
            peak(lambda: separate(*parts, torch.zeros(1, 8 * count)), tmp_path / "trace.json")  # noqa: B023
            for count in (10_000, 18_000)
        )
    assert (long - short) / 8_000 < 1.15 * numbers * 4
