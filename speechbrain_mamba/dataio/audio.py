"""Reading and writing of mono speech files, with errors that name the file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import soundfile
import torch
from torch import Tensor

from speechbrain_mamba.dataio.audio_headers import missing_bytes
from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.terminal import printable

MAX_PEAK = 100.0
"""The largest absolute sample that is accepted, 40 dB above full scale, which is 1. Only files of floats can have more:
those in the scale of integers (32768 for 16 bits), and damaged ones."""

_BLOCK = 2**24  # samples that are read at a time, so that a header that lies costs no memory
_NO_LENGTH = 2**62  # samples, in files whose header does not say how many


class UnreadableAudioError(ValueError):
    """A file without usable audio: corrupt, empty, cut short, or with samples that are not finite or absurdly large.

    A preparation leaves such a file out and counts it by its reason; all other faults of a file are errors.

    Arguments
    ---------
    message : str
        A sentence that names the file.
    reason : str
        The fault in a few words.
    """

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


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


def open_descriptor(path: str | os.PathLike, name: str | None = None) -> int:
    """Open an audio file that is there and not empty, and not shorter than its header promises.

    Arguments
    ---------
    path : str or Path
        The file.
    name : str, optional
        What messages call it.

    Returns
    -------
    int
        A descriptor to read from, at the beginning of the file. The caller closes it.

    Raises
    ------
    FileNotFoundError, UnreadableAudioError
        As in :func:`audio_info`.
    """
    name = printable(path) if name is None else name
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise UnreadableAudioError(f"'{name}' is not a file: give an audio file.", "not a file")
        if os.path.islink(path):
            raise FileNotFoundError(
                f"The audio file '{name}' is a link to '{os.readlink(os.fspath(path))}', which does not exist."
            )
        raise FileNotFoundError(f"The audio file '{name}' does not exist.")
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except PermissionError as error:
        raise UnreadableAudioError(f"The audio file '{name}' must not be read by you.", "no permission") from error
    except OSError as error:
        raise UnreadableAudioError(f"The audio file '{name}' cannot be opened ({error.strerror}).") from error
    try:
        missing, size = missing_bytes(descriptor), os.fstat(descriptor).st_size
        if not size:
            raise UnreadableAudioError(f"The audio file '{name}' is empty: remove it or replace it.", "empty file")
        if missing:
            raise UnreadableAudioError(
                f"The audio file '{name}' is cut short: its header promises {missing} more bytes; replace it.",
                "cut short",
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(path: str | os.PathLike) -> soundfile.SoundFile:
    return sound_file(open_descriptor(path), path)


def sound_file(descriptor: int, path: str | os.PathLike, kind: type = soundfile.SoundFile) -> soundfile.SoundFile:
    """Let libsndfile read an open file, which it closes, also when it fails.

    Arguments
    ---------
    descriptor : int
        The file.
    path : str or Path
        Its name, for messages.
    kind : type
        ``soundfile.SoundFile`` or a subclass.

    Raises
    ------
    UnreadableAudioError
        When it is not of a format that libsndfile knows.
    """
    name = printable(path)
    try:
        return kind(descriptor)
    except (soundfile.SoundFileError, OSError) as error:
        text = getattr(error, "error_string", error)
        raise UnreadableAudioError(
            f"The audio file '{name}' cannot be read ({text}): replace it by a WAV or FLAC file.",
            "not audio",
        ) from error


def _checked_info(path: str | os.PathLike, file: soundfile.SoundFile, sample_rate: int | None) -> AudioInfo:
    name = printable(path)
    info = AudioInfo(file.samplerate, file.frames, file.channels)
    if info.samples <= 0:
        raise UnreadableAudioError(f"The audio file '{name}' has no samples: remove it or replace it.", "no samples")
    if info.samples >= _NO_LENGTH:
        raise UnreadableAudioError(
            f"The header of the audio file '{name}' does not say its length: convert it again, not through a pipe.",
            "unknown length",
        )
    if info.channels != 1:
        raise ValueError(f"The audio file '{name}' has {info.channels} channels, but must be mono: convert it first.")
    if sample_rate is not None and info.sample_rate != sample_rate:
        raise ValueError(
            f"The audio file '{name}' has a sample rate of {info.sample_rate} Hz, but {sample_rate} Hz are wanted: "
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
        A ValueError, when the file cannot be read, is empty, or is shorter than its header says.
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
        When samples are missing, NaN, infinite or larger than ``MAX_PEAK``; other errors are those of
        :func:`audio_info`.
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
                f"The audio file '{printable(path)}' has {info.samples} samples: it has no part of {frames} samples "
                f"from {start}."
            )
        return _read(path, file, start, info.samples - start if frames == -1 else frames)


def check_audio(path: str | os.PathLike, sample_rate: int | None = None, whole: bool = False) -> AudioInfo:
    """Check a mono audio file: read it completely, or as much as tells most faults.

    That is its header, its size and its last sample. Files of floats are always read completely, since only they can
    hold samples that are NaN, infinite or absurdly large.

    Arguments
    ---------
    path, sample_rate
        As in :func:`audio_info`, whose results are returned. The errors are those of :func:`read_audio`.
    whole : bool
        Whether to read files completely that are not of floats.

    Example
    -------
    >>> path = getfixture("tmp_path") / "cut.wav"
    >>> write_audio(path, torch.zeros(800), sample_rate=8000)
    >>> check_audio(path, sample_rate=8000).samples
    800
    >>> _ = path.write_bytes(path.read_bytes()[:1000])
    >>> check_audio(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    speechbrain_mamba.dataio.audio.UnreadableAudioError: ... is cut short: its header promises 644 more bytes; ...
    """
    with _open(path) as file:
        info = _checked_info(path, file, sample_rate)
        whole = whole or file.subtype in ("FLOAT", "DOUBLE") or not file.seekable()
        start = 0 if whole else info.samples - 1
        _read(path, file, start, info.samples - start)
    return info


def _read(path: str | os.PathLike, file: soundfile.SoundFile, start: int, frames: int) -> Tensor:
    """Read some samples, which must be there, finite, and of a sensible size."""
    name = printable(path)
    blocks, left = [], frames
    try:
        if start:
            file.seek(start)
        while left:
            blocks.append(torch.from_numpy(file.read(min(left, _BLOCK), dtype="float32")))
            left -= len(blocks[-1])
            if not len(blocks[-1]):  # libsndfile returns fewer samples than promised if the stream is truncated
                raise UnreadableAudioError(
                    f"The audio file '{name}' is cut short: it lacks {left} of {frames} samples; replace it.",
                    "cut short",
                )
    except (soundfile.SoundFileError, OSError) as error:
        text = getattr(error, "error_string", error)
        raise UnreadableAudioError(f"The audio file '{name}' is corrupt ({text}): replace it.", "corrupt") from error
    signal = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
    check_samples(signal, path)
    return signal


def check_samples(signal: Tensor, path: str | os.PathLike) -> None:
    """Check that samples, at least one, are finite and at most ``MAX_PEAK``.

    Raises
    ------
    UnreadableAudioError
        When they are not. It names the file ``path``.
    """
    name = printable(path)
    low, high = map(float, signal.aminmax())
    peak = max(-low, high)
    if not math.isfinite(low + high):  # either is NaN if a sample is
        raise UnreadableAudioError(
            f"The audio file '{name}' holds NaN or infinite samples: replace it.", "NaN or infinite"
        )
    if peak > MAX_PEAK:
        raise UnreadableAudioError(
            f"The audio file '{name}' holds samples of {peak:.3g}, but full scale is 1 and at most {MAX_PEAK:g} is "
            "accepted: divide floats in the scale of integers by their full scale (32768 for 16 bits), or replace it.",
            "absurd level",
        )


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
        raise ValueError(f"write_audio: the signal for '{printable(path)}' holds NaN or infinite samples.")
    with atomic_path(path, durable=False) as temporary:
        soundfile.write(temporary, signal.detach().cpu().numpy(), sample_rate, subtype=subtype)
