"""ConMamba encoders and Mamba decoders: padding, chunks, streams, states."""

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_mamba.lobes.models.chunked_mamba import ChunkedBiMamba
from speechbrain_mamba.lobes.models.conmamba import ConmambaEncoder, ConmambaEncoderLayer, MambaDecoder
from speechbrain_mamba.nnet.mamba import BiMamba
from tests.errors import relative_error

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
    "kind, split",
    [("bidirectional", [4, 4, 8, 4, 3]), ("unidirectional", [4, 4, 8, 4, 3]), ("causal", [1, 5, 4, 13])],
)
def test_stream_equals_offline(kind, split):
    encoder, config = make_encoder(kind), DynChunkTrainConfig(4, 2)
    x = torch.randn(2, 23, 12)
    expected, _ = encoder(x, dynchunktrain_config=config)
    context = encoder.make_streaming_context(config)
    pieces = [encoder.forward_streaming(piece, context)[0] for piece in x.split(split, 1)]
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
        (
            {"mamba_config": {"bidirectional": True}, "causal": True},
            "causal is True, but mamba_config has bidirectional",
        ),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ConmambaEncoderLayer(d_model=12, d_ffn=16, **options)


def make_decoder():
    return MambaDecoder(num_layers=2, d_model=12, d_ffn=16, mamba_config={"d_state": 4})


def test_targets_go_on_from_each_memorys_own_end():
    decoder = make_decoder()
    lengths = [23, 1, 0, 9]
    memory, tgt = torch.randn(4, 23, 12), torch.randn(4, 6, 12)
    for i, length in enumerate(lengths):
        memory[i, length:] = float("nan")
    y, _, _ = decoder(tgt, memory, memory_key_padding_mask=padding_mask(lengths, 23))
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    batched = {key: p.grad.clone() for key, p in decoder.named_parameters()}
    decoder.zero_grad()
    for i, length in enumerate(lengths):
        alone, _, _ = decoder(tgt[i : i + 1], memory[i : i + 1, :length])
        assert relative_error(y[i : i + 1], alone) < 1e-5
        (alone * weight[i : i + 1]).sum().backward()
    for key, parameter in decoder.named_parameters():
        assert relative_error(batched[key], parameter.grad) < 1e-4, key


def test_cross_mamba_is_mamba_over_memory_and_targets():
    layer = make_decoder().layers[0]
    memory, tgt = torch.randn(2, 23, 12), torch.randn(2, 6, 12)
    _, state = layer.cross_mamba(memory, return_state=True)
    joint = layer.cross_mamba(torch.cat([memory, tgt], 1))[:, 23:]
    assert relative_error(layer.cross_mamba(tgt, state=state), joint) < 1e-5


def test_steps_equal_one_go():
    decoder = make_decoder()
    memory, tgt = torch.randn(2, 23, 12), torch.randn(2, 6, 12)
    lengths = torch.tensor([23, 9])
    expected, _, _ = decoder(tgt, memory, memory_key_padding_mask=padding_mask([23, 9], 23))
    state = decoder.consume(memory, lengths)
    for i in range(tgt.shape[1]):
        y_t, state = decoder.step(tgt[:, i], state)
        assert relative_error(y_t, expected[:, i]) < 1e-5


def test_layer_goes_on_from_a_prefix():
    layer = make_decoder().layers[0]
    memory, tgt = torch.randn(2, 23, 12), torch.randn(2, 6, 12)
    state = layer.consume(memory)
    head, after = layer(tgt[:, :2], state, return_state=True)
    assert relative_error(torch.cat([head, layer(tgt[:, 2:], after)], 1), layer(tgt, state)) < 1e-5


def test_decoder_steps_under_autocast():
    decoder = make_decoder()
    memory, tgt = torch.randn(2, 23, 12), torch.randn(2, 6, 12)
    expected, _, _ = decoder(tgt, memory)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        state = decoder.consume(memory)
        for i in range(tgt.shape[1]):
            y_t, state = decoder.step(tgt[:, i], state)
            assert relative_error(y_t.float(), expected[:, i]) < 0.05
