"""ConMamba layers and encoders: composition, options, padding, chunks, streams."""

import pytest
import torch
import torch.nn.functional as F
from speechbrain.lobes.models.transformer.Conformer import ConformerEncoderLayer
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import nn

from speechbrain_mamba.lobes.models.recognition.conmamba_encoder import ConmambaEncoder
from speechbrain_mamba.lobes.models.recognition.conmamba_layer import ConmambaEncoderLayer, is_bidirectional
from speechbrain_mamba.lobes.models.recognition.mamba_decoder import MambaDecoder
from speechbrain_mamba.nnet.chunked_mamba import ChunkedBiMamba
from speechbrain_mamba.nnet.mamba import BiMamba, Mamba
from speechbrain_mamba.nnet.mamba_config import mamba_options
from tests.errors import assert_padding_is_harmless, relative_error
from tests.nnet.test_mamba import scramble, written_out

KINDS = {
    "bidirectional": {},
    "unidirectional": {"mamba_config": {"bidirectional": False}},
    "causal": {"causal": True},
}
LENGTHS = [23, 1, 0, 9]


def make_encoder(kind, **options):
    return ConmambaEncoder(num_layers=2, d_model=12, d_ffn=16, kernel_size=9, **KINDS[kind], **options)


def padding_mask(lengths, time):
    return torch.arange(time) >= torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_padded_batch_equals_single_examples(kind, chunk_size):
    encoder = make_encoder(kind)
    config = DynChunkTrainConfig(chunk_size) if chunk_size else None
    x = torch.randn(4, 23, 12)
    for i, length in enumerate(LENGTHS):
        x[i, length:] = float("nan")
    weight = torch.randn(4, 23, 12)
    y, _ = encoder(x, src_key_padding_mask=padding_mask(LENGTHS, 23), dynchunktrain_config=config)
    (y * weight).sum().backward()
    batched = {key: p.grad.clone() for key, p in encoder.named_parameters()}
    encoder.zero_grad()
    for i, length in enumerate(LENGTHS):
        assert not y[i, length:].any()
        if length:
            alone, _ = encoder(x[i : i + 1, :length], dynchunktrain_config=config)
            assert relative_error(y[i : i + 1, :length], alone) < 1e-5
            (alone * weight[i : i + 1, :length]).sum().backward()
    for key, parameter in encoder.named_parameters():
        assert relative_error(batched[key], parameter.grad) < 1e-4, key


def test_chunked_layer_has_bimambas_weights_and_is_it_in_one_chunk():
    ours, theirs = ChunkedBiMamba(d_model=12, d_state=4), BiMamba(d_model=12, d_state=4)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, lengths = torch.randn(3, 20, 12), torch.tensor([20, 11, 3])
    assert relative_error(ours(x, lengths), theirs(x, lengths)) < 1e-6
    for chunk_size in (20, 32):
        assert relative_error(ours(x, lengths, chunk_size=chunk_size), theirs(x, lengths)) < 1e-5


@pytest.mark.parametrize("options", [{}, {"bias": True, "conv_bias": False, "d_conv": 3, "expand": 3}])
@pytest.mark.parametrize("chunk_size", [None, 3, 5])
def test_chunked_layer_against_the_recurrence(options, chunk_size):
    layer = scramble(ChunkedBiMamba(d_model=6, d_state=3, **options).double())
    assert_padding_is_harmless(
        layer,
        lambda x, lengths: layer(x, lengths, chunk_size=chunk_size),
        lambda x: written_out(layer, x, chunk_size),
        torch.randn(4, 11, 6, dtype=torch.float64),
        [11, 1, 0, 6],
    )


def test_chunked_layer_in_one_piece_with_a_state():
    """Without a chunk size the piece is the chunk."""
    layer = scramble(ChunkedBiMamba(d_model=6, d_state=3).double())
    x = torch.randn(1, 11, 6, dtype=torch.float64)
    head, state = layer(x[:, :5], return_state=True)
    rest = layer(x[:, 5:10], state=state)
    expected = written_out(layer, x[0, :10], 5)
    assert relative_error(torch.cat([head, rest], 1)[0], expected) < 1e-9


class AsAttention(nn.Module):
    """A Mamba layer with the interface of SpeechBrain's attention."""

    def __init__(self, mamba, chunk_size):
        super().__init__()
        self.mamba, self.options = mamba, {"chunk_size": chunk_size} if chunk_size else {}

    def forward(self, query, key, value, **rest):
        return self.mamba(query, **self.options), None


@pytest.mark.parametrize("chunk_size", [None, 4, 7])
@pytest.mark.parametrize(
    "options, config, mixer",
    [
        ({}, {"d_state": 5, "bias": True}, ChunkedBiMamba),
        ({"kernel_size": 5, "activation": nn.GELU, "bias": False}, {"bidirectional": False, "expand": 3}, Mamba),
        ({"kernel_size": 4, "causal": True}, {"dt_rank": 5, "conv_bias": False}, Mamba),
        ({"kernel_size": 7, "activation": nn.Tanh}, None, ChunkedBiMamba),
    ],
)
def test_layer_is_speechbrains_with_mamba_for_attention(options, config, mixer, chunk_size):
    ours = scramble(ConmambaEncoderLayer(12, 16, mamba_config=config, **options).double())
    theirs = ConformerEncoderLayer(12, 16, nhead=1, attention_type="regularMHA", **options)
    mamba = mixer(12, **{key: value for key, value in (config or {}).items() if key != "bidirectional"})
    theirs.mha_layer = AsAttention(mamba, chunk_size if mixer is ChunkedBiMamba else None)
    theirs.double().load_state_dict(
        {key.replace("mamba.", "mha_layer.mamba.", 1): value for key, value in ours.state_dict().items()}
    )
    chunks = DynChunkTrainConfig(chunk_size) if chunk_size and not options.get("causal") else None
    x = torch.randn(2, 23, 12, dtype=torch.float64)
    assert relative_error(ours(x, chunk_size=chunk_size), theirs(x, dynchunktrain_config=chunks)[0]) < 1e-9


def rates(model):
    return {module.p for module in model.modules() if isinstance(module, nn.Dropout)}


def test_layer_drops_out_in_training_alone():
    """What is left when everything that can be dropped is: Mamba, which has no dropout."""
    layer, x = ConmambaEncoderLayer(12, 16, 5, dropout=1.0), torch.randn(2, 23, 12)
    assert relative_error(layer(x), layer.norm2(x + layer.mamba(layer.norm1(x)))) < 1e-6
    without = ConmambaEncoderLayer(12, 16, 5)
    without.load_state_dict(layer.state_dict())
    assert relative_error(layer.eval()(x), without(x)) < 1e-6
    assert rates(without) == {0.0} and rates(ConmambaEncoderLayer(12, 16, 5, dropout=0.3)) == {0.3}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_size": 4, "activation": nn.GELU, "bias": False, "causal": True, "mamba_config": {"expand": 3}},
        {"kernel_size": 5, "mamba_config": {"bidirectional": False, "bias": True}},
    ],
)
def test_encoder_is_layers_in_order_and_a_normalization(options):
    encoder = scramble(ConmambaEncoder(3, 12, 16, dropout=0.4, **options)).eval()
    assert rates(encoder) == {0.4}
    x, lengths = torch.randn(2, 23, 12), [23, 9]
    y, attention = encoder(x, src_key_padding_mask=padding_mask(lengths, 23))
    assert attention == [None] * 3
    for i, length in enumerate(lengths):
        expected = x[i : i + 1, :length]
        for layer in encoder.layers:
            copied = ConmambaEncoderLayer(12, 16, **options).eval()
            copied.load_state_dict(layer.state_dict())
            expected = copied(expected)
        expected = F.layer_norm(expected, (12,), encoder.norm.norm.weight, encoder.norm.norm.bias, 1e-6)
        assert relative_error(y[i, :length], expected[0]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_hide_the_future(kind):
    encoder, config = make_encoder(kind), DynChunkTrainConfig(5)
    x = torch.randn(1, 20, 12, requires_grad=True)
    y, _ = encoder(x, dynchunktrain_config=config)
    y[0, 6, 0].backward()
    seen = x.grad[0].abs().sum(-1) > 0
    last = 6 if kind == "causal" else 9
    assert seen[: last + 1].all() and not seen[last + 1 :].any()


@pytest.mark.parametrize(
    "kind, chunk_size, split",
    [
        ("bidirectional", 4, [4, 4, 8, 4, 3]),
        ("bidirectional", 7, [14, 7, 2]),
        ("bidirectional", 1, [3, 1, 19]),
        ("unidirectional", 4, [4, 4, 8, 4, 3]),
        ("unidirectional", 11, [11, 11, 1]),
        ("causal", 4, [1, 5, 4, 13]),
    ],
)
def test_stream_equals_offline(kind, chunk_size, split):
    encoder, config = scramble(make_encoder(kind)), DynChunkTrainConfig(chunk_size, 2)
    x = torch.randn(2, 23, 12)
    expected, _ = encoder(x, dynchunktrain_config=config)
    context, pieces, seen = encoder.make_streaming_context(config), [], 0
    for piece in x.split(split, 1):
        y, attention = encoder.forward_streaming(piece, context)
        pieces.append(y)
        seen += piece.shape[1]
        assert context.position == seen and attention == [None, None]
    assert relative_error(torch.cat(pieces, 1), expected) < 1e-4
    if kind == "causal":
        assert relative_error(torch.cat(pieces, 1), encoder(x)[0]) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_stream_needs_constant_memory(kind):
    encoder, sizes = make_encoder(kind), []
    context = encoder.make_streaming_context(DynChunkTrainConfig(4))
    for _ in range(6):
        encoder.forward_streaming(torch.randn(1, 4, 12), context)
        tensors = [t for layer in context.layers for t in (*layer["mamba"].values(), layer["conv"])]
        sizes.append(sum(t.untyped_storage().nbytes() for t in tensors))
    assert len(set(sizes)) == 1


def test_piece_after_a_broken_chunk():
    encoder = make_encoder("bidirectional")
    context = encoder.make_streaming_context(DynChunkTrainConfig(4))
    encoder.forward_streaming(torch.randn(1, 3, 12), context)
    with pytest.raises(ValueError, match="at frame 3, amid a chunk of 4"):
        encoder.forward_streaming(torch.randn(1, 4, 12), context)


def test_hidden_states_and_layerdrop():
    encoder = make_encoder("bidirectional", output_hidden_states=True, layerdrop_prob=1.0)
    x = torch.randn(2, 23, 12)
    _, attention, hidden = encoder(x)
    assert attention == [] and len(hidden) == 1 and torch.equal(hidden[0], x)
    y, attention, hidden = encoder.eval()(x)
    assert len(attention) == 2 and len(hidden) == 3
    assert torch.equal(encoder.norm(hidden[-1]), y)


def test_share_of_layers_dropped():
    encoder = ConmambaEncoder(10, 2, 2, kernel_size=1, mamba_config={"d_state": 1, "expand": 1}, layerdrop_prob=0.3)
    x = torch.randn(1, 1, 2)
    kept = torch.tensor([len(encoder(x)[1]) for _ in range(20)])
    assert 0.6 < kept.double().mean() / 10 < 0.8 and len(kept.unique()) > 1
    encoder.layerdrop_prob = 0.0
    assert len(encoder(x)[1]) == 10


def test_config_is_left_as_it_is():
    config = {"d_state": 4, "bidirectional": True}
    ConmambaEncoder(num_layers=2, d_model=12, d_ffn=16, mamba_config=config)
    MambaDecoder(num_layers=2, d_model=12, d_ffn=16, mamba_config=config)
    assert config == {"d_state": 4, "bidirectional": True}


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"mamba_config": {"dstate": 4}},
            "mamba_config has 'dstate', which no Mamba layer takes: did you mean 'd_state'",
        ),
        ({"mamba_config": {"xyz": 4}}, "mamba_config has 'xyz', which no Mamba layer takes: it takes d_state, d_conv"),
        (
            {"mamba_config": {"bidirectional": True}, "causal": True},
            "causal is True, but mamba_config has bidirectional",
        ),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ConmambaEncoderLayer(d_model=12, d_ffn=16, **options)


def test_config_holds_all_options_of_a_mamba_layer():
    options = {"d_state": 4, "d_conv": 3, "expand": 3, "dt_rank": 2, "conv_bias": False, "bias": True}
    options |= {"dt_min": 0.2, "dt_max": 0.3, "dt_init_floor": 0.1, "dt_scale": 0.5}
    assert mamba_options({**options, "bidirectional": False}) == options
    assert mamba_options(None) == {} and mamba_options({}) == {}
    layer = ConmambaEncoderLayer(6, 8, mamba_config=options).mamba
    shapes = {key: value.shape for key, value in layer.state_dict().items()}
    assert shapes == {key: value.shape for key, value in BiMamba(6, **options).state_dict().items()}
    steps = F.softplus(layer.dt_proj_b.bias)
    assert steps.min() > 0.199 and steps.max() < 0.301


@pytest.mark.parametrize(
    "config, causal, expected",
    [
        (None, False, True),
        (None, True, False),
        ({"d_state": 4}, False, True),
        ({"bidirectional": False}, False, False),
        ({"bidirectional": False}, True, False),
        ({"bidirectional": True}, False, True),
    ],
)
def test_directions(config, causal, expected):
    assert is_bidirectional(config, causal) is expected
    layer = ConmambaEncoderLayer(6, 8, kernel_size=1, causal=causal, mamba_config=config)
    x = torch.randn(1, 5, 6, requires_grad=True)
    layer(x)[0, 2, 0].backward()
    assert bool(x.grad[0, 3:].any()) is expected
