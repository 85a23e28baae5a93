"""Separators: single path, single path and causal, and dual path."""

from types import SimpleNamespace

import torch

from speechbrain_mamba.inference.separation import SpeechSeparator, export_separator
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.combinations.outcome import Outcome, train
from tests.conftest import HPARAMS
from tests.errors import relative_error, same_weights

SEPARATORS = {
    "mini_mambatasnet": {},
    "mini_mambatasnet_streaming": {"forms": None},
    "dpmamba_XS": {},
}
"""Arguments of :func:`~tests.combinations.choices.draw` and :func:`~tests.combinations.choices.every`."""


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


def try_separator(name, changes, folder, steps):
    """Train, separate a padded batch and a stream, export and load."""
    made = make_separator(name, changes)
    training = train(made.trained, made.loss, steps)
    mix, parts = made.mix, made.parts
    for part in parts:
        part.eval()
    with torch.no_grad():
        whole, padded, alone = separate(*parts, mix), separate(*parts, mix, made.lens), separate(*parts, mix[1:, :280])
    export_separator(folder / "model", made.text, made.modules)
    loaded = SpeechSeparator.from_hparams(folder / "model")
    pieces = None
    if loaded.can_stream:
        stream = loaded.stream()
        found = [stream.add(piece) for piece in mix.split([37, 200, 1, 162], 1)] + [stream.finish()]
        pieces = relative_error(torch.cat(found, 1), whole)
    assert loaded.can_stream == ("streaming" in name)
    same = all(same_weights(loaded.mods[part], module) for part, module in made.modules.items())
    return Outcome(
        **vars(training),
        padding=relative_error(padded[1, :280], alone[0]),
        pieces=pieces,
        loaded=relative_error(loaded.separate_batch(mix), whole) if same else float("inf"),
    )
