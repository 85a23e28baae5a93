"""Combinations of system, mixer, layout and form, drawn once and for all: each trains, computes the same in pieces as
in one go, and is exported and loaded."""

import itertools
import random
from types import SimpleNamespace

import pytest
import torch
from ruamel.yaml import YAML
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.codecs import EnCodec
from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.inference.pretrained import open_model
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator, export_separator
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer, export_synthesizer
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet.cross_mamba import CROSS_KINDS
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
LONG = 50
"""Steps of a training long enough to fit one batch."""


def draw(system, forms=BIDIRECTIONAL, others=({},)):
    """Each mixer, and each of the others, once at least, with a layout and what goes with it."""
    chance = random.Random(system)
    mixers, others = chance.sample(MIXERS, len(MIXERS)), chance.sample(others, len(others))
    for number in range(max(len(mixers), len(others))):
        other, mixer = others[number % len(others)], mixers[number % len(mixers)]
        if "init" in other.get("cross_config", {}) and mixer == "attention":
            mixer = "mamba2"  # what has states to initialize
        changes = {"mixer": mixer, "attention_layers": chance.choice(LAYOUTS), **other}
        attends = mixer == "attention" or changes["attention_layers"] is not None
        changes["attention_window"] = chance.choice([None, 3]) if attends else None
        if forms:
            changes["bidirectional"] = chance.choice(forms)
        yield changes


def name_of(system, changes):
    """A test's name: the changes, and the options among them, without the place that all have."""
    words = [system]
    for key, value in changes.items():
        if isinstance(value, dict):
            words += [f"{option} {one}" for option, one in value.items()]
        elif value is not None and key != "places_by":
            words.append(str(value))
    return "-".join(words)


def combinations(systems):
    """Parameters for tests: a system's name and the changes drawn for it."""
    for system, options in systems.items():
        for number, changes in enumerate(draw(system, **options)):
            if number == 2 and system not in QUICK:
                break
            marks = pytest.mark.slow if number or system not in QUICK else ()
            yield pytest.param(system, changes, id=name_of(system, changes), marks=marks)


def train(parameters, compute_loss, steps=STEPS):
    """Some steps on one batch: the loss falls, and every parameter is trained. Returns the losses."""
    parameters = dict(parameters)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = compute_loss()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0], losses
    still = [name for name, parameter in parameters.items() if torch.equal(parameter, before[name])]
    assert not still
    return losses


SEPARATORS = {
    "mini_mambatasnet": {},
    "mini_mambatasnet_streaming": {"forms": None},
    "dpmamba_XS": {},
}


def make_separator(name, changes):
    """A tiny separator, its hyper-parameters, and what it is trained on."""
    path = HPARAMS / "separation" / f"{name}.yaml"
    sizes = {"N_encoder_out": 16, "out_channels": 16, "kernel_size": 16, "data_folder": "unused", **changes}
    sizes |= {"n_dp": 2, "chunk_size": 10} if "dp" in name else {"n_mamba": 2}
    modules = load_hparams(path, sizes)["modules"]
    parts = [modules[part] for part in ("encoder", "masknet", "decoder")]
    mix, lens = torch.randn(2, 400), torch.tensor([1.0, 0.7])
    target = torch.stack([mix, -mix], -1)

    def loss():
        return (separate(*parts, mix, lens) - target).square().mean()

    return SimpleNamespace(
        modules=modules, parts=parts, text=read_hparams(path, sizes), mix=mix, lens=lens, loss=loss,
        trained=list(parts[1].named_parameters()),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), list(combinations(SEPARATORS)))
def test_separators(name, changes, tmp_path):
    made = make_separator(name, changes)
    train(made.trained, made.loss)
    mix, parts = made.mix, made.parts
    with torch.no_grad():
        padded, alone = separate(*parts, mix, made.lens), separate(*parts, mix[1:, :280])
    assert relative_error(padded[1, :280], alone[0]) < 1e-4
    export_separator(tmp_path / "model", made.text, made.modules)
    loaded = SpeechSeparator.from_hparams(tmp_path / "model")
    assert all(equal(loaded.mods[part], module) for part, module in made.modules.items())
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


def make_encoder(name, changes, folder):
    """A tiny recognizer with CTC, exported, and what its encoder is trained on."""
    *causal, name = name.split()
    made = make_recognizer(folder, name, num_encoder_layers=2, dropout=0.0, causal=bool(causal), **changes)
    made.net, made.causal = made.hparams["Transformer"], bool(causal)
    made.src = torch.randn(2, 21, made.net.custom_src_module.layers[0].w.in_features)
    made.lens = torch.tensor([1.0, 0.6])
    target = torch.randn(2, 21, 16) * (torch.arange(21) < 21 * made.lens[:, None])[..., None]
    made.loss = lambda: (made.net.encode(made.src, made.lens) - target).square().mean()
    made.trained = list(made.net.encoder.named_parameters())
    return made


@pytest.mark.parametrize(("name", "changes"), list(combinations(RECOGNIZERS)))
def test_recognizers(name, changes, tmp_path):
    made = make_encoder(name, changes, tmp_path)
    net, src, chunks = made.net, made.src, DynChunkTrainConfig(4)
    assert equal(open_model(made.folder).load(Recognizer).mods.encoder.encoder.transformer, net)
    train(made.trained, made.loss)
    with torch.no_grad():
        padded, alone = net.encode(src, made.lens), net.encode(src[1:, :13])
        assert relative_error(padded[1, :13], alone[0]) < 1e-4
        if made.hparams["streaming"] or made.causal:
            whole = net.encode(src, dynchunktrain_config=chunks)
            context = net.make_streaming_context(chunks)
            pieces = [net.encode_streaming(piece, context) for piece in src.split(8, 1)]
            assert relative_error(torch.cat(pieces, 1), whole) < 1e-4


MIMETIC = {"init": "mimetic"}
BY_CTC = {"places_by": YAML().load("!ref <ctc_lin>")}
CROSSES = [
    {"cross": "concat", "cross_config": MIMETIC},
    {"cross": "attention"},
    {"cross": "attention", "cross_config": {"positions": True}},
    {"cross": "prefix_bidirectional", "cross_config": MIMETIC},
    {"cross": "hidden_attention"},
    {"cross": "hidden_attention", "cross_config": {"positions": False, **MIMETIC}},
    {"cross": "interleaved", **BY_CTC},
    {"cross": "interleaved", "cross_config": MIMETIC, **BY_CTC},
]
DECODERS = {"mini_conmambamamba_s2s_fsdd": {"forms": None, "others": CROSSES}}


def make_decoder(name, changes, folder):
    """A tiny recognizer with a decoder, exported, and what its decoder is trained on."""
    changes = {**changes, "num_decoder_layers": 2, "decoder_attention_layers": changes["attention_layers"]}
    made = make_recognizer(folder, name, num_encoder_layers=2, dropout=0.0, **changes)
    made.net, linear = made.hparams["Transformer"], made.hparams["seq_lin"]
    made.src = torch.randn(2, 21, made.net.custom_src_module.layers[0].w.in_features)
    made.lens, made.tokens = torch.tensor([1.0, 0.6]), torch.randint(3, 9, (2, 6))

    def loss():
        _, decoded = made.net(made.src, made.tokens, made.lens)
        return torch.nn.functional.cross_entropy(linear(decoded).flatten(0, 1), made.tokens.roll(-1, 1).flatten())

    made.loss, made.trained = loss, list(made.net.decoder.layers.named_parameters())
    return made


@pytest.mark.parametrize(("name", "changes"), list(combinations(DECODERS)))
def test_recognizers_with_a_decoder(name, changes, tmp_path):
    made = make_decoder(name, changes, tmp_path)
    net, src, tokens = made.net, made.src, made.tokens
    assert equal(open_model(made.folder).load(Recognizer).mods.encoder.transformer, net)
    train(made.trained, made.loss)
    net.eval()
    with torch.no_grad():
        memory, whole = net(src, tokens, made.lens)
        state, steps = net.init_decoder_state(memory, torch.tensor([21, 13])), []
        for token in tokens.unbind(1):
            decoded, state = net.decode_step(token, state)
            steps.append(decoded)
        alone = net(src[1:, :13], tokens[1:])[1]
    assert relative_error(torch.stack(steps, 1), whole) < 1e-4
    assert relative_error(whole[1:], alone) < 1e-4


ORDERS = ({"prompt_order": "joint"}, {"prompt_order": "interleaved"})
READINGS = [
    {"cross": "concat", "cross_config": MIMETIC},
    {"cross": "attention"},
    {"cross": "hidden_attention"},
    {"cross": "hidden_attention", "cross_config": {"positions": False, **MIMETIC}},
    {"cross": "prefix_bidirectional"},
    {"cross": "prefix_bidirectional", "cross_config": MIMETIC},
]
SYNTHESIZERS = {
    "mini_vallm": {"others": [{**reading, **order} for reading, order in zip(READINGS, itertools.cycle(ORDERS))]},
    "mini_vallm_hybrid": {"others": ORDERS},
    "mini_valle": {"others": ORDERS, "forms": ("inner", "outer")},
}


def make_synthesizer(name, changes):
    """A tiny synthesizer, its hyper-parameters, and what its stacks are trained on."""
    path = HPARAMS / "tts" / f"{name}.yaml"
    sizes = {**GREEDY, "d_ffn": 16, "nhead": 2, "attention_interval": 2, "dropout": 0.0, **changes}
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
    return SimpleNamespace(
        modules=modules, text=read_hparams(path, sizes), prompt=prompt, speech=speech, loss=loss,
        trained=[(name, parameter) for name, parameter in layers if ".norm" not in name],
    )  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), list(combinations(SYNTHESIZERS)))
def test_synthesizers(name, changes, tmp_path):
    made = make_synthesizer(name, changes)
    ar, prompt, speech = made.modules["ar"], made.prompt, made.speech
    train(made.trained, made.loss)
    ar.eval()
    with torch.no_grad():
        _, whole = ar(prompt.first_codebook(), speech.first_codebook())
        logits, state = ar.start(prompt.first_codebook(), speech.phonemes)
        steps = [logits]
        for tokens in speech.codes.values[:, :8, 0].unbind(1):
            logits, state = ar.step(tokens, state)
            steps.append(logits)
    for example, length in enumerate(speech.codes.lengths):
        assert relative_error(torch.stack(steps, 1)[example, :length], whole[example, :length]) < 1e-4
    tokenizer = TextTokenizer.train(["one two three"], "characters")
    export_synthesizer(tmp_path / "model", made.text, made.modules, tokenizer, EnCodec(**CODEC))
    loaded = SpeechSynthesizer.from_hparams(tmp_path / "model")
    assert all(equal(loaded.mods[part], module) for part, module in made.modules.items())


def test_every_reading_is_drawn():
    """Each way to read, and mimetic initialization of each that has states."""
    for systems, kinds in ((DECODERS, CROSS_KINDS), (SYNTHESIZERS, [*CROSS_KINDS[:-1], None])):
        drawn = [changes for system, options in systems.items() for changes in draw(system, **options)]
        assert {changes.get("cross") for changes in drawn} == {*kinds}
        mimetic = {changes["cross"] for changes in drawn if "init" in changes.get("cross_config", {})}
        assert mimetic == {kind for kind in kinds if kind not in ("attention", None)}
        assert {changes["mixer"] for changes in drawn} == {*MIXERS}


@pytest.mark.slow
def test_some_learn_a_batch(tmp_path):
    """One combination of each task: in many steps the loss falls to a share of what it was at first."""

    def drawn(systems, name):
        return name, next(draw(name, **systems[name]))

    made = {
        0.9: make_separator(*drawn(SEPARATORS, "mini_mambatasnet")),
        0.3: make_encoder(*drawn(RECOGNIZERS, "mini_conmamba_ctc_fsdd"), tmp_path / "encoder"),
        0.1: make_decoder(*drawn(DECODERS, "mini_conmambamamba_s2s_fsdd"), tmp_path / "decoder"),
        0.5: make_synthesizer(*drawn(SYNTHESIZERS, "mini_vallm")),
    }
    for share, one in made.items():
        losses = train(one.trained, one.loss, LONG)
        assert losses[-1] < share * losses[0], losses[:: LONG // 5]
