"""Any recording: every container, rate and number of channels, whole or in blocks, with errors that name the file."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import soundfile
import torch
from torch import Tensor

from speechbrain_mamba.dataio.audio import UnreadableAudioError, check_samples, open_descriptor, sound_file
from speechbrain_mamba.dataio.audio_headers import is_unfinished_wave
from speechbrain_mamba.dataio.containers import container_format, open_container
from speechbrain_mamba.dataio.resampling import StreamingResampler
from speechbrain_mamba.dataio.wave_streams import Decoder, NotPlainWaveError, WaveStream
from speechbrain_mamba.utils.terminal import printable

Source = str | os.PathLike | BinaryIO
"""A path, ``-`` for standard input, or an open binary stream."""

STDIN = "-"
CHANNELS = ("mix", "each")
MIN_RATE, MAX_RATE = 1000, 1_000_000
"""Sample rates in Hz of recordings: below, nothing of speech is left; above, nothing records."""

_VALUES = 2**18
"""Samples of all channels that are decoded at a time."""
_NO_LENGTH = 2**62
_CANCELED = 1e-3  # -30 dB


@dataclass(frozen=True)
class SourceFormat:
    """What a recording is like in its file: samples per second and channel, channels, frames (None if not known yet),
    and the format of the samples, as libsndfile calls it."""

    sample_rate: int
    channels: int
    frames: int | None
    subtype: str


@dataclass(frozen=True)
class Recording:
    """A recording in memory.

    Arguments
    ---------
    signal : Tensor
        Samples, float32 (channels, samples); full scale is 1.
    sample_rate : int
        Samples of ``signal`` per second.
    name : str
        The name of the source, for messages.
    source : SourceFormat
        What it is like in its file.
    notices : list of str
        What a user must know: that channels were mixed, for instance.
    """

    signal: Tensor
    sample_rate: int
    name: str
    source: SourceFormat
    notices: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.signal.shape[1] / self.sample_rate


class RecordingReader:
    """Read a recording in blocks, at the sample rate of a model: made by :func:`open_recording`.

    The memory that it takes depends on neither the length nor the rates. It is a context manager, which closes the
    source.

    Attributes
    ----------
    name : str
        The name of the source, for messages.
    sample_rate, channels : int
        Those of the blocks.
    notices : list of str
        What a user must know, complete when everything was read.
    """

    def __init__(
        self,
        decoder: Decoder,
        name: str,
        sample_rate: int | None,
        channels: str,
        seconds: tuple[float, float],
        closing: contextlib.ExitStack,
    ) -> None:
        self._decoder, self._closing = decoder, closing
        self.name = name
        self.sample_rate = decoder.sample_rate if sample_rate is None else sample_rate
        self._mixed = channels == "mix" and decoder.channels > 1
        self.channels = 1 if channels == "mix" else decoder.channels
        self._seconds = seconds
        self._frames = decoder.frames
        self._heard = 0  # frames of the file
        self._ended = False
        self._resampler = StreamingResampler(decoder.sample_rate, self.sample_rate)
        self._blocks: list[Tensor] = []  # samples that were not asked for yet
        self._energy = [0.0, 0.0]  # of the mixed signal, and of the channels
        self._notices: list[str] = []
        if self._mixed:
            self._notices.append(f"'{name}' has {decoder.channels} channels, which are mixed to one (their average).")
        self._check_length(self._frames)

    @property
    def source(self) -> SourceFormat:
        """What the recording is like in its file."""
        return SourceFormat(
            self._decoder.sample_rate, self._decoder.channels, self._frames, subtype=self._decoder.subtype
        )

    @property
    def samples(self) -> int | None:
        """Samples that come in all; None until the end of a source that does not say its length."""
        if self._frames is None:
            return None
        return -(-self._frames * self.sample_rate // self._decoder.sample_rate)

    @property
    def notices(self) -> list[str]:
        """What a user must know."""
        return [*self._notices, *self._decoder.notices]

    def _check_length(self, frames: int | None, ended: bool = True) -> None:
        if frames is None:
            return
        if ended and not frames:
            raise UnreadableAudioError(f"The audio file '{self.name}' has no samples: remove it.", "no samples")
        seconds = frames / self._decoder.sample_rate
        least, most = self._seconds
        if seconds < least and ended:
            raise UnreadableAudioError(
                f"The audio file '{self.name}' is too short: it lasts {_time(seconds)} ({frames} samples), and at "
                f"least {_time(least)} are needed.",
                "too short",
            )
        if seconds > most:
            raise UnreadableAudioError(
                f"The audio file '{self.name}' is too long: it lasts {'' if ended else 'over '}{_time(seconds)}, and "
                f"at most {_time(most)} are accepted.",
                "too long",
            )

    def _advance(self, lacking: int) -> None:
        """Decode, check, mix and resample the next frames; of a live source no more than are needed."""
        wanted = max(256, _VALUES // self._decoder.channels)
        if self._decoder.live:
            wanted = min(wanted, -(-lacking * self._decoder.sample_rate // self.sample_rate))
        if self._frames is not None:
            wanted = min(wanted, self._frames - self._heard)
        block = self._decoder.read(wanted) if wanted else torch.zeros(self._decoder.channels, 0)
        self._heard += block.shape[1]
        if self._frames is not None and block.shape[1] < wanted:
            raise UnreadableAudioError(
                f"The audio file '{self.name}' is cut short: it lacks {self._frames - self._heard} of {self._frames} "
                "samples; replace it.",
                "cut short",
            )
        if block.shape[1]:
            check_samples(block, self.name)
            if self._mixed:
                mixed = block.mean(0, keepdim=True)
                self._energy[0] += float(mixed.double().square().sum())
                self._energy[1] += float(block.double().square().mean(0).sum())
                block = mixed
            self._blocks.append(self._resampler.push(block))
        if block.shape[1] < wanted or self._heard == self._frames:
            self._finish()
        else:
            self._check_length(self._heard, ended=False)

    def _finish(self) -> None:
        self._ended = True
        self._frames = self._heard
        self._check_length(self._heard)
        self._blocks.append(self._resampler.finish())
        if self._energy[0] < _CANCELED * self._energy[1]:
            self._notices.append(
                f"The channels of '{self.name}' cancel each other when they are mixed: take each of them "
                "(channels='each', --channels each)."
            )

    def read(self, samples: int) -> Tensor:
        """The next samples, float32 (channels, samples): fewer only at the end, and none past it.

        Raises
        ------
        UnreadableAudioError
            When samples are missing, NaN, infinite or absurdly large, or the source cannot be decoded further.
        """
        while not self._ended and (lacking := samples - sum(block.shape[1] for block in self._blocks)) > 0:
            self._advance(lacking)
        if not self._blocks:
            return torch.zeros(self.channels, 0)
        ready = self._blocks[0] if len(self._blocks) == 1 else torch.cat(self._blocks, 1)
        self._blocks = [ready[:, samples:]]
        return ready[:, :samples]

    def blocks(self, samples: int) -> Iterator[Tensor]:
        """All blocks (channels, samples); only the last one may be shorter, and it is not empty."""
        while (block := self.read(samples)).shape[1]:
            yield block

    def close(self) -> None:
        """Close the source."""
        self._closing.close()

    def __enter__(self) -> RecordingReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_recording(
    source: Source,
    sample_rate: int | None = None,
    channels: str = "mix",
    *,
    min_seconds: float = 0.0,
    max_seconds: float = float("inf"),
    name: str | None = None,
) -> RecordingReader:
    """Open a recording to read it in blocks.

    WAV that comes through a stream is read as it arrives; everything else in a stream is first copied to a temporary
    file.

    Arguments
    ---------
    source : str, Path or binary stream
        A file of any format that libsndfile reads; m4a, aac, mp4, webm and others if ffmpeg or torchcodec is installed;
        ``-`` for standard input; or an open stream of such a file.
    sample_rate : int, optional
        The rate in Hz of the samples that are returned, to which a recording of another rate is resampled; its own by
        default.
    channels : str
        ``mix`` averages the channels, ``each`` returns them.
    min_seconds, max_seconds : float
        Durations that are accepted.
    name : str, optional
        The name of the source in messages.

    Returns
    -------
    RecordingReader
        A context manager that reads.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    UnreadableAudioError
        A ValueError, when the file is no recording, is empty, cut short, too short or too long, or its rate is absurd.
    ValueError
        For unknown ``channels``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "stereo.wav"
    >>> soundfile.write(path, [[0.5, -0.25]] * 44100, 44100)
    >>> with open_recording(path, 8000) as reader:
    ...     lengths = [block.shape[1] for block in reader.blocks(3000)]
    >>> lengths, reader.notices  # doctest: +ELLIPSIS
    ([3000, 3000, 2000], ["'...stereo.wav' has 2 channels, which are mixed to one (their average)."])
    """
    if channels not in CHANNELS:
        raise ValueError(f"channels is {channels!r}, but must be one of {', '.join(CHANNELS)}.")
    if sample_rate is not None and not (sample_rate == int(sample_rate) and sample_rate > 0):
        raise ValueError(f"sample_rate is {sample_rate}, but must be a whole number of Hz.")
    if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read"):
        raise TypeError(
            f"The recording is of type {type(source).__name__}, but must be a path, '-' or an open binary stream."
        )
    shown = name or ("standard input" if source == STDIN else printable(_path_of(source)))
    with contextlib.ExitStack() as closing:
        decoder = _decode(source, shown, closing)
        closing.callback(decoder.close)
        if not MIN_RATE <= decoder.sample_rate <= MAX_RATE:
            raise UnreadableAudioError(
                f"The audio file '{shown}' has a sample rate of {decoder.sample_rate} Hz, but {MIN_RATE} to {MAX_RATE} "
                "Hz are accepted: correct its header, or replace it.",
                "absurd rate",
            )
        kept = closing.pop_all()
    try:
        return RecordingReader(decoder, shown, sample_rate, channels, (min_seconds, max_seconds), kept)
    except BaseException:
        kept.close()
        raise


def read_recording(
    source: Source,
    sample_rate: int | None = None,
    channels: str = "mix",
    *,
    min_seconds: float = 0.0,
    max_seconds: float = float("inf"),
    name: str | None = None,
) -> Recording:
    """Read a whole recording; arguments and errors as in :func:`open_recording`.

    Example
    -------
    >>> path = getfixture("tmp_path") / "stereo.wav"
    >>> soundfile.write(path, [[0.5, -0.25]] * 44100, 44100)
    >>> recording = read_recording(path, 8000, channels="each")
    >>> recording.signal.shape, recording.seconds, recording.source.sample_rate
    (torch.Size([2, 8000]), 1.0, 44100)
    """
    with open_recording(
        source, sample_rate, channels, min_seconds=min_seconds, max_seconds=max_seconds, name=name
    ) as reader:
        blocks = list(reader.blocks(_VALUES))
    signal = blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)
    return Recording(signal, reader.sample_rate, reader.name, reader.source, reader.notices)


def header_seconds(path: str | os.PathLike) -> float | None:
    """The duration of a file by its header; None if it does not say, or cannot be read.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, [0.0] * 4000, 8000)
    >>> header_seconds(path)
    0.5
    """
    try:
        descriptor = open_descriptor(path)
        if container_format(os.pread(descriptor, 64, 0)) is not None:
            os.close(descriptor)
            return None
        with sound_file(descriptor, path) as file:
            known = 0 < file.frames < _NO_LENGTH and file.samplerate > 0
            return file.frames / file.samplerate if known else None
    except (UnreadableAudioError, FileNotFoundError):
        return None


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.4g} s"


def _path_of(source: Source) -> str | os.PathLike:
    if isinstance(source, str | os.PathLike):
        return source
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "stream"


def _decode(source: Source, name: str, closing: contextlib.ExitStack) -> Decoder:
    """Find who decodes a source. Temporary files and streams of our own are closed with ``closing``."""
    if isinstance(source, str | os.PathLike) and source != STDIN:
        return _decode_file(source, name, closing)
    if source == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise UnreadableAudioError(
                "Standard input is a terminal: pipe a recording into the command, or give a file.", "terminal"
            )
        stream: BinaryIO = sys.stdin.buffer
    else:
        assert not isinstance(source, str | os.PathLike)
        stream = source
        if isinstance(stream, io.TextIOBase):
            raise TypeError(f"The stream '{name}' is open for text: open it with mode 'rb'.")
    try:
        return WaveStream(stream, name)
    except NotPlainWaveError as error:
        spool = closing.enter_context(tempfile.NamedTemporaryFile(prefix="recording-"))  # noqa: SIM115
        spool.write(error.header)
        shutil.copyfileobj(stream, spool)
        spool.flush()
        return _decode_file(spool.name, name, closing)


def _decode_file(path: str | os.PathLike, name: str, closing: contextlib.ExitStack) -> Decoder:
    descriptor = open_descriptor(path, name)
    with contextlib.ExitStack() as failing:
        failing.callback(os.close, descriptor)
        head = os.pread(descriptor, 64, 0)
        form = container_format(head)
        if form is not None:
            return open_container(path, name, form)
        unfinished = is_unfinished_wave(descriptor)
        failing.pop_all()
    if unfinished:
        stream = closing.enter_context(os.fdopen(descriptor, "rb"))
        with contextlib.suppress(NotPlainWaveError):
            wave = WaveStream(stream, name)
            wave.notices = [f"The header of '{name}' says that it is empty: it is read to its end."]
            return wave
        os.lseek(descriptor, 0, os.SEEK_SET)
        descriptor = os.dup(descriptor)
    return _SoundFileDecoder(descriptor, name)


class _ForwardFile(soundfile.SoundFile):
    """A file that is read from beginning to end. soundfile seeks after each read, which fails in FLAC files whose
    header does not say the length."""

    def seekable(self) -> bool:
        return False


class _SoundFileDecoder:
    """What libsndfile reads."""

    live = False

    def __init__(self, descriptor: int, name: str) -> None:
        file = sound_file(descriptor, name, _ForwardFile)
        self._file, self._name = file, name
        self._size = os.fstat(descriptor).st_size
        self._descriptor, self._left = descriptor, file.frames
        self.sample_rate, self.channels = file.samplerate, file.channels
        self.frames = None if file.frames >= _NO_LENGTH else max(0, file.frames)
        self.subtype = file.subtype
        self.notices: list[str] = []

    def read(self, frames: int) -> Tensor:
        try:
            block = self._file.read(frames, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            text = getattr(error, "error_string", error)
            raise UnreadableAudioError(
                f"The audio file '{self._name}' is corrupt ({text}): replace it.", "corrupt"
            ) from error
        self._left -= len(block)
        if not self._left and os.fstat(self._descriptor).st_size > self._size:
            self.notices = [f"'{self._name}' grew while it was read: what was added is left out."]
        return torch.from_numpy(block).T.contiguous()

    def close(self) -> None:
        self._file.close()
