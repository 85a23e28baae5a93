"""Mamba decoders: composition, options, padding, states."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechbrain_mamba.lobes.models.recognition.mamba_decoder import MambaDecoder, MambaDecoderLayer
from speechbrain_mamba.nnet.cross_mamba import CROSS_KINDS
from tests.errors import relative_error
from tests.lobes.recognition.test_conmamba import padding_mask, rates
from tests.nnet.test_mamba import scramble, written_out


def written_out_decoder_layer(layer, tgt, memory, activation):
    """The layer over one example: targets (time, d_model) and their memory (memory time, d_model)."""

    def normalize(norm, x):
        return F.layer_norm(x, x.shape[-1:], norm.norm.weight, norm.norm.bias, 1e-6)

    w = dict(layer.pos_ffn.named_parameters())
    x = tgt + written_out(layer.self_mamba, normalize(layer.norm1, tgt))
    x = x + written_out(layer.cross_mamba, torch.cat([memory, normalize(layer.norm2, x)]))[len(memory) :]
    hidden = activation(F.linear(normalize(layer.norm3, x), w["ffn.0.weight"], w["ffn.0.bias"]))
    return x + F.linear(hidden, w["ffn.3.weight"], w["ffn.3.bias"])


@pytest.mark.parametrize(
    "options, activation",
    [
        ({}, F.relu),
        ({"activation": nn.GELU, "mamba_config": {"bias": True, "conv_bias": False, "d_state": 3}}, F.gelu),
        ({"mamba_config": {"bidirectional": True, "expand": 3}}, F.relu),
    ],
)
def test_decoder_layers_written_out(options, activation):
    decoder = scramble(MambaDecoder(3, 6, 8, **options).double())
    tgt, memory = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, 7, 6, dtype=torch.float64)
    y, *attention = decoder(tgt, memory, memory_key_padding_mask=padding_mask([7, 4], 7))
    assert attention == [[None] * 3] * 2
    for i, length in enumerate((7, 4)):
        expected = tgt[i]
        for layer in decoder.layers:
            expected = written_out_decoder_layer(layer, expected, memory[i, :length], activation)
        expected = F.layer_norm(expected, (6,), decoder.norm.norm.weight, decoder.norm.norm.bias, 1e-6)
        assert relative_error(y[i], expected) < 1e-9


def test_decoder_drops_out_in_training_alone():
    """When everything that can be dropped is, the targets are left."""
    decoder = MambaDecoder(2, 12, 16, dropout=1.0)
    tgt, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    assert relative_error(decoder(tgt, memory)[0], F.layer_norm(tgt, (12,), eps=1e-6)) < 1e-5
    without = MambaDecoder(2, 12, 16)
    without.load_state_dict(decoder.state_dict())
    decoder.eval()
    expected = without(tgt, memory)[0]
    assert relative_error(decoder(tgt, memory)[0], expected) < 1e-6
    assert relative_error(decoder.step(tgt[:, 0], decoder.consume(memory))[0], expected[:, 0]) < 1e-5
    assert rates(without) == {0.0} and rates(MambaDecoder(2, 12, 16, dropout=0.3)) == {0.3}


def test_decoder_layer_leaves_its_state_as_it_is():
    layer = MambaDecoderLayer(6, 8)
    state = layer.consume(torch.randn(2, 7, 6))
    before = {key: {name: part.clone() for name, part in value.items()} for key, value in state.items()}
    layer.step(torch.randn(2, 6), state)
    layer(torch.randn(2, 3, 6), state)
    for key, parts in before.items():
        assert all(torch.equal(state[key][name], part) for name, part in parts.items())


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


CROSSES = {
    "attention": {"nhead": 3},
    "prefix_bidirectional": {"d_state": 6},
    "hidden_attention": {"d_state": 8, "headdim": 4, "init": "mimetic"},
    "interleaved": {"init": "mimetic"},
}


MIXERS = {
    "mamba2": {"mixer": "mamba2", "mixer_config": {"mamba2": {"d_state": 4, "headdim": 4, "expand": 2}}},
    "half attention": {
        "attention_layers": [1],
        "mixer_config": {"attention": {"nhead": 2, "d_attention": 24}},
        "attention_window": 4,
    },
}
BUILDS = [
    *((cross, {}) for cross in CROSSES),
    ("attention", {"cross_config": {"nhead": 3, "positions": True}}),
    *((cross, MIXERS[name]) for cross in ("concat", "prefix_bidirectional", "interleaved") for name in MIXERS),
]


@pytest.mark.parametrize(("cross", "mixers"), BUILDS)
def test_decoders_that_read_otherwise(cross, mixers):
    """Steps equal one go, and a padded memory, NaN past its end, changes nothing."""
    options = {"cross_config": {} if mixers else CROSSES[cross], **mixers}
    decoder = MambaDecoder(2, 12, 16, mamba_config={"d_state": 4}, cross=cross, **options)
    lengths, memory, tgt = [23, 9], torch.randn(2, 23, 12), torch.randn(2, 6, 12)
    memory[1, 9:] = float("nan")
    places = torch.tensor([[2, 9, 9, 20], [0, 3, 9, 9]]) if cross == "interleaved" else None
    y, attention, _ = decoder(tgt, memory, memory_key_padding_mask=padding_mask(lengths, 23), places=places)
    assert attention == [None] * 2
    state = decoder.consume(memory, torch.tensor(lengths), places)
    for i in range(tgt.shape[1]):
        y_t, state = decoder.step(tgt[:, i], state)
        assert relative_error(y_t, y[:, i]) < 1e-5
    for i, length in enumerate(lengths):
        own = None if places is None else places[i : i + 1]
        alone, _, _ = decoder(tgt[i : i + 1], memory[i : i + 1, :length], places=own)
        assert relative_error(y[i : i + 1], alone) < 1e-5
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        state = decoder.consume(memory, torch.tensor(lengths), places)
        for i in range(tgt.shape[1]):
            y_t, state = decoder.step(tgt[:, i], state)
            assert relative_error(y_t.float(), y[:, i]) < 0.1


def test_mimetic_initialization_concerns_the_layers_with_states():
    mixers = {"mixer_config": {"attention": {"nhead": 2, "d_attention": 24}}}
    reading = {"cross": "interleaved", "cross_config": {"init": "mimetic"}}
    decoder = MambaDecoder(2, 12, 16, mamba_config={"d_state": 4}, attention_layers=[1], **mixers, **reading)
    rates = decoder.layers[0].cross_mamba.mixer.A_log.exp()
    assert rates.max() < 0.11 and not hasattr(decoder.layers[1].cross_mamba.mixer, "A_log")
    with pytest.raises(ValueError, match="has no state space layers to initialize mimetically"):
        MambaDecoder(2, 12, 16, mixer="attention", **mixers, **reading)


def test_every_cross_is_tested():
    assert {"concat", *CROSSES} == set(CROSS_KINDS)
