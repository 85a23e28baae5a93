"""Recognizers, speaker encoders and predictors of opinion scores as judges of synthetic speech."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from speechbrain.inference import ASR
from speechbrain.inference.classifiers import EncoderClassifier
from torch import Tensor

from speechbrain_mamba.inference.judge_programs import is_program, load_program
from speechbrain_mamba.inference.pretrained import open_model
from speechbrain_mamba.inference.sim_o import SIM_O, load_sim_o
from speechbrain_mamba.inference.transformers_judges import load_opinion_judge, load_xvector_encoder

XVECTOR = "transformers:"
"""Before the Hub id or folder of a speaker encoder that is one of the package transformers."""


def load_recognizer(
    source: str, device: str = "cpu", savedir: str | None = None, sources: Iterable[str] = ()
) -> Callable[[Tensor, int], str]:
    """Load a recognizer: a function from a waveform (samples,) and its rate in Hz to the words.

    Arguments
    ---------
    source : str
        The Hub id of a SpeechBrain recognizer of any kind, or its folder, such as ``inference`` in the output folder of
        ``recipes/asr/train.py`` with CTC.
    device : str
        Where it computes.
    savedir : str, optional
        A folder that gets links to the files.
    sources : iterable of str
        Other models on the Hub that this one may download, such as ``openai/whisper-tiny``.

    Raises
    ------
    FileNotFoundError
        When there is no such recognizer.
    ValueError
        When it is not a recognizer, its weights do not fit, or its file asks for more than a model needs.
    """
    opened = open_model(source, savedir=savedir, sources=sources)
    kind = ASR.EncoderDecoderASR
    if "decoding_function" in opened.plan:
        kind = ASR.EncoderASR
    elif "whisper" in opened.modules:
        kind = ASR.WhisperASR
    recognizer = opened.load(kind, {"device": device})

    def recognize(wav: Tensor, sample_rate: int) -> str:
        heard = recognizer.audio_normalizer(wav, sample_rate)
        words = recognizer.transcribe_batch(heard[None].to(device), heard.new_ones(1))[0][0]
        return words if isinstance(words, str) else " ".join(words)

    return recognize


def load_speaker_encoder(
    source: str,
    device: str = "cpu",
    savedir: str | None = None,
    sources: Iterable[str] = (),
    trusted: bool = False,
) -> Callable[[Tensor, int], Tensor]:
    """Load a speaker encoder: a function from a waveform (samples,) and its rate in Hz to an embedding (channels,).

    Arguments
    ---------
    source : str
        The Hub id of a SpeechBrain speaker encoder, or its folder, such as ``inference`` in the output folder of
        ``recipes/speaker/train.py``; or, behind ``transformers:``, that of an x-vector model of the package
        transformers, such as ``transformers:microsoft/wavlm-base-plus-sv``; or a TorchScript program, a file or
        ``HUB_ID:FILE``; or ``sim-o``: see :func:`~speechbrain_mamba.inference.sim_o.load_sim_o`.
    device, savedir, sources
        As in :func:`load_recognizer`, which raises the same errors.
    trusted : bool
        Whether a program may be run: see :func:`~speechbrain_mamba.inference.judge_programs.load_program`.
    """
    if str(source).partition(":")[0] == SIM_O:
        return load_sim_o(str(source), device)
    if is_program(str(source)):
        return _program_encoder(str(source), device, trusted)
    if str(source).startswith(XVECTOR):  # a folder may be a path
        return load_xvector_encoder(str(source).removeprefix(XVECTOR), device)
    encoder = open_model(source, savedir=savedir, sources=sources).load(EncoderClassifier, {"device": device})

    def embed(wav: Tensor, sample_rate: int) -> Tensor:
        return encoder.encode_batch(encoder.audio_normalizer(wav, sample_rate))[0, 0].cpu()

    return embed


def _program_encoder(source: str, device: str, trusted: bool) -> Callable[[Tensor, int], Tensor]:
    program = load_program(source, device, trusted)

    def embed(wav: Tensor, sample_rate: int) -> Tensor:
        found = program(wav, sample_rate)
        if not isinstance(found, Tensor) or found.numel() < 2 or found.numel() != found.shape[-1]:
            raise ValueError(f"'{source}' returned no single embedding: it is not a speaker encoder.")
        return found.flatten().float().cpu()

    return embed


def load_judges(
    recognizer: str | None,
    speaker_encoder: str | None,
    device: str = "cpu",
    sources: Iterable[str] = (),
    naturalness: str | None = None,
    trusted: bool = False,
    naturalness_samples: str | None = None,
) -> dict[str, Any]:
    """Load the judges that are named: ``recognize``, ``embed`` and ``rate_naturalness``, arguments of
    :func:`~speechbrain_mamba.evaluation.synthesis_report.judge_speech`.

    ``sources`` are other models on the Hub that the first two may download; ``naturalness``, ``trusted``, which holds
    for programs of both kinds, and ``naturalness_samples`` are arguments of
    :func:`~speechbrain_mamba.inference.transformers_judges.load_opinion_judge`.
    """
    judges: dict[str, Any] = {}
    if recognizer is not None:
        judges["recognize"] = load_recognizer(recognizer, device, sources=sources)
    if speaker_encoder is not None:
        judges["embed"] = load_speaker_encoder(speaker_encoder, device, sources=sources, trusted=trusted)
    if naturalness is not None:
        judges["rate_naturalness"] = load_opinion_judge(naturalness, device, trusted, naturalness_samples)
    return judges
