"""SpeechBrain's recognizers and speaker encoders as judges of synthetic speech."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML
from speechbrain.inference import ASR
from speechbrain.inference.classifiers import EncoderClassifier
from torch import Tensor

from speechbrain_mamba.utils.pretrained import fetch_pretrained


def load_recognizer(source: str, device: str = "cpu", savedir: str | None = None) -> Callable[[Tensor, int], str]:
    """Load a recognizer.

    Arguments
    ---------
    source : str
        The Hub id of a SpeechBrain recognizer of any kind, or its folder, such as ``inference`` in the output folder of
        ``recipes/asr/train.py`` with CTC.
    device : str
        Where it computes.
    savedir : str, optional
        Where files from the Hub are kept.

    Returns
    -------
    callable
        From a waveform (samples,) and its rate in Hz to the words.

    Raises
    ------
    FileNotFoundError
        When there is no such recognizer.
    """
    tree = YAML().load(fetch_pretrained(source, "hyperparams.yaml", savedir).read_text(encoding="utf-8"))
    kind = "EncoderDecoderASR"
    if "decoding_function" in tree:
        kind = "EncoderASR"
    elif "whisper" in tree.get("modules", {}):
        kind = "WhisperASR"
    recognizer = getattr(ASR, kind).from_hparams(str(source), savedir=savedir, run_opts={"device": device})

    def recognize(wav: Tensor, sample_rate: int) -> str:
        heard = recognizer.audio_normalizer(wav, sample_rate)
        words = recognizer.transcribe_batch(heard[None].to(device), heard.new_ones(1))[0][0]
        return words if isinstance(words, str) else " ".join(words)

    return recognize


def load_speaker_encoder(
    source: str, device: str = "cpu", savedir: str | None = None
) -> Callable[[Tensor, int], Tensor]:
    """Load a speaker encoder.

    Arguments
    ---------
    source : str
        The Hub id of a SpeechBrain speaker encoder, or its folder, such as ``inference`` in the output folder of
        ``recipes/speaker/train.py``.
    device, savedir
        As in :func:`load_recognizer`.

    Returns
    -------
    callable
        From a waveform (samples,) and its rate in Hz to an embedding (channels,).

    Raises
    ------
    FileNotFoundError
        When there is no such encoder.
    """
    fetch_pretrained(source, "hyperparams.yaml", savedir)
    encoder = EncoderClassifier.from_hparams(str(source), savedir=savedir, run_opts={"device": device})

    def embed(wav: Tensor, sample_rate: int) -> Tensor:
        return encoder.encode_batch(encoder.audio_normalizer(wav, sample_rate))[0, 0].cpu()

    return embed


def load_judges(recognizer: str | None, speaker_encoder: str | None, device: str = "cpu") -> dict[str, Any]:
    """Load the judges that are named.

    Returns
    -------
    dict
        ``recognize`` and ``embed``, if they are named: arguments of
        :func:`~speechbrain_mamba.evaluation.synthesis_report.judge_speech`.
    """
    judges: dict[str, Any] = {}
    if recognizer is not None:
        judges["recognize"] = load_recognizer(recognizer, device)
    if speaker_encoder is not None:
        judges["embed"] = load_speaker_encoder(speaker_encoder, device)
    return judges
