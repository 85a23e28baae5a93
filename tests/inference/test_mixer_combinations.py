"""Combinations of system, mixer, layout and form, drawn once and for all: each trains, computes the same in pieces as
in one go, and is exported and loaded."""

import random

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.codecs import EnCodec
from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.inference.pretrained import open_model
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator, export_separator
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer, export_synthesizer
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet.mixers import BIDIRECTIONAL, MIXERS
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.conftest import HPARAMS
from tests.errors import relative_error
from tests.inference.test_every_export import equal
from tests.inference.test_synthesis import CODEC, GREEDY
from tests.inference.tiny_recognizers import make_recognizer

QUICK = {"mini_mambatasnet_streaming", "mini_conmamba_ctc_streaming", "mini_conmambamamba_s2s_fsdd", "mini_vallm"}
"""Systems of which one combination is tried in every run."""
LAYOUTS = [None, "low", "high", "spread", "every 2", [0]]
STEPS = 4


def draw(system, forms=BIDIRECTIONAL, others=({},)):
    """For each mixer a layout and what goes with it."""
    chance = random.Random(system)
    for mixer in chance.sample(MIXERS, len(MIXERS)):
        changes = {"mixer": mixer, "attention_layers": chance.choice(LAYOUTS), **chance.choice(others)}
        attends = mixer == "attention" or changes["attention_layers"] is not None
        changes["attention_window"] = chance.choice([None, 3]) if attends else None
        if forms:
            changes["bidirectional"] = chance.choice(forms)
        yield changes


def combinations(systems):
    """Parameters for tests: a system's name and the changes drawn for it."""
    for system, options in systems.items():
        for number, changes in enumerate(draw(system, **options)):
            if number == 2 and system not in QUICK:
                break
            name = "-".join([system, *(str(value) for value in changes.values() if value is not None)])
            yield pytest.param(
                system, changes, id=name, marks=pytest.mark.slow if number or system not in QUICK else ()
            )


def train(parameters, compute_loss):
    """A few steps on one batch: the loss falls, and every parameter is trained."""
    parameters = dict(parameters)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), lr=3e-3)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = compute_loss()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0], losses
    still = [name for name, parameter in parameters.items() if torch.equal(parameter, before[name])]
    assert not still


SEPARATORS = {
    "mini_mambatasnet": {},
    "mini_mambatasnet_streaming": {"forms": None},
    "dpmamba_XS": {},
}


@pytest.mark.parametrize(("name", "changes"), list(combinations(SEPARATORS)))
def test_separators(name, changes, tmp_path):
    path = HPARAMS / "separation" / f"{name}.yaml"
    sizes = {"N_encoder_out": 16, "out_channels": 16, "kernel_size": 16, "data_folder": "unused", **changes}
    sizes |= {"n_dp": 2, "chunk_size": 10} if "dp" in name else {"n_mamba": 2}
    modules = load_hparams(path, sizes)["modules"]
    parts = [modules[part] for part in ("encoder", "masknet", "decoder")]
    mix, lens = torch.randn(2, 400), torch.tensor([1.0, 0.7])
    target = torch.stack([mix, -mix], -1)
    train(parts[1].named_parameters(), lambda: (separate(*parts, mix, lens) - target).square().mean())
    with torch.no_grad():
        padded, alone = separate(*parts, mix, lens), separate(*parts, mix[1:, :280])
    assert relative_error(padded[1, :280], alone[0]) < 1e-4
    export_separator(tmp_path / "model", read_hparams(path, sizes), modules)
    loaded = SpeechSeparator.from_hparams(tmp_path / "model")
    assert all(equal(loaded.mods[part], module) for part, module in modules.items())
    whole = loaded.separate_batch(mix)
    assert loaded.can_stream == ("streaming" in name)
    if loaded.can_stream:
        stream = loaded.stream()
        found = [stream.add(piece) for piece in mix.split([37, 200, 1, 162], 1)] + [stream.finish()]
        assert relative_error(torch.cat(found, 1), whole) < 1e-4


RECOGNIZERS = {
    "mini_conmamba_ctc_fsdd": {},
    "mini_conmamba_ctc_streaming": {},
    "causal mini_conmamba_ctc_fsdd": {"forms": None},
}


@pytest.mark.parametrize(("name", "changes"), list(combinations(RECOGNIZERS)))
def test_recognizers(name, changes, tmp_path):
    *causal, name = name.split()
    made = make_recognizer(tmp_path, name, num_encoder_layers=2, dropout=0.0, causal=bool(causal), **changes)
    net, streaming = made.hparams["Transformer"], made.hparams["streaming"]
    assert equal(open_model(made.folder).load(Recognizer).mods.encoder.encoder.transformer, net)
    src = torch.randn(2, 21, net.custom_src_module.layers[0].w.in_features)
    chunks, lens = DynChunkTrainConfig(4), torch.tensor([1.0, 0.6])
    train(net.encoder.named_parameters(), lambda: (net.encode(src, lens) - 1).square().mean())
    with torch.no_grad():
        padded, alone = net.encode(src, lens), net.encode(src[1:, :13])
        assert relative_error(padded[1, :13], alone[0]) < 1e-4
        if streaming or causal:
            whole = net.encode(src, dynchunktrain_config=chunks)
            context = net.make_streaming_context(chunks)
            pieces = [net.encode_streaming(piece, context) for piece in src.split(8, 1)]
            assert relative_error(torch.cat(pieces, 1), whole) < 1e-4


CROSSES = [{"cross": kind} for kind in ("concat", "attention", "prefix_bidirectional", "hidden_attention")]


@pytest.mark.parametrize(
    ("name", "changes"),
    list(combinations({"mini_conmambamamba_s2s_fsdd": {"forms": None, "others": CROSSES}})),
)
def test_recognizers_with_a_decoder(name, changes, tmp_path):
    changes = {**changes, "num_decoder_layers": 2, "decoder_attention_layers": changes["attention_layers"]}
    made = make_recognizer(tmp_path, name, num_encoder_layers=2, dropout=0.0, **changes)
    net, linear = made.hparams["Transformer"], made.hparams["seq_lin"]
    assert equal(open_model(made.folder).load(Recognizer).mods.encoder.transformer, net)
    src, lens = torch.randn(2, 21, net.custom_src_module.layers[0].w.in_features), torch.tensor([1.0, 0.6])
    tokens = torch.randint(3, 9, (2, 6))

    def loss():
        _, decoded = net(src, tokens, lens)
        return torch.nn.functional.cross_entropy(linear(decoded).flatten(0, 1), tokens.roll(-1, 1).flatten())

    train(net.decoder.layers.named_parameters(), loss)
    net.eval()
    with torch.no_grad():
        memory, whole = net(src, tokens, lens)
        state, steps = net.init_decoder_state(memory, torch.tensor([21, 13])), []
        for token in tokens.unbind(1):
            decoded, state = net.decode_step(token, state)
            steps.append(decoded)
        alone = net(src[1:, :13], tokens[1:])[1]
    assert relative_error(torch.stack(steps, 1), whole) < 1e-4
    assert relative_error(whole[1:], alone) < 1e-4


ORDERS = ({"prompt_order": "joint"}, {"prompt_order": "interleaved"})
SYNTHESIZERS = {
    "mini_vallm": {"others": [{"cross": kind} for kind in ("concat", "hidden_attention", "prefix_bidirectional")]},
    "mini_vallm_hybrid": {"others": ORDERS},
    "mini_valle": {"others": ORDERS, "forms": ("inner", "outer")},
}


@pytest.mark.parametrize(("name", "changes"), list(combinations(SYNTHESIZERS)))
def test_synthesizers(name, changes, tmp_path):
    path, sizes = HPARAMS / "tts" / f"{name}.yaml", {**GREEDY, "d_ffn": 16, "nhead": 2, **changes}
    modules = load_hparams(path, sizes)["modules"]
    ar, nar = modules["ar"], modules["nar"]
    phonemes = Padded(torch.randint(8, (2, 5)), torch.tensor([5, 3]))
    speech = Utterances(phonemes, Padded(torch.randint(16, (2, 9, 4)), torch.tensor([9, 6])))
    prompt = Utterances(
        Padded(torch.randint(8, (2, 3)), torch.tensor([3, 2])),
        Padded(torch.randint(16, (2, 4, 4)), torch.tensor([4, 3])),
    )
    stage = torch.tensor([1, 3])

    def loss():
        _, logits = ar(prompt.first_codebook(), speech.first_codebook())
        first = torch.nn.functional.cross_entropy(logits[:, :6].flatten(0, 1), speech.codes.values[:, :6, 0].flatten())
        later = nar(prompt, speech, stage)[:, :6]
        target = speech.codes.values[torch.arange(2), :6, stage]
        return first + torch.nn.functional.cross_entropy(later.flatten(0, 1), target.flatten())

    layers = [*ar.backbone.layers.named_parameters("ar"), *nar.backbone.layers.named_parameters("nar")]
    train([(name, parameter) for name, parameter in layers if ".norm" not in name], loss)
    ar.eval()
    with torch.no_grad():
        _, whole = ar(prompt.first_codebook(), speech.first_codebook())
        logits, state = ar.start(prompt.first_codebook(), phonemes)
        steps = [logits]
        for tokens in speech.codes.values[:, :8, 0].unbind(1):
            logits, state = ar.step(tokens, state)
            steps.append(logits)
    for example, length in enumerate(speech.codes.lengths):
        assert relative_error(torch.stack(steps, 1)[example, :length], whole[example, :length]) < 1e-4
    tokenizer = TextTokenizer.train(["one two three"], "characters")
    export_synthesizer(tmp_path / "model", read_hparams(path, sizes), modules, tokenizer, EnCodec(**CODEC))
    loaded = SpeechSynthesizer.from_hparams(tmp_path / "model")
    assert all(equal(loaded.mods[part], module) for part, module in modules.items())
