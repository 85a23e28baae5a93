"""Tiny runs of the five recipes, on corpora made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from speechbrain_mamba.codecs import EnCodec, save_codec
from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.manifests import write_manifest
from tests.conftest import HPARAMS
from tests.recipes.conftest import RATE, buzz
from tests.recipes.tts_spies import make_predictable_speech


@dataclass(frozen=True)
class TinyRun:
    """A command that trains, tests and exports in a second or two.

    Arguments
    ---------
    script : str
        ``TASK/train`` of the recipes.
    hparams : str
        The file of settings, ``TASK/NAME``.
    make_data : callable
        Writes the corpus to a folder; returns the settings that point to it.
    settings : dict
        What is replaced in the file. Everything random is on: what a resumed run draws must be what it had drawn.
    """

    script: str
    hparams: str
    make_data: Callable[[Path], dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)

    def arguments(self, output: Path, data: dict[str, Any]) -> list[str]:
        """The command line without the script's name."""
        flags = []
        for key, value in {"output_folder": output, **data, **self.settings}.items():
            flags += [f"--{key}", json.dumps(value) if isinstance(value, (list, dict, bool)) else str(value)]
        return [str(HPARAMS / f"{self.hparams}.yaml"), *flags, "--noprogressbar", "--device", "cpu"]


def make_mixture_data(folder: Path) -> dict[str, Any]:
    """Folders of three buzzing voices for training, validation and test."""
    for i, split in enumerate(("train", "valid", "test")):
        for j in range(3):
            for k in range(2):
                path = folder / split / f"{split}{j}" / f"{k}.wav"
                write_audio(path, buzz(80 + 25 * i + 60 * j, 0.6, seed=10 * j + k), RATE)
    return {"data_folder": folder}


def write_split(
    folder: Path, split: str, count: int, rate: int, seconds: Callable, text: Callable, voices="ab"
) -> None:
    """Write a manifest and its files of buzzing voices."""
    rows = []
    for i in range(count):
        path = folder / "wavs" / f"{split}{i}.wav"
        signal = buzz(100 + 70 * (i % len(voices)), seconds(i) * rate / RATE, seed=i)[: round(seconds(i) * rate)]
        write_audio(path, signal, rate)
        duration = len(signal) / rate
        rows.append({"ID": path.stem, "duration": duration, "wav": str(path), "wrd": text(i), "spk_id": voices[i % 2]})
    write_manifest(folder / f"{split}.csv", rows)


def make_recognition_data(folder: Path) -> dict[str, Any]:
    """Manifests of voices whose transcripts have three letters."""
    words = ["ABBA", "CAB", "AB CAB", "BAA", "ACA BA"]
    for split, count in {"train": 12, "valid": 3, "test": 3}.items():
        write_split(folder, split, count, 16000, lambda i: 0.6 + 0.1 * (i % 4), lambda i: words[i % len(words)])
    splits = {f"{split}_splits": [f"{split}.csv"] for split in ("train", "valid", "test")}
    return {"corpus": "manifest", "data_folder": folder, **splits, "output_neurons": 7}  # with SentencePiece's three


def make_voice_data(folder: Path) -> dict[str, Any]:
    """Manifests of two voices."""
    for split, count in {"train": 18, "valid": 6, "test": 6}.items():
        write_split(folder, split, count, RATE, lambda i: 0.4 + 0.05 * (i % 3), lambda i: "")
    return {"manifest_folder": folder}


def make_token_data(folder: Path) -> dict[str, Any]:
    """Tokens that follow from the text, and a codec to listen to them."""
    torch.manual_seed(0)
    sizes = {"n_codebooks": 3, "codebook_size": 16, "dimension": 4, "n_filters": 2, "lstm": 1}
    save_codec(EnCodec(8000, (8, 5, 4), **sizes), folder / "codec")
    return {"token_folder": make_predictable_speech(folder / "tokens"), "codec": folder / "codec"}


SHORT = {"number_of_epochs": 3, "n_warmup_steps": 2, "ckpt_interval_steps": 1, "num_workers": 0, "precision": "fp32"}
"""Checkpoints after each step: a resumed run does not begin its epoch again."""

TINY_RUNS = {
    "separation": TinyRun(
        "separation/train", "separation/mambatasnet_XS", make_mixture_data,
        SHORT | {
            "corpus": "folder", "N_encoder_out": 8, "out_channels": 8, "n_mamba": 1, "mamba_config": {"d_state": 2},
            "mixtures_per_epoch": 9, "valid_mixtures": 2, "test_mixtures": 3, "mixture_seconds": [0.2, 0.3],
            "batch_size": 2, "grad_accumulation_factor": 2, "lr": 0.01, "n_examples": 1,
        },
    ),
    "sepformer": TinyRun(  # on fixed mixtures, with a schedule that goes by the loss of the validation
        "separation/train", "separation/sepformer", make_mixture_data,
        {key: value for key, value in SHORT.items() if key != "n_warmup_steps"} | {
            "corpus": "folder", "N_encoder_out": 8, "out_channels": 8, "n_dp": 1, "chunk_size": 20, "n_transformer": 1,
            "nhead": 2, "d_ffn": 8, "train_mixtures": 6, "valid_mixtures": 2, "test_mixtures": 3,
            "mixture_seconds": [0.2, 0.3], "batch_size": 2, "lr": 0.1, "n_examples": 1, "dropout": 0.1,
            "limit_training_signal_len": True, "training_signal_len": 1700,
            "lr_scheduler": {"patience": 0, "dont_halve_until_epoch": 1},
        },
    ),
    "asr": TinyRun(
        "asr/train", "asr/mini_conmamba_ctc", make_recognition_data,
        SHORT | {
            "d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1, "avg_checkpoints": 2, "num_buckets": 2,
            "max_batch_length_train": 2, "dropout": 0.1, "test_search": {"beam_size": 3},
        },
    ),
    "tts": TinyRun(
        "tts/train", "tts/mini_vallm", make_token_data,
        SHORT | {
            "n_phonemes": 12, "n_codebooks": 3, "codebook_size": 16, "num_layers": 1, "d_model": 16, "d_ffn": 16,
            "nhead": 2, "attention_interval": 1, "dropout": 0.1, "num_buckets": 2, "max_batch_frames": 90, "lr": 0.01,
            "n_test_utterances": 3, "test_batch_size": 2, "max_seconds": 0.4, "epochs_alone": 1, "nar_interval": 2,
            "first_seconds": 0.2, "curriculum_epochs": 2, "prompt_seconds": 0.2, "n_examples": 1,
        },
    ),
    "codec": TinyRun(
        "codec/train", "codec/mini_codec", make_voice_data,
        SHORT | {
            "ratios": [4, 4, 4], "n_codebooks": 2, "codebook_size": 8, "dimension": 4, "n_filters": 2, "batch_size": 5,
            "crop_seconds": 0.3, "min_seconds": 0.3, "n_examples": 1, "adversarial": True,
        },
    ),
    "speaker": TinyRun(
        "speaker/train", "speaker/mini_speaker", make_voice_data,
        SHORT | {"batch_size": 5, "crop_seconds": 0.3, "n_speakers": 3, "emb_dim": 8, "lr": 0.003},
    ),
}  # fmt: skip
"""The runs by name: a recipe's, or that of a model that is trained in another way."""
