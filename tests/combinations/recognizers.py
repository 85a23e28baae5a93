"""Recognizers with CTC: encoders that see both ways, that stream in chunks, and that are causal."""

import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_mamba.inference.pretrained import open_model
from speechbrain_mamba.inference.recognition import Recognizer
from tests.combinations.outcome import Outcome, train
from tests.errors import relative_error, same_weights
from tests.inference.tiny_recognizers import build_recognizer, export

RECOGNIZERS = {
    "mini_conmamba_ctc_fsdd": {},
    "mini_conmamba_ctc_streaming": {},
    "causal mini_conmamba_ctc_fsdd": {"forms": None},
}
"""Arguments of :func:`~tests.combinations.choices.draw` and :func:`~tests.combinations.choices.every`."""


def make_encoder(name, changes, folder):
    """A tiny recognizer with CTC, and what its encoder is trained on."""
    *causal, name = name.split()
    made = build_recognizer(folder, name, num_encoder_layers=2, dropout=0.0, causal=bool(causal), **changes)
    made.net, made.causal = made.hparams["Transformer"], bool(causal)
    made.src = torch.randn(2, 21, made.net.custom_src_module.layers[0].w.in_features)
    made.lens = torch.tensor([1.0, 0.6])
    target = torch.randn(2, 21, 16) * (torch.arange(21) < 21 * made.lens[:, None])[..., None]
    made.loss = lambda: (made.net.encode(made.src, made.lens) - target).square().mean()
    made.trained = list(made.net.encoder.named_parameters())
    return made


def try_recognizer(name, changes, folder, steps):
    """Train the encoder, encode a padded batch and a stream, export and load."""
    made = make_encoder(name, changes, folder)
    training = train(made.trained, made.loss, steps)
    net, src, chunks, pieces = made.net, made.src, DynChunkTrainConfig(4), None
    export(made)
    loaded = open_model(made.folder).load(Recognizer).mods.encoder.encoder.transformer
    with torch.no_grad():
        padded, alone, again = net.encode(src, made.lens), net.encode(src[1:, :13]), loaded.encode(src, made.lens)
        if made.hparams["streaming"] or made.causal:
            context = net.make_streaming_context(chunks)
            found = [net.encode_streaming(piece, context) for piece in src.split(8, 1)]
            pieces = relative_error(torch.cat(found, 1), net.encode(src, dynchunktrain_config=chunks))
    return Outcome(
        **vars(training),
        padding=relative_error(padded[1, :13], alone[0]),
        pieces=pieces,
        loaded=relative_error(again, padded) if same_weights(loaded, net) else float("inf"),
    )
