"""The systems of hyper-parameter files with random weights, and their forward pass over some seconds of audio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor, nn

from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.utils.hparams import read_hparams, select_hparams

HPARAMS = Path(__file__).parent.parent / "hparams"
UNUSED = {"separation": {"data_folder": ""}, "asr": {}, "tts": {"token_folder": "unused"}}
"""Hyper-parameters that files demand and that do not matter here."""
PHONEMES = 15
"""Phonemes per second of speech."""
FEATURES = 100.0
"""Feature frames of recognition per second, unless the features' hop is another one."""


def task_of(name: str) -> str:
    """The task of a file such as ``asr/conmamba_ctc``, which is its folder.

    Raises
    ------
    ValueError
        For a file that is not there, or is of a task without a forward pass here.
    """
    task = name.split("/")[0]
    if task not in UNUSED or not (HPARAMS / f"{name}.yaml").is_file():
        raise ValueError(
            f"'{name}' is not a system: give a file of hparams/{', hparams/'.join(UNUSED)} without its ending, such as "
            "asr/conmamba_ctc."
        )
    return task


def load_modules(
    name: str, device: torch.device, overrides: Mapping[str, Any] | None = None, parts: tuple[str, ...] = ()
) -> tuple[nn.ModuleDict, int]:
    """The networks of a hyper-parameter file, and the features of a recognizer or 0.

    Arguments
    ---------
    name : str
        Task and name of the file, such as ``asr/conmamba_ctc``.
    device : torch.device
        Where to put the networks.
    overrides : mapping, optional
        Values that replace those of the file.
    parts : tuple of str
        The networks to make, such as ``("ar",)`` of a synthesizer; all by default.
    """
    torch.manual_seed(0)
    task = task_of(name)
    keys = [*(parts or ["modules"]), *(["n_mels"] if task == "asr" else [])]
    text = read_hparams(HPARAMS / f"{name}.yaml", {**UNUSED[task], **(overrides or {})})
    loaded = load_hyperpyyaml(select_hparams(text, keys))
    networks = {part: loaded[part] for part in parts} if parts else loaded["modules"]
    return nn.ModuleDict(networks).to(device), loaded.get("n_mels", 0)


def spoken(
    batch: int, frames: int, model: Any, device: torch.device, phonemes: int | None = None, codebooks: int = 0
) -> Utterances:
    """Utterances with random codes (batch, frames[, codebooks]), and phonemes: one for five frames by default."""
    count = max(1, frames // 5) if phonemes is None else phonemes
    said = torch.randint(model.n_phonemes, (batch, count), device=device)
    size = (batch, frames, codebooks) if codebooks else (batch, frames)
    codes = torch.randint(model.codebook_size, size, device=device)
    return Utterances(*(Padded(t, torch.full((batch,), t.shape[1], device=device)) for t in (said, codes)))


def speak(
    modules: nn.ModuleDict, seconds: float, rate: float, batch: int, device: torch.device
) -> Callable[[], Tensor]:
    """A forward pass of a codec language model, ``ar`` or ``nar``, over an utterance of some seconds.

    The speech has 15 phonemes per second and ``rate`` frames per second. As in training, the prompt of the
    non-autoregressive model is the beginning of the utterance: 3 s, or half of a shorter one.
    """
    frames, phonemes = max(2, round(seconds * rate)), max(1, round(seconds * PHONEMES))
    if "ar" in modules:
        speech = spoken(batch, frames, modules["ar"], device, phonemes)
        prompt = speech.emptied()
        return lambda: modules["ar"](prompt, speech)[1]
    model: Any = modules["nar"]
    said, codes = spoken(batch, frames, model, device, phonemes, model.n_codebooks)
    cut = min(round(3 * rate), frames // 2)
    first, rest = (Padded(part, torch.full((batch,), part.shape[1], device=device))
                   for part in codes.values.split([cut, frames - cut], 1))  # fmt: skip
    prompt = Utterances(Utterances(said, codes).emptied().phonemes, first)
    stage = torch.full((batch,), model.n_codebooks // 2, device=device)
    return lambda: model(prompt, Utterances(said, rest), stage)


def hear(
    modules: nn.ModuleDict, n_features: int, seconds: float, batch: int, device: torch.device, rate: float = FEATURES
) -> Callable[[], Tensor]:
    """A forward pass of a recognizer's front end, encoder and CTC over some seconds of features."""
    features = torch.randn(batch, max(8, round(seconds * rate)), n_features, device=device)
    if "Encoder" in modules:
        return lambda: modules["ctc_lin"](modules["Encoder"](modules["CNN"](features)))
    transformer: Any = modules["Transformer"]
    return lambda: modules["ctc_lin"](transformer.encode(modules["CNN"](features)))


def separate_noise(modules: nn.ModuleDict, seconds: float, batch: int, device: torch.device) -> Callable[[], Tensor]:
    """A forward pass of a separator over some seconds of noise at 8 kHz."""
    mix = torch.randn(batch, round(seconds * 8000), device=device)
    return lambda: separate(modules["encoder"], modules["masknet"], modules["decoder"], mix)
