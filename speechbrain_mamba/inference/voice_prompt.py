"""Prompts of a synthesizer: any recording or tensor, checked and brought to what a model takes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from speechbrain_mamba.dataio.recordings import read_recording
from speechbrain_mamba.dataio.resampling import resample
from speechbrain_mamba.dataio.waveforms import as_float, check_finite

_FRAME, _QUIET, _MARGIN, _PAUSE = 0.01, 1e-2, 0.05, 0.1
"""Seconds of a frame; how loud silence may be, relative to the loudest frame (-40 dB); seconds of silence that stay at
both ends; and the shortest pause in seconds."""
_CHANNELS = 64
"""More channels than this are samples: the axes of a tensor were swapped."""


@dataclass(frozen=True)
class VoicePrompt:
    """A prompt.

    Arguments
    ---------
    wav : Tensor
        Samples (samples,), float32 at the model's rate.
    name : str
        What messages call it.
    notices : list of str
        Sentences for the user.
    """

    wav: Tensor
    name: str
    notices: list[str] = field(default_factory=list)


def read_prompt(prompt: Any, sample_rate: int, prompt_rate: int | None = None) -> VoicePrompt:
    """Read a prompt.

    Arguments
    ---------
    prompt : path, binary stream, Tensor or numpy.ndarray
        A recording as :func:`~speechbrain_mamba.dataio.recordings.read_recording` takes it, or samples (samples,) or
        (channels, samples): floats with full scale 1, int16 or int32.
    sample_rate : int
        The rate of the model.
    prompt_rate : int, optional
        The rate of a tensor or array; that of the model by default.

    Returns
    -------
    VoicePrompt
        One channel at the rate of the model.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        For a file that cannot be read, samples that are not finite or of another type or shape, and silence.

    Example
    -------
    >>> read_prompt(torch.ones(2, 4410, dtype=torch.int16), 8000, 44100).wav.shape
    torch.Size([800])
    """
    if isinstance(prompt, (str, os.PathLike)) or hasattr(prompt, "read"):
        if prompt_rate is not None:
            raise ValueError("prompt_rate is for a prompt that is a tensor or an array: a recording says its own rate.")
        recording = read_recording(prompt, sample_rate)
        name, wav, notices = f"The prompt '{recording.name}'", recording.signal[0], list(recording.notices)
    else:
        name, notices = "The prompt", []
        wav = _mix(as_float(prompt, name).detach().cpu(), notices)
        check_finite(wav, name)
        rate = sample_rate if prompt_rate is None else prompt_rate
        if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
            raise ValueError(f"prompt_rate is {rate!r}, but must be a whole number of samples per second.")
        wav = wav if rate == sample_rate else resample(wav[None], rate, sample_rate)[0]
    if not wav.any():
        raise ValueError(f"{name} is silent: give some seconds of speech.")
    return VoicePrompt(wav, name, notices)


def _mix(samples: Tensor, notices: list[str]) -> Tensor:
    """One channel (samples,)."""
    shape = tuple(samples.shape)
    if samples.dim() not in (1, 2) or not samples.numel():
        raise ValueError(f"The prompt has shape {shape}, but must be (samples,) or (channels, samples), and not empty.")
    if samples.dim() == 1:
        return samples
    if shape[0] > _CHANNELS or shape[0] > shape[1]:
        raise ValueError(f"The prompt has shape {shape}, which are (samples, channels): swap both axes.")
    if shape[0] > 1:
        notices.append(f"The prompt has {shape[0]} channels, which were averaged.")
    return samples.mean(0)


def fit_prompt(prompt: VoicePrompt, sample_rate: int, least: int, most: int) -> VoicePrompt:
    """Make sure that a prompt is not too short, and not too long: silence at its ends is cut away, but no speech, since
    the text of the prompt has to stay the same.

    Arguments
    ---------
    prompt : VoicePrompt
        The prompt.
    sample_rate : int
        Its rate.
    least, most : int
        The samples that it may have.

    Raises
    ------
    ValueError
        When it does not fit.

    Example
    -------
    >>> prompt = VoicePrompt(torch.cat([torch.zeros(4000), torch.ones(8000), torch.zeros(4000)]), "The prompt")
    >>> fitted = fit_prompt(prompt, 8000, least=160, most=12000)
    >>> len(fitted.wav), fitted.notices
    (8800, ['The prompt has 2.00 s, of which 0.90 s of silence at its ends were cut away.'])
    """
    wav, name = prompt.wav, prompt.name
    if len(wav) < least:
        raise ValueError(
            f"{name} has {len(wav)} samples at {sample_rate} Hz, which is shorter than one frame of the codec, "
            f"{least}: give some seconds of speech."
        )
    if len(wav) <= most:
        return prompt
    first, last, pauses = _find_speech(wav, sample_rate)
    trimmed = wav[first:last]
    if len(trimmed) <= most:
        cut = (len(wav) - len(trimmed)) / sample_rate
        notice = (
            f"{name} has {len(wav) / sample_rate:.2f} s, of which {cut:.2f} s of silence at its ends were cut away."
        )
        return VoicePrompt(trimmed, name, [*prompt.notices, notice])
    places = [pause for pause in pauses if pause <= first + most]
    hint = f" It has a pause at {places[-1] / sample_rate:.2f} s, where it could end." if places else ""
    raise ValueError(
        f"{name} has {len(trimmed) / sample_rate:.2f} s of speech, but the model takes prompts of at most "
        f"{most / sample_rate:.2f} s: cut it, and give the text of what is left.{hint}"
    )


def set_level(prompt: VoicePrompt, level: float | None) -> VoicePrompt:
    """Bring a prompt to a root mean square, as far as its peaks stay below full scale; None leaves it as it is.

    Example
    -------
    >>> float(set_level(VoicePrompt(torch.tensor([0.1, -0.1]), "The prompt"), 0.5).wav[0])
    0.5
    """
    if level is None:
        return prompt
    wav = prompt.wav.double()
    gain = min(level / float(wav.square().mean().sqrt()), max(1.0, float(wav.abs().max())) / float(wav.abs().max()))
    return VoicePrompt((gain * wav).float(), prompt.name, prompt.notices)


def _find_speech(wav: Tensor, sample_rate: int) -> tuple[int, int, list[int]]:
    """Where speech begins and ends in a waveform, with a margin, and the middles of the pauses in it, in samples."""
    hop, margin = max(1, round(_FRAME * sample_rate)), round(_MARGIN * sample_rate)
    power = torch.nn.functional.avg_pool1d(wav.double().square()[None], hop, hop, ceil_mode=True)[0]
    loud = (power.sqrt() > _QUIET * power.max().sqrt()).nonzero()[:, 0]
    first, last = int(loud[0]), int(loud[-1]) + 1
    gaps = loud.diff()
    pauses = [
        (int(start) + int(gap) // 2) * hop
        for start, gap in zip(loud, gaps)
        if (int(gap) - 1) * hop >= _PAUSE * sample_rate
    ]
    return max(0, first * hop - margin), min(len(wav), last * hop + margin), pauses
