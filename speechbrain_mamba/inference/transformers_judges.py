"""Models of the package transformers as judges of synthetic speech."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from speechbrain_mamba.dataio.resampling import resample
from speechbrain_mamba.inference.judge_programs import is_program, load_program


def import_transformers(what: str) -> Any:
    """The package transformers; an ImportError names what needs it, and the extra that brings it."""
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
    weights must be in the format safetensors, which cannot carry any: behind ``@`` stands the revision that has them,
    where it is not the main one."""
    transformers = import_transformers(f"'{source}'")
    name, _, revision = (source, "", "") if Path(source).is_dir() else source.partition("@")
    options = {"revision": revision or "main", "trust_remote_code": False}
    try:
        model = getattr(transformers, kind).from_pretrained(name, use_safetensors=True, **options)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(name, **options)
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
    """Load an x-vector model of the package transformers, such as ``microsoft/wavlm-base-plus-sv``, perhaps with the
    revision that has its weights as safetensors, ``microsoft/wavlm-base-sv@refs/pr/2``: a function from a waveform
    (samples,) and its rate in Hz to an embedding (channels,) of length 1.

    The cosine of two embeddings, of the speech and of its original prompt, is a similarity like SIM-o, which is of a
    larger WavLM (:mod:`speechbrain_mamba.inference.sim_o`): compare values of one model only.

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


def load_opinion_judge(
    source: str, device: str = "cpu", trusted: bool = False, samples: str | None = None
) -> Callable[[Tensor, int], float]:
    """Load a predictor of mean opinion scores: a function from a waveform (samples,) and its rate in Hz to a score.

    Arguments
    ---------
    source : str
        The Hub id or folder of an audio classifier of the package transformers with one output, the score; or a
        TorchScript program: a file, or ``HUB_ID:FILE`` such as ``balacoon/utmos:utmos.jit``, the UTMOS of the field.
    device : str
        Where it computes.
    trusted, samples
        Of a program: see :func:`~speechbrain_mamba.inference.judge_programs.load_program`.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such model, it has other outputs, or it is a program that is not trusted.
    ImportError
        When transformers is needed and not installed.
    """
    source = str(source)  # a folder may be a path
    if is_program(source):
        program = load_program(source, device, trusted, samples)

        def run(wav: Tensor, sample_rate: int) -> float:
            found = program(wav, sample_rate)
            if not isinstance(found, Tensor) or found.numel() != 1:
                raise ValueError(f"'{source}' returned no single score: it is not a predictor of opinion scores.")
            return float(found)

        return run
    model, prepare = _load("AutoModelForAudioClassification", source, device)
    if model.config.num_labels != 1:
        raise ValueError(
            f"'{source}' has {model.config.num_labels} outputs, but a predictor of opinion scores has one."
        )

    @torch.no_grad()
    def rate(wav: Tensor, sample_rate: int) -> float:
        return float(model(prepare(wav, sample_rate)).logits[0, 0])

    return rate
