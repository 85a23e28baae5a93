"""Recognizers with a Mamba decoder that reads the encoder's output in each way."""

import torch
from ruamel.yaml import YAML

from speechbrain_mamba.inference.pretrained import open_model
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.nnet.cross_mamba import CROSS_KINDS
from tests.combinations.outcome import Outcome, train
from tests.errors import relative_error, same_weights
from tests.inference.tiny_recognizers import build_recognizer, export

MIMETIC = {"init": "mimetic"}
BY_CTC = {"places_by": YAML().load("!ref <ctc_lin>")}
DRAWN = [
    {"cross": "concat", "cross_config": MIMETIC},
    {"cross": "attention"},
    {"cross": "attention", "cross_config": {"positions": True}},
    {"cross": "prefix_bidirectional", "cross_config": MIMETIC},
    {"cross": "hidden_attention"},
    {"cross": "hidden_attention", "cross_config": {"positions": False, **MIMETIC}},
    {"cross": "interleaved", **BY_CTC},
    {"cross": "interleaved", "cross_config": MIMETIC, **BY_CTC},
]
ALL = [
    {"cross": kind, **({"cross_config": config} if config else {}), **(BY_CTC if kind == "interleaved" else {})}
    for kind in CROSS_KINDS
    for config in {
        "attention": ({}, {"positions": True}),
        "hidden_attention": ({}, MIMETIC, {"positions": False}, {"positions": False, **MIMETIC}),
    }.get(kind, ({}, MIMETIC))
]
NAME = "mini_conmambamamba_s2s_fsdd"
DECODERS = {NAME: {"forms": None, "others": DRAWN}}
"""Arguments of :func:`~tests.combinations.choices.draw`."""
ALL_DECODERS = {NAME: {"forms": None, "others": ALL}}
"""Arguments of :func:`~tests.combinations.choices.every`."""


def make_decoder(name, changes, folder):
    """A tiny recognizer with a decoder, and what its decoder is trained on."""
    changes = {**changes, "num_decoder_layers": 2, "decoder_attention_layers": changes["attention_layers"]}
    made = build_recognizer(folder, name, num_encoder_layers=2, dropout=0.0, **changes)
    made.net, linear = made.hparams["Transformer"], made.hparams["seq_lin"]
    made.src = torch.randn(2, 21, made.net.custom_src_module.layers[0].w.in_features)
    made.lens, made.tokens = torch.tensor([1.0, 0.6]), torch.randint(3, 9, (2, 6))

    def loss():
        _, decoded = made.net(made.src, made.tokens, made.lens)
        return torch.nn.functional.cross_entropy(linear(decoded).flatten(0, 1), made.tokens.roll(-1, 1).flatten())

    made.loss, made.trained = loss, list(made.net.decoder.layers.named_parameters())
    return made


def try_decoder(name, changes, folder, steps):
    """Train the decoder, decode a padded batch at once and token by token, export and load."""
    made = make_decoder(name, changes, folder)
    training = train(made.trained, made.loss, steps)
    net, src, tokens = made.net, made.src, made.tokens
    export(made)
    loaded = open_model(made.folder).load(Recognizer).mods.encoder.transformer
    with torch.no_grad():
        memory, whole = net(src, tokens, made.lens)
        state, found = net.init_decoder_state(memory, torch.tensor([21, 13])), []
        for token in tokens.unbind(1):
            decoded, state = net.decode_step(token, state)
            found.append(decoded)
        alone, again = net(src[1:, :13], tokens[1:])[1], loaded(src, tokens, made.lens)[1]
    return Outcome(
        **vars(training),
        padding=relative_error(whole[1:], alone),
        pieces=relative_error(torch.stack(found, 1), whole),
        loaded=relative_error(again, whole) if same_weights(loaded, net) else float("inf"),
    )
