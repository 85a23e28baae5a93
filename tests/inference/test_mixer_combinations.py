"""Combinations of system, mixer, layout and form, drawn once and for all: each trains, computes the same in pieces as
in one go, and is exported and loaded."""

import random

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.inference.pretrained import open_model
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator, export_separator
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet.mixers import BIDIRECTIONAL, MIXERS
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.conftest import HPARAMS
from tests.errors import relative_error
from tests.inference.test_every_export import equal
from tests.inference.test_synthesis import write_model
from tests.inference.tiny_recognizers import make_recognizer

LAYOUTS = [None, "low", "high", "spread", "every 2", [0]]
STEPS = 6


def draw(system, forms=BIDIRECTIONAL, others=({},)):
    """For each mixer a layout and what goes with it. The first is tried in every run."""
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
            name = "-".join([system, *(str(value) for value in changes.values() if value is not None)])
            yield pytest.param(system, changes, id=name, marks=pytest.mark.slow if number else ())


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
        losses.append(float(loss))
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
    made = make_recognizer(tmp_path / "again", name, num_encoder_layers=2, causal=bool(causal), **changes)
    loaded = open_model(made.folder).load(Recognizer)
    assert equal(loaded.mods.encoder.encoder.transformer, made.hparams["Transformer"])


SYNTHESIZERS = {
    "mini_vallm": {"others": ({"prompt_order": "joint"}, {"prompt_order": "joint", "positions": False})},
    "mini_vallm_hybrid": {},
    "mini_valle": {},
}


@pytest.mark.parametrize(("name", "changes"), list(combinations(SYNTHESIZERS)))
def test_synthesizers(name, changes, tmp_path):
    sizes = {
        "token_folder": "unused",
        "n_codebooks": 4,
        "codebook_size": 16,
        "num_layers": 2,
        "d_model": 16,
        "d_ffn": 16,
    }
    sizes |= {"nhead": 2, "max_seconds": 0.5, "n_phonemes": 8, **changes}
    hparams = load_hparams(HPARAMS / "tts" / f"{name}.yaml", sizes)
    ar, nar = hparams["ar"], hparams["nar"]
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
    made = write_model(tmp_path / "model", name, **changes)
    loaded = SpeechSynthesizer.from_hparams(tmp_path / "model")
    assert all(equal(loaded.mods[part], made.modules[part]) for part in ("ar", "nar"))
