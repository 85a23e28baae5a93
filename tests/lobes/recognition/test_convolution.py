"""SpeechBrain's convolutions with lengths, chunks and a state."""

import copy

import pytest
import torch
from speechbrain.lobes.models import convolution as speechbrain_convolution
from speechbrain.lobes.models.transformer import Conformer
from speechbrain.nnet.CNN import Conv1d
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import nn

from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd, ConvolutionModule
from speechbrain_mamba.nnet.reduced_linear import ReducedLinear, reduce_linears
from tests.errors import relative_error
from tests.nnet.test_mamba import scramble
from tests.ops.test_int8 import needs_int8

FRONT_ENDS = {
    "published": dict(num_blocks=2, num_layers_per_block=1, out_channels=(8, 4), kernel_sizes=(3, 3), strides=(2, 2),
                      residuals=(False, False)),
    "residual": dict(num_blocks=2, num_layers_per_block=2, out_channels=(8, 4), kernel_sizes=(5, 3), strides=(1, 2),
                     residuals=(True, True)),
    "uneven": dict(num_blocks=2, num_layers_per_block=2, out_channels=(4, 6), kernel_sizes=(7, 5), strides=(3, 2),
                   residuals=(True, False), activation=torch.nn.ELU, conv_bias=False),
}  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True},
        {"kernel_size": 5, "bias": False},
        {"kernel_size": 4, "causal": True, "activation": torch.nn.GELU},
        {"kernel_size": 1, "activation": torch.nn.Tanh},
    ],
)
def test_module_is_speechbrains(options):
    theirs = scramble(Conformer.ConvolutionModule(12, **options))
    ours = ConvolutionModule(12, **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 23, 12)
    assert relative_error(ours(x), theirs(x)) < 1e-5
    dy = torch.randn(2, 23, 12)
    for module in (ours, theirs):
        module(x).backward(dy)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters()):
        assert relative_error(one.grad, other.grad) < 1e-4, name


def test_parts_of_the_module_are_called_where_they_are_more_than_they_were():
    module, x = ConvolutionModule(12, 5), torch.randn(2, 23, 12)
    y = module(x)
    for part in (module.bottleneck, *module.bottleneck):
        called = []
        handle = part.register_forward_hook(lambda *_, called=called: called.append(True))
        watched = module(x)
        handle.remove()
        assert called == [True] and torch.allclose(watched, y, atol=1e-6)
    module.bottleneck[1] = nn.Sequential(nn.GLU(dim=1), nn.Tanh())
    assert not torch.allclose(module(x), y, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"causal": True}])
def test_module_drops_out_in_training_alone(options):
    module, x = ConvolutionModule(12, 5, dropout=0.5, **options), torch.randn(2, 23, 12)
    y = module(x)
    module.eval()
    kept = y / module(x)
    assert 0.4 < (kept == 0).double().mean() < 0.6 and torch.allclose(kept[kept != 0], torch.tensor(2.0))
    assert torch.equal(ConvolutionModule(12, 5, **options)(x) == 0, torch.zeros(2, 23, 12, dtype=torch.bool))


@pytest.mark.parametrize("chunk_size", [1, 4, 23, 40])
def test_chunked_module_is_speechbrains(chunk_size):
    module = ConvolutionModule(12, kernel_size=9)
    x = torch.randn(2, 23, 12)
    expected = Conformer.ConvolutionModule.forward(module, x, dynchunktrain_config=DynChunkTrainConfig(chunk_size))
    assert relative_error(module(x, chunk_size=chunk_size), expected) < 1e-5


@pytest.mark.parametrize(
    "options, chunk_size",
    [
        ({}, None),
        ({}, 4),
        ({"bias": False}, 3),
        ({"kernel_size": 9}, 4),
        ({"causal": True}, None),
        ({"causal": True, "kernel_size": 4}, 4),
    ],
)
def test_padded_batch_equals_single_examples(options, chunk_size):
    module = scramble(ConvolutionModule(12, **{"kernel_size": 5, **options}))
    lengths = torch.tensor([23, 1, 0, 9])
    x, weight = torch.randn(4, 23, 12), torch.randn(4, 23, 12)
    y, state = module(x, lengths, chunk_size, return_state=True)
    (y * weight).sum().backward()
    batched = {key: p.grad.clone() for key, p in module.named_parameters()}
    module.zero_grad()
    for i, length in enumerate(lengths.tolist()):
        assert not y[i, length:].any()
        if length:
            alone, alone_state = module(x[i : i + 1, :length], chunk_size=chunk_size, return_state=True)
            assert relative_error(y[i : i + 1, :length], alone) < 1e-5
            assert relative_error(state[i : i + 1], alone_state) < 1e-5
            (alone * weight[i : i + 1, :length]).sum().backward()
    for key, parameter in module.named_parameters():
        assert relative_error(batched[key], parameter.grad) < 1e-4, key


@pytest.mark.parametrize(
    "options, chunk_size, split",
    [
        ({}, 4, [4, 8, 4, 7]),
        ({"kernel_size": 3}, 5, [10, 5, 5, 3]),
        ({"causal": True}, None, [1, 3, 19]),
        ({"causal": True, "kernel_size": 4}, 5, [2, 1, 20]),
    ],
)
def test_pieces_equal_one_go(options, chunk_size, split):
    module = scramble(ConvolutionModule(12, **{"kernel_size": 9, **options}))
    x = torch.randn(2, 23, 12)
    state, pieces = None, []
    for piece in x.split(split, 1):
        y, state = module(piece, chunk_size=chunk_size, state=state, return_state=True)
        pieces.append(y)
    assert relative_error(torch.cat(pieces, 1), module(x, chunk_size=chunk_size)) < 1e-5


def test_even_kernel():
    with pytest.raises(ValueError, match="kernel_size is 4, but"):
        ConvolutionModule(8, kernel_size=4)
    assert ConvolutionModule(8, kernel_size=4, causal=True)(torch.randn(1, 7, 8)).shape == (1, 7, 8)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_front_end_is_speechbrains(name):
    ours = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS[name]).eval()
    theirs = speechbrain_convolution.ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS[name]).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 50, 80)
    assert relative_error(ours(x), theirs(x)) < 1e-6
    assert relative_error(ours(x, torch.ones(2)), theirs(x)) < 1e-6


def test_shapes_are_known_without_memory():
    with torch.device("meta"):
        frontend, module = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"]), ConvolutionModule(12, 5)
        assert frontend(torch.empty(2, 41, 80)).shape == (2, 11, 20, 4)
        assert module(torch.empty(2, 41, 12)).shape == (2, 41, 12)


def test_front_end_pads_in_the_type_of_autocast(monkeypatch):
    """A second convolution gets bfloat16: padding in float32 would copy the largest tensor of a recognizer twice."""
    frontend, x = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"]).eval(), torch.randn(2, 41, 80)
    padded, pad = [], nn.functional.pad
    monkeypatch.setattr(nn.functional, "pad", lambda x, *a, **k: padded.append(pad(x, *a, **k)) or padded[-1])
    with torch.autocast("cpu", torch.bfloat16):
        y = frontend(x)
    assert [one.dtype for one in padded] == [torch.float32, torch.bfloat16] and y.dtype == torch.bfloat16
    assert relative_error(y, frontend(x)) < 0.02


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_front_end_in_padded_batch(name):
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS[name], dropout=0.0)
    lengths = [61, 60, 21, 7, 59]
    x = torch.randn(5, 61, 80)
    for i, length in enumerate(lengths):
        x[i, length:] = float("nan")
    wav_lens = torch.tensor(lengths) / 61
    y = frontend(x, wav_lens)
    out_lengths = (frontend.output_lens(wav_lens, 61) * y.shape[1]).round().long().tolist()
    y.square().sum().backward()
    batched = {key: p.grad.clone() for key, p in frontend.named_parameters()}
    frontend.zero_grad()
    for i, length in enumerate(lengths):
        alone = frontend(x[i : i + 1, :length])
        assert alone.shape[1] == out_lengths[i]
        assert relative_error(y[i : i + 1, : out_lengths[i]], alone) < 1e-5
        assert not y[i, out_lengths[i] :].any()
        alone.square().sum().backward()
    for key, parameter in frontend.named_parameters():
        assert relative_error(batched[key], parameter.grad) < 1e-4, key


@pytest.mark.parametrize(
    "options", [{"padding": "valid"}, {"dilations": (1, 2)}, {"conv_module": Conv1d}, {"norm": None, "dropout": 0.9}]
)
def test_front_end_without_lengths_has_all_of_speechbrains_options(options):
    options = {**FRONT_ENDS["published"], **options}
    ours = ConvolutionFrontEnd((8, 10, 80), **options).eval()
    theirs = speechbrain_convolution.ConvolutionFrontEnd((8, 10, 80), **options).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 50, 80)
    assert relative_error(ours(x), theirs(x)) < 1e-6


@pytest.mark.parametrize("with_lengths", [True, False])
@pytest.mark.parametrize("name", ["published", "residual"])
def test_front_end_drops_out_in_training_alone(name, with_lengths):
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS[name], dropout=1.0)
    x, wav_lens = torch.randn(2, 50, 80), torch.ones(2) if with_lengths else None
    assert not frontend(x, wav_lens).any()
    assert frontend.eval()(x, wav_lens).any()


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_lengths_of_the_output_are_whole_frames(name):
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS[name]).eval()
    wav_lens, time = torch.tensor([62, 61, 60, 13, 12, 9]) / 62, 62
    frames = [frontend(torch.randn(1, length, 80)).shape[1] for length in (62, 61, 60, 13, 12, 9)]
    assert (frontend.output_lens(wav_lens, time) * frames[0]).tolist() == pytest.approx(frames)
    assert frontend.output_lens(None, time) is None


def test_front_end_errors():
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"])
    with pytest.raises(ValueError, match="has 1 frames, but needs more than the 1 that it reflects"):
        frontend(torch.randn(1, 2, 80))
    valid = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"], padding="valid")
    with pytest.raises(ValueError, match="do not pad by reflection"):
        valid(torch.randn(1, 50, 80), torch.ones(1))
    spread = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"], dilations=(1, 2))
    with pytest.raises(ValueError, match="do not pad by reflection"):
        spread(torch.randn(1, 50, 80), torch.ones(1))
    flat = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"], conv_module=Conv1d)
    with pytest.raises(ValueError, match="Conv1d takes no lengths"):
        flat(torch.randn(1, 50, 80), torch.ones(1))


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_the_fewest_frames_are_those_that_a_front_end_takes(name):
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS[name]).eval()
    assert frontend(torch.randn(1, frontend.min_frames, 80)).shape[1] > 0
    with pytest.raises(ValueError, match="but needs more than"):
        frontend(torch.randn(1, frontend.min_frames - 1, 80))


@pytest.mark.parametrize("bits", ["bf16", pytest.param("int8", marks=needs_int8)])
@pytest.mark.parametrize("activation", [nn.GELU, nn.Tanh])
def test_what_follows_the_convolution_is_part_of_a_reduced_product(monkeypatch, bits, activation):
    """Unless the activation is one that no kernel knows, somebody watches a module, or training drops values."""
    torch.manual_seed(0)
    module = ConvolutionModule(64, kernel_size=5, activation=activation, dropout=0.5).eval().requires_grad_(False)
    nn.init.normal_(module.after_conv[0].weight)
    x = torch.randn(2, 30, 64)
    exact = module(x)
    reduce_linears(module, bits)
    norms, run = [], ReducedLinear.run
    monkeypatch.setattr(ReducedLinear, "run", lambda self, x, norm=None: norms.append(norm) or run(self, x, norm))
    with torch.autocast("cpu", torch.bfloat16, enabled=bits == "bf16"):
        found = module(x)
        assert [norm.activation for norm in norms if norm] == [None] + ["gelu"] * (activation is nn.GELU)
        assert not torch.equal(copy.deepcopy(module).train()(x), found)
        for part in (module.after_conv, *module.after_conv):
            called = []
            handle = part.register_forward_hook(lambda *_, called=called: called.append(True))
            watched = module(x)
            handle.remove()
            assert called == [True]
            assert (watched - found).norm() < 0.01 * exact.norm()
    assert (found - exact).norm() < 0.03 * exact.norm()
