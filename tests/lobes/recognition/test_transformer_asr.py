"""TransformerASR with ConMamba and Mamba, and as SpeechBrain's own."""

import pytest
import torch
from speechbrain.lobes.models.transformer import TransformerASR as speechbrain_asr
from speechbrain.lobes.models.transformer.TransformerASR import EncoderWrapper
from speechbrain.nnet.containers import LengthsCapableSequential
from speechbrain.nnet.linear import Linear
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_mamba.lobes.models.recognition.conmamba_encoder import ConmambaEncoder
from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd
from speechbrain_mamba.lobes.models.recognition.mamba_decoder import MambaDecoder
from speechbrain_mamba.lobes.models.recognition.transformer_asr import TransformerASR
from tests.errors import relative_error
from tests.nnet.test_mamba import scramble

SIZE = dict(
    tgt_vocab=20, input_size=24, d_model=16, nhead=2, num_encoder_layers=2, num_decoder_layers=2, d_ffn=24, dropout=0.0,
    normalize_before=True, causal=False,
)  # fmt: skip
MAMBA = {
    "encoder_module": "conmamba",
    "kernel_size": 9,
    "attention_type": "RelPosMHAXL",
    "mamba_config": {"d_state": 4},
}


def conmamba(**options):
    return TransformerASR(**{**SIZE, **MAMBA, **options})


@pytest.mark.parametrize(
    "encoder_module, attention_type",
    [
        (encoder, attention)
        for encoder in ("transformer", "conformer")
        for attention in ("RelPosMHAXL", "RoPEMHA", "regularMHA")
    ]
    + [("branchformer", "RelPosMHAXL"), ("branchformer", "hypermixing")],
)
def test_speechbrains_choices_are_speechbrains(encoder_module, attention_type):
    options = {**SIZE, "encoder_module": encoder_module, "attention_type": attention_type, "csgu_linear_units": 32}
    torch.manual_seed(1)
    theirs = speechbrain_asr.TransformerASR(**options).eval()
    torch.manual_seed(1)
    ours = TransformerASR(**options).eval()
    src, tgt, wav_len = torch.randn(2, 30, 6, 4), torch.randint(1, 20, (2, 7)), torch.tensor([1.0, 0.5])
    for a, b in zip(ours(src, tgt, wav_len), theirs(src, tgt, wav_len)):
        assert torch.equal(a, b)
    memory = theirs.encode(src, wav_len)
    assert torch.equal(ours.encode(src, wav_len), memory)
    assert torch.equal(ours.decode(tgt, memory)[0], theirs.decode(tgt, memory)[0])


def test_positional_arguments_are_speechbrains():
    net = TransformerASR(
        20, 24, 16, 2, 1, 1, 24, 0.0, torch.nn.GELU, "fixed_abs_sine", True, 9, True, "conmamba", causal=False
    )
    assert type(net.encoder).__name__ == "ConmambaEncoder"
    assert type(net.decoder).__name__ == "TransformerDecoder"


def speechbrains_own(net, **options):
    """SpeechBrain's model with a Transformer encoder, and all weights of ours that it has a place for."""
    theirs = speechbrain_asr.TransformerASR(**{**SIZE, "encoder_module": "transformer", **options})
    theirs.load_state_dict(net.state_dict(), strict=False)
    return theirs.eval()


class Spy(torch.nn.Module):
    """Stands for an encoder or a decoder: keeps what it is called with, and returns what it is told to."""

    def __init__(self, *results):
        super().__init__()
        self.results = results

    def forward(self, *args, **options):
        self.args, self.options = args, options
        return self.results


POSITIONS = [
    ("RelPosMHAXL", "fixed_abs_sine"),
    ("RelPosMHAXL", None),
    ("RoPEMHA", "fixed_abs_sine"),
    ("RoPEMHA", None),
    ("regularMHA", "fixed_abs_sine"),
    ("hypermixing", "fixed_abs_sine"),
]


@pytest.mark.parametrize("attention_type, encoding", POSITIONS)
def test_encoder_and_decoder_get_the_inputs_that_speechbrains_get(attention_type, encoding):
    options = {"attention_type": attention_type, "positional_encoding": encoding, "dropout": 0.3}
    net = conmamba(decoder_module="mamba", **options).eval()
    theirs = speechbrains_own(net, **options)
    src, tgt, memory = torch.randn(2, 30, 6, 4), torch.randint(1, 20, (2, 7)), torch.randn(2, 30, 16)
    theirs.encoder, theirs.decoder = Spy(memory, None), Spy(memory, None, [None])
    theirs.encode(src)
    assert relative_error(net.encode(src), net.encoder(theirs.encoder.options["src"])[0]) < 1e-6
    theirs.decode(tgt, memory)
    expected, _, _ = net.decoder(theirs.decoder.args[0], memory)
    assert relative_error(net.decode(tgt, memory)[0], expected) < 1e-6
    assert net.max_target_length == 2500


def test_no_positions_at_all():
    net = conmamba(attention_type="regularMHA", positional_encoding=None, decoder_module="mamba").eval()
    src, tgt, memory = torch.randn(2, 30, 24), torch.randint(1, 20, (2, 7)), torch.randn(2, 30, 16)
    assert net.max_target_length is None
    assert relative_error(net.encode(src), net.encoder(net.custom_src_module(src))[0]) < 1e-6
    expected, _, _ = net.decoder(net.custom_tgt_module(tgt), memory)
    assert relative_error(net.decode(tgt, memory)[0], expected) < 1e-6


@pytest.mark.parametrize("attention_type", ["RelPosMHAXL", "regularMHA"])
@pytest.mark.parametrize("pad_idx", [0, 5])
def test_transformer_decoder_over_conmamba_is_speechbrains(attention_type, pad_idx):
    """Tokens that pad are never attended to, and no frames past a length: theirs gets what our encoder gives."""
    net = scramble(conmamba(attention_type=attention_type)).eval()
    theirs = speechbrains_own(net, attention_type=attention_type)
    src, wav_len = torch.randn(2, 30, 24), torch.tensor([1.0, 0.5])
    tgt = torch.tensor([[1, 0, 5, 7, 0, 9, 5], [1, 5, 3, 2, 5, 5, 0]])
    memory = net.encode(src, wav_len)
    theirs.encoder = Spy(memory, None)
    decoder_out = net(src, tgt, wav_len, pad_idx=pad_idx)[1]
    expected = theirs(src, tgt, wav_len, pad_idx=pad_idx)[1]
    assert relative_error(decoder_out, expected) < 1e-5
    assert (decoder_out - net(src, tgt, wav_len, pad_idx=5 - pad_idx)[1]).abs().max() > 1e-3
    lengths = torch.tensor([30, 15])
    for ours, other in zip(net.decode(tgt, memory, lengths), theirs.decode(tgt, memory, lengths)):
        assert relative_error(ours, other) < 1e-5 and not ours.requires_grad


@pytest.mark.parametrize(
    "options",
    [
        {"activation": torch.nn.GELU, "bias": False, "kernel_size": 7, "dropout": 0.3},
        {"activation": torch.nn.Tanh, "causal": True, "kernel_size": 4, "mamba_config": {"expand": 3, "bias": True}},
        {"mamba_config": {"bidirectional": False, "d_conv": 3}, "d_ffn": 40},
    ],
)
def test_options_reach_encoder_and_decoder(options):
    net = scramble(conmamba(decoder_module="mamba", **options)).eval()
    options = {**{key: MAMBA[key] for key in ("kernel_size", "mamba_config")}, "activation": torch.nn.ReLU, **options}
    sizes = [options.pop("d_ffn", 24)]
    x, tgt, padding = torch.randn(2, 30, 16), torch.randn(2, 7, 16), torch.arange(30) >= torch.tensor([[30], [15]])
    encoder = ConmambaEncoder(2, 16, *sizes, **options).eval()
    encoder.load_state_dict(net.encoder.state_dict())
    y = net.encoder(x, src_key_padding_mask=padding)[0]
    assert relative_error(y, encoder(x, src_key_padding_mask=padding)[0]) < 1e-6
    decoder_options = {key: options[key] for key in ("activation", "mamba_config")}
    decoder = MambaDecoder(2, 16, *sizes, dropout=options.get("dropout", 0.0), **decoder_options).eval()
    decoder.load_state_dict(net.decoder.state_dict())
    assert relative_error(net.decoder(tgt, x)[0], decoder(tgt, x)[0]) < 1e-6
    for part in (net.encoder, net.decoder, net.custom_src_module):
        rates = {module.p for module in part.modules() if isinstance(module, torch.nn.Dropout)}
        assert rates == {options.get("dropout", 0.0)}


@pytest.mark.parametrize("decoder_module", ["transformer", "mamba"])
def test_hidden_states(decoder_module):
    net = conmamba(decoder_module=decoder_module, output_hidden_states=True, layerdrop_prob=1.0).eval()
    src, tgt = torch.randn(2, 30, 24), torch.randint(1, 20, (2, 7))
    plain = conmamba(decoder_module=decoder_module).eval()
    plain.load_state_dict(net.state_dict())
    encoder_out, hidden, decoder_out = net(src, tgt)
    expected = plain(src, tgt)
    assert torch.equal(encoder_out, expected[0]) and torch.equal(decoder_out, expected[1]) and len(expected) == 2
    assert torch.equal(net.encoder.norm(hidden[2]), encoder_out) and len(hidden) == 3
    again, hidden_again = net.encode(src)
    assert torch.equal(again, encoder_out) and all(torch.equal(a, b) for a, b in zip(hidden, hidden_again))
    assert len(net.train().encode(src)[1]) == 1  # all layers are dropped


def test_no_decoder():
    """A Mamba decoder of no layers is none, for an encoder of Mamba and for one without."""
    for encoder_module in ("conmamba", "conformer"):
        net = conmamba(encoder_module=encoder_module, decoder_module="mamba", num_decoder_layers=0)
        assert not net.has_mamba_decoder and not hasattr(net, "decoder")
        src, wav_len = torch.randn(2, 30, 24), torch.tensor([1.0, 0.5])
        outputs = net.eval()(src, None, wav_len)
        assert torch.equal(outputs[0], net.encode(src, wav_len))
    assert conmamba(decoder_module="mamba").has_mamba_decoder and not conmamba().has_mamba_decoder


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("decoder_module", ["transformer", "mamba"])
def test_short_and_long_utterance_in_a_batch(training, decoder_module):
    """1 s and 20 s from features to logits: 101 and 2001 frames, 26 and 501 for the encoder."""
    frontend = ConvolutionFrontEnd((8, 10, 24), 2, 1, (4, 4), (3, 3), (2, 2), residuals=(False, False), dropout=0.0)
    net = conmamba(decoder_module=decoder_module)
    ctc_lin, seq_lin = (Linear(input_size=16, n_neurons=20) for _ in range(2))
    modules = torch.nn.ModuleList([frontend, net, ctc_lin, seq_lin]).train(training)
    lengths, target_lengths = [101, 2001], [4, 9]
    feats, tgt = torch.randn(2, 2001, 24), torch.randint(1, 20, (2, 9))
    feats[0, 101:], tgt[0, 4:] = float("nan"), 0

    def logits(feats, tgt, wav_lens=None):
        src = frontend(feats, wav_lens)
        encoder_out, decoder_out = net(src, tgt, frontend.output_lens(wav_lens, feats.shape[1]))
        return ctc_lin(encoder_out), seq_lin(decoder_out)

    ctc, seq = logits(feats, tgt, torch.tensor(lengths) / 2001)
    for i, (length, target_length, frames) in enumerate(zip(lengths, target_lengths, (26, 501))):
        ctc_alone, seq_alone = logits(feats[i : i + 1, :length], tgt[i : i + 1, :target_length])
        assert ctc_alone.shape[1] == frames
        assert relative_error(ctc[i : i + 1, :frames], ctc_alone) < 1e-4
        assert relative_error(seq[i : i + 1, :target_length], seq_alone) < 1e-4
    (ctc[0, :26].sum() + ctc[1].sum() + seq.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in modules.parameters() if p.grad is not None)


def test_nan_in_the_padding_reaches_nothing():
    net = conmamba(decoder_module="mamba")
    src, tgt, wav_len = torch.randn(2, 30, 24), torch.randint(1, 20, (2, 7)), torch.tensor([1.0, 0.5])
    src[1, 15:] = float("nan")
    encoder_out, decoder_out = net(src, tgt, wav_len)
    (encoder_out.sum() + decoder_out.sum()).backward()
    assert not encoder_out[1, 15:].any()
    assert torch.isfinite(encoder_out).all() and torch.isfinite(decoder_out).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("decoder_module", ["transformer", "mamba"])
@pytest.mark.parametrize("encoder_module", ["conmamba", "conformer"])
def test_decode_is_forward(encoder_module, decoder_module):
    config = (
        {} if (encoder_module, decoder_module) == ("conformer", "transformer") else {"mamba_config": {"d_state": 4}}
    )
    options = {**SIZE, "attention_type": "RelPosMHAXL", "encoder_module": encoder_module, **config}
    net = TransformerASR(**options, decoder_module=decoder_module).eval()
    src, tgt, wav_len = torch.randn(2, 30, 24), torch.randint(1, 20, (2, 7)), torch.tensor([1.0, 0.5])
    encoder_out, decoder_out = net(src, tgt, wav_len)
    assert relative_error(net.encode(src, wav_len), encoder_out) < 1e-6
    decoded, _ = net.decode(tgt, encoder_out, torch.tensor([30, 15]))
    assert relative_error(decoded, decoder_out) < 1e-5
    if decoder_module == "mamba":
        state = net.init_decoder_state(encoder_out, torch.tensor([30, 15]))
        for i in range(7):
            predicted, state = net.decode_step(tgt[:, i], state)
            assert relative_error(predicted, decoder_out[:, i]) < 1e-5


@pytest.mark.parametrize(
    "attention_type, encoding", [("RelPosMHAXL", None), ("regularMHA", "fixed_abs_sine"), ("regularMHA", None)]
)
@pytest.mark.parametrize("causal, chunk_size", [(True, 8), (False, 8), (False, 5)])
def test_stream_equals_offline(attention_type, encoding, causal, chunk_size):
    net = conmamba(
        attention_type=attention_type, positional_encoding=encoding, causal=causal, decoder_module="mamba"
    ).eval()
    config = DynChunkTrainConfig(chunk_size, 1)
    src = torch.randn(2, 37, 6, 4)
    offline = net.encode(src, dynchunktrain_config=config)
    wrapper = EncoderWrapper(net)
    context = wrapper.make_streaming_context(config)
    pieces = [wrapper.forward_streaming(piece, context) for piece in src.split(chunk_size, 1)]
    assert relative_error(torch.cat(pieces, 1), offline) < 1e-4
    if causal:
        assert relative_error(net.encode(src), offline) < 1e-5


def test_stream_of_speechbrains_encoder_is_speechbrains():
    options = {**SIZE, "encoder_module": "conformer", "attention_type": "RelPosMHAXL", "kernel_size": 5}
    theirs, ours = speechbrain_asr.TransformerASR(**options).eval(), TransformerASR(**options).eval()
    ours.load_state_dict(theirs.state_dict())
    config = DynChunkTrainConfig(6, 2)
    contexts = [net.make_streaming_context(config) for net in (ours, theirs)]
    src = torch.randn(2, 18, 24)
    for piece in src.split(6, 1):
        y, expected = (net.encode_streaming(piece, context) for net, context in zip((ours, theirs), contexts))
        assert torch.equal(y, expected)
    chunked = theirs.encode(src, dynchunktrain_config=config)
    assert torch.equal(ours.encode(src, dynchunktrain_config=config), chunked)
    assert (chunked - theirs.encode(src)).abs().max() > 1e-3


def join(*states):
    """States of several batches as that of one."""
    first = states[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(states)
    if isinstance(first, dict):
        return {key: join(*(state[key] for state in states)) for key in first}
    return tuple(join(*parts) for parts in zip(*states))


@pytest.mark.parametrize("attention_type", ["RelPosMHAXL", "regularMHA"])
def test_hypotheses_of_different_lengths_step_together(attention_type):
    net = conmamba(decoder_module="mamba", attention_type=attention_type).eval()
    memory, tgt = torch.randn(2, 30, 16), torch.randint(1, 20, (2, 7))
    expected, states, fed = net.decode(tgt, memory)[0], [], [5, 2]
    for i, count in enumerate(fed):
        state = net.init_decoder_state(memory[i : i + 1])
        for token in tgt[i, :count]:
            _, state = net.decode_step(token[None], state)
        states.append(state)
    joint = join(*states)
    assert joint["position"].tolist() == fed
    predicted, after = net.decode_step(tgt[torch.arange(2), fed], joint)
    assert relative_error(predicted, expected[torch.arange(2), fed]) < 1e-5
    assert joint["position"].tolist() == fed and after["position"].tolist() == [6, 3]


def test_encoder_in_a_sequential_gets_lengths():
    net = conmamba().eval()
    encoder = LengthsCapableSequential(input_shape=(None, None, 24), transformer_encoder=EncoderWrapper(net))
    src, wav_lens = torch.randn(2, 30, 24), torch.tensor([1.0, 0.5])
    assert relative_error(encoder(src, wav_lens), net.encode(src, wav_lens)) < 1e-6


def test_encoder_alone():
    net = conmamba(num_decoder_layers=0, output_hidden_states=True)
    encoder_out, hidden, decoder_out = net(torch.randn(2, 30, 24), None)
    assert encoder_out.shape == (2, 30, 16) and len(hidden) == 3 and decoder_out is None


def test_mamba_keeps_its_initialization():
    net = conmamba(decoder_module="mamba")
    layers = [m for layer in net.decoder.layers for m in (layer.self_mamba, layer.cross_mamba)]
    for layer in [*layers, *(layer.mamba for layer in net.encoder.layers)]:
        assert torch.allclose(layer.A_log.exp(), torch.arange(1.0, 5.0).expand(32, 4))
        assert layer.in_proj.weight.abs().max() <= 1 / 16**0.5
    weight = net.encoder.layers[0].ffn_module1[1].ffn[0].weight.detach()
    assert weight.std() == pytest.approx((2 / (16 + 24)) ** 0.5, rel=0.2)


@pytest.mark.parametrize("encoder_module", ["conmamba", "conformer"])
def test_other_matrices_are_drawn_as_speechbrains(encoder_module):
    net = conmamba(decoder_module="mamba", encoder_module=encoder_module, tgt_vocab=300, d_ffn=300)
    drawn = [net.decoder.layers[1].pos_ffn.ffn[0].weight, net.custom_tgt_module.layers[0].emb.Embedding.weight]
    for weight in (*drawn, net.encoder.layers[1].ffn_module2[1].ffn[0].weight):
        assert weight.detach().std() == pytest.approx((2 / 316) ** 0.5, rel=0.1)
    assert net.decoder.layers[0].cross_mamba.in_proj.weight.abs().max() <= 1 / 4


def test_layers_that_start_like_attention_are_left_so():
    config = {"init": "mimetic", "d_state": 8, "headdim": 8}
    net = conmamba(decoder_module="mamba", cross="hidden_attention", cross_config=config)
    for layer in net.decoder.layers:
        cross = layer.cross_mamba
        assert torch.equal(cross.memory_proj.weight[16:24], cross.target_proj.weight[16:24])


def test_learned_places_of_attention_start_as_they_are():
    net = conmamba(decoder_module="mamba", cross="attention", cross_config={"nhead": 2, "positions": True})
    for layer in net.decoder.layers:
        cross = layer.cross_mamba
        assert not cross.memory_advance.weight.any() and (cross.q_proj.bias == 1).all()
        places, _ = cross.memory_advance(torch.randn(1, 5, 16), torch.zeros(1, 1))
        assert torch.allclose(places[0, :, 0], torch.arange(1.0, 6.0))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"encoder_module": "conmmba"}, "encoder_module is 'conmmba', but must be one of 'transformer', 'conformer'"),
        ({"decoder_module": "lstm"}, "decoder_module is 'lstm', but must be one of 'transformer', 'mamba'"),
        ({"encoder_module": "conformer"}, "mamba_config is given, but encoder_module is 'conformer'"),
        (
            {"encoder_module": "conformer", "mamba_config": None, "mixer": "mamba2"},
            "mixer is given, but encoder_module",
        ),
        (
            {"encoder_module": "conformer", "decoder_module": "mamba", "attention_layers": "low"},
            "attention_layers is given, but encoder_module is 'conformer': set it to conmamba",
        ),
        ({"decoder_attention_layers": "low"}, "decoder_attention_layers is given, but decoder_module is 'transformer'"),
        ({"mixer": "mamba3"}, "mixer is 'mamba3', but must be one of mamba, mamba2, attention"),
        ({"attention_window": 9}, "attention_window is 9, but no layer attends"),
        ({"bidirectional": "outer", "causal": True, "mamba_config": None}, "sees no later frames: leave it out"),
        ({"bidirectional": "sideways"}, "bidirectional is 'sideways', but must be one of"),
        ({"normalize_before": False}, "normalize_before is False"),
        ({"positional_encoding": "rotary"}, "positional_encoding is 'rotary'"),
        ({"attention_type": "flash"}, "attention_type is 'flash'"),
        ({"cross": "attention"}, "cross is given, but decoder_module is 'transformer'"),
        ({"decoder_module": "mamba", "cross": "gated"}, "cross is 'gated', but must be one of concat"),
        ({"decoder_module": "mamba", "cross": "interleaved"}, "set it to the layer of the CTC"),
        ({"decoder_module": "mamba", "places_by": torch.nn.Linear(16, 20)}, "needs no places"),
        ({"decoder_module": "mamba", "cross": "interleaved", "places_by": "ctc_lin"}, "must be a layer"),
    ],
)
def test_option_errors(options, message):
    with pytest.raises(ValueError, match=message):
        conmamba(**options)


def test_too_many_positions():
    net = conmamba(attention_type="regularMHA", max_length=20)
    with pytest.raises(ValueError, match="The source has 30 positions, but max_length is 20"):
        net.encode(torch.randn(1, 30, 24))
    assert net.encode(torch.randn(1, 20, 24)).shape == (1, 20, 16)
    context = net.make_streaming_context(DynChunkTrainConfig(15))
    net.encode_streaming(torch.randn(1, 15, 24), context)
    with pytest.raises(ValueError, match="The source has 30 positions, but max_length is 20"):
        net.encode_streaming(torch.randn(1, 15, 24), context)
    net = conmamba(max_length=20)
    assert net.max_target_length == 20
    assert net(torch.randn(1, 30, 24), torch.ones(1, 20, dtype=torch.long))[1].shape == (1, 20, 16)
    assert net.encode(torch.randn(1, 30, 24)).shape == (1, 30, 16)
    with pytest.raises(ValueError, match="The target has 21 positions, but max_length is 20"):
        net(torch.randn(1, 30, 24), torch.ones(1, 21, dtype=torch.long))


def test_transformer_decoder_has_no_state():
    with pytest.raises(TypeError, match="A Transformer decoder has no state"):
        conmamba().init_decoder_state(torch.randn(1, 30, 16))


@pytest.mark.parametrize("flag", [True, False])
def test_bidirectional_as_in_the_configuration_of_mamba(flag):
    layers = conmamba(bidirectional=flag).encoder.layers
    assert {layer.bidirectional for layer in layers} == {flag}


def test_a_window_is_for_those_that_attend():
    net = conmamba(decoder_module="mamba", decoder_attention_layers=[0], attention_window=7)
    assert net.encoder.mixer_plan.kinds == ("mamba",) * len(net.encoder.layers)
    assert net.decoder.layers[0].self_mamba.window == 7
    net = conmamba(decoder_module="mamba", attention_layers=[0], attention_window=7)
    assert net.encoder.layers[0].mamba.window == 7


@pytest.mark.parametrize("decoder_module", ["mamba", "transformer"])
def test_an_output_of_the_encoder_takes_the_place_of_the_source(decoder_module):
    net = conmamba(decoder_module=decoder_module).eval()
    src, tgt, wav_len = torch.randn(2, 30, 24), torch.randint(1, 20, (2, 7)), torch.tensor([1.0, 0.5])
    memory, expected = net(src, tgt, wav_len)
    given, found = net(None, tgt, wav_len, encoder_out=memory)
    assert given is memory and torch.equal(found, expected)
    found.sum().backward()
    assert all(p.grad is not None for p in net.decoder.parameters())
    for missing in ({"tgt": tgt}, {"tgt": None, "encoder_out": memory}):
        with pytest.raises(ValueError, match="needs either src, or encoder_out and tgt"):
            net(None, **missing)


@pytest.mark.parametrize("encoder_module", ["conmamba", "conformer"])
@pytest.mark.parametrize("decoder_module", ["mamba", "transformer"])
def test_the_decoder_may_have_a_width_of_its_own(encoder_module, decoder_module):
    options = {**SIZE, **MAMBA, "encoder_module": encoder_module, "decoder_module": decoder_module}
    if (encoder_module, decoder_module) == ("conformer", "transformer"):
        with pytest.raises(ValueError, match=r"decoder_d_ffn is given, but .* which SpeechBrain builds with one d_ffn"):
            TransformerASR(**{**options, "mamba_config": None}, decoder_d_ffn=40)
        return
    net = TransformerASR(**options, decoder_d_ffn=40)
    widths = {p.shape[0] for name, p in net.decoder.named_parameters() if name.endswith("pos_ffn.ffn.0.weight")}
    assert widths == {40}
    assert not any(40 in p.shape for p in net.encoder.parameters())
