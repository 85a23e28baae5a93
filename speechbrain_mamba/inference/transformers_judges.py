"""Models of the package transformers, and TorchScript programs, as judges of synthetic speech."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from speechbrain_mamba.dataio.resampling import resample
from speechbrain_mamba.utils.pretrained import fetch_pretrained

SAMPLE_RATE = 16000
"""Hz, of what these models hear."""
PROGRAM_SUFFIXES = (".jit", ".pt", ".ts")
"""Ends of the names of TorchScript files."""


def _transformers(what: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"{what} is a model of the package transformers, which is not installed: "
            'pip install "speechbrain_mamba[judges]".'
        ) from error
    return transformers


def _load(kind: str, source: str, device: str) -> tuple[Any, Callable[[Tensor, int], Tensor]]:
    """A model, and what makes its input (1, samples) of a waveform and its rate. No code of the model is run, and its
    weights must be in the format safetensors, which cannot carry any."""
    transformers = _transformers(f"'{source}'")
    try:
        model = getattr(transformers, kind).from_pretrained(source, use_safetensors=True, trust_remote_code=False)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"'{source}' is not a model that {kind} of transformers loads from safetensors: "
            f"{str(error).splitlines()[0]}"
        ) from error
    model = model.to(device).eval()

    def prepare(wav: Tensor, sample_rate: int) -> Tensor:
        heard = resample(wav.float(), sample_rate, extractor.sampling_rate)
        values = extractor(heard.numpy(), sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return values["input_values"].to(device)

    return model, prepare


def load_xvector_encoder(source: str, device: str = "cpu") -> Callable[[Tensor, int], Tensor]:
    """Load an x-vector model of the package transformers, such as ``microsoft/wavlm-base-plus-sv``: a function from a
    waveform (samples,) and its rate in Hz to an embedding (channels,) of length 1.

    The cosine of two embeddings, of the speech and of its original prompt, is a similarity like SIM-o (Wang et al.,
    arXiv 2301.02111), which is of a larger WavLM: compare values of one model only.

    Raises
    ------
    ValueError
        When the source is not such a model.
    ImportError
        When transformers is not installed.
    """
    model, prepare = _load("AutoModelForAudioXVector", source, device)

    @torch.no_grad()
    def embed(wav: Tensor, sample_rate: int) -> Tensor:
        return normalize(model(prepare(wav, sample_rate)).embeddings[0].float(), dim=-1).cpu()

    return embed


def load_opinion_judge(source: str, device: str = "cpu", trusted: bool = False) -> Callable[[Tensor, int], float]:
    """Load a predictor of mean opinion scores: a function from a waveform (samples,) and its rate in Hz to a score.

    Arguments
    ---------
    source : str
        The Hub id or folder of an audio classifier of the package transformers with one output, the score; or a
        TorchScript program such as an exported UTMOS: a file, or ``HUB_ID:FILE``. It takes waveforms (1, samples) at 16
        kHz and returns the score.
    device : str
        Where it computes.
    trusted : bool
        Whether a TorchScript program may be run.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such model, it has other outputs, or it is a program that is not trusted.
    ImportError
        When transformers is needed and not installed.
    """
    source = str(source)  # a folder may be a path
    if source.endswith(PROGRAM_SUFFIXES):
        return _load_program(source, device, trusted)
    model, prepare = _load("AutoModelForAudioClassification", source, device)
    if model.config.num_labels != 1:
        raise ValueError(
            f"'{source}' has {model.config.num_labels} outputs, but a predictor of opinion scores has one."
        )

    @torch.no_grad()
    def rate(wav: Tensor, sample_rate: int) -> float:
        return float(model(prepare(wav, sample_rate)).logits[0, 0])

    return rate


def _load_program(source: str, device: str, trusted: bool) -> Callable[[Tensor, int], float]:
    if not trusted:
        raise ValueError(
            f"'{source}' is a TorchScript program, which may do anything that your account may: if you trust whoever "
            "made it, say so by --trust_judge; or give a model of the package transformers."
        )
    path, (hub_id, colon, name) = Path(source), source.rpartition(":")
    if not path.is_file():
        if not (colon and "/" in hub_id):
            raise FileNotFoundError(f"There is no file '{source}': give one, or HUB_ID:FILE.")
        path = Path(fetch_pretrained(hub_id, name))
    try:
        program = torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"'{path}' is not a TorchScript program: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def rate(wav: Tensor, sample_rate: int) -> float:
        found = program(resample(wav.float(), sample_rate, SAMPLE_RATE)[None].to(device))
        if not isinstance(found, Tensor) or found.numel() != 1:
            raise ValueError(f"'{path}' returned no single score: it is not a predictor of opinion scores.")
        return float(found)

    return rate
