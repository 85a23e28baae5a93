"""Reading and writing of mono speech files, with errors that name the file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from speechbrain_mamba.utils.files import atomic_path


class UnreadableAudioError(ValueError):
    """A file without usable audio: corrupt, empty, or with samples that are not finite.

    A preparation names such a file in a warning and leaves it out; all other faults of a file are errors.
    """


@dataclass(frozen=True)
class AudioInfo:
    """The facts in the header of an audio file: samples per second, samples per channel, and channels.

    Example
    -------
    >>> AudioInfo(sample_rate=8000, samples=4000, channels=1).seconds
    0.5
    """

    sample_rate: int
    samples: int
    channels: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.samples / self.sample_rate


def _open(path: str | os.PathLike) -> soundfile.SoundFile:
    if not Path(path).is_file():
        raise FileNotFoundError(f"The audio file '{path}' does not exist.")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise UnreadableAudioError(
            f"The audio file '{path}' cannot be read ({error}): replace it by a WAV or FLAC file."
        ) from error


def _checked_info(path: str | os.PathLike, file: soundfile.SoundFile, sample_rate: int | None) -> AudioInfo:
    info = AudioInfo(file.samplerate, file.frames, file.channels)
    if info.samples <= 0:
        raise UnreadableAudioError(f"The audio file '{path}' is empty: remove it or replace it.")
    if info.channels != 1:
        raise ValueError(f"The audio file '{path}' has {info.channels} channels, but must be mono: convert it first.")
    if sample_rate is not None and info.sample_rate != sample_rate:
        raise ValueError(
            f"The audio file '{path}' has a sample rate of {info.sample_rate} Hz, but {sample_rate} Hz are wanted: "
            "resample it, or change sample_rate."
        )
    return info


def audio_info(path: str | os.PathLike, sample_rate: int | None = None) -> AudioInfo:
    """Read the header of a mono audio file.

    Arguments
    ---------
    path : str or Path
        A file that libsndfile reads: WAV, FLAC, ...
    sample_rate : int, optional
        The rate in Hz that the file must have; any by default.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    UnreadableAudioError
        A ValueError, when the file cannot be read or is empty.
    ValueError
        When the file is not mono, or has another sample rate.

    Example
    -------
    >>> path = getfixture("tmp_path") / "silence.wav"
    >>> write_audio(path, torch.zeros(800), sample_rate=8000)
    >>> audio_info(path)
    AudioInfo(sample_rate=8000, samples=800, channels=1)
    """
    with _open(path) as file:
        return _checked_info(path, file, sample_rate)


def read_audio(path: str | os.PathLike, sample_rate: int | None = None, start: int = 0, frames: int = -1) -> Tensor:
    """Read a mono audio file, or a part of it.

    Arguments
    ---------
    path, sample_rate
        As in :func:`audio_info`.
    start : int
        The first sample to read.
    frames : int
        Number of samples to read; -1 reads to the end.

    Returns
    -------
    Tensor
        Samples, float32 (samples,); full scale is 1.

    Raises
    ------
    UnreadableAudioError
        When samples are missing, NaN or infinite; other errors are those of :func:`audio_info`.
    ValueError
        When the part lies outside of the file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "ramp.wav"
    >>> write_audio(path, torch.tensor([0.0, 0.25, 0.5, 0.75]), sample_rate=8000)
    >>> read_audio(path, sample_rate=8000, start=1, frames=2)
    tensor([0.2500, 0.5000])
    """
    with _open(path) as file:
        info = _checked_info(path, file, sample_rate)
        if not 0 <= start < info.samples or frames < -1 or frames == 0 or start + frames > info.samples:
            raise ValueError(
                f"The audio file '{path}' has {info.samples} samples: it has no part of {frames} samples from {start}."
            )
        try:
            file.seek(start)
            signal = torch.from_numpy(file.read(frames, dtype="float32"))
        except (soundfile.SoundFileError, OSError) as error:
            raise UnreadableAudioError(f"The audio file '{path}' is corrupt ({error}): replace it.") from error
    # libsndfile returns fewer samples than the header promises if the stream is truncated.
    if len(signal) != (info.samples - start if frames == -1 else frames):
        raise UnreadableAudioError(f"The audio file '{path}' is cut short: replace it.")
    if not torch.isfinite(signal).all():
        raise UnreadableAudioError(f"The audio file '{path}' holds NaN or infinite samples: replace it.")
    return signal


def write_audio(path: str | os.PathLike, signal: Tensor, sample_rate: int, subtype: str = "PCM_16") -> None:
    """Write a mono audio file, atomically.

    Arguments
    ---------
    path : str or Path
        The file, whose suffix determines the format; missing parent folders are made.
    signal : Tensor
        Samples (samples,): floats with full scale 1, or int16 as they are.
    sample_rate : int
        Samples per second.
    subtype : str
        The format of the samples, as libsndfile calls it: ``PCM_16`` (clips full-scale peaks), ``FLOAT``, ...

    Raises
    ------
    ValueError
        When the signal has more than one axis, or a sample is not finite.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.flac"
    >>> write_audio(path, torch.sin(torch.arange(80.0)), sample_rate=8000)
    >>> audio_info(path).samples
    80
    """
    if signal.dim() != 1:
        raise ValueError(f"write_audio: signal has shape {tuple(signal.shape)}, but must be (samples,).")
    if signal.is_floating_point() and not torch.isfinite(signal).all():
        raise ValueError(f"write_audio: the signal for '{path}' holds NaN or infinite samples.")
    with atomic_path(path, durable=False) as temporary:
        soundfile.write(temporary, signal.detach().cpu().numpy(), sample_rate, subtype=subtype)
