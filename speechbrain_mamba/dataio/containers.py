"""Audio in containers that libsndfile does not read: m4a, aac, mp4, webm and others, by ffmpeg or torchcodec."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from typing import Any, BinaryIO, cast

from torch import Tensor

from speechbrain_mamba.dataio.audio import UnreadableAudioError
from speechbrain_mamba.dataio.wave_streams import Decoder, NotPlainWaveError, WaveStream
from speechbrain_mamba.utils.terminal import printable

_AT_ONCE = 2**30
"""The most bytes of samples that torchcodec may decode: 46 minutes of stereo at 48 kHz."""


def container_format(head: bytes) -> str | None:
    """The name that ffmpeg has for the format of a file which libsndfile does not read, by its first bytes.

    Returns
    -------
    str or None
        ``mov`` (mp4, m4a, 3gp), ``matroska`` (webm, mka), ``aac`` (ADTS), ``asf`` (wma), ``amr``; None for all others.

    Example
    -------
    >>> container_format(b"\\0\\0\\0\\x1cftypM4A "), container_format(b"RIFF....WAVE")
    ('mov', None)
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"skip", b"free", b"pnot"):
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"\x30\x26\xb2\x75":
        return "asf"
    if head[:5] == b"#!AMR":
        return "amr"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    return None


def open_container(path: str | os.PathLike, name: str, form: str) -> Decoder:
    """Decode a file with what is installed: the program ffmpeg, else the package torchcodec.

    Arguments
    ---------
    path : str or Path
        A file.
    name : str
        Its name, for messages.
    form : str
        As returned by :func:`container_format`.

    Raises
    ------
    UnreadableAudioError
        When neither is installed, and when the file cannot be decoded.
    """
    program = shutil.which("ffmpeg")
    if program:
        return FFmpegDecoder(program, path, name, form)
    if importlib.util.find_spec("torchcodec"):
        return TorchCodecDecoder(path, name)
    raise UnreadableAudioError(
        f"The audio file '{name}' is of a format ({form}) that takes a decoder: install the program ffmpeg or, with "
        "FFmpeg's libraries, the Python package torchcodec; or convert it to WAV or FLAC.",
        "needs ffmpeg",
    )


def ffmpeg_arguments(path: str | os.PathLike, form: str) -> list[str]:
    """What ffmpeg is called with: the first audio stream of a local file becomes WAV of floats on standard output.

    The format of the input is fixed and protocols are limited: what is called a video may be a playlist that names
    other files and servers.

    Example
    -------
    >>> " ".join(ffmpeg_arguments("/a/b.m4a", "mov"))  # doctest: +ELLIPSIS
    '-nostdin ... -f mov -i file:/a/b.m4a -map 0:a:0 ... -f wav pipe:1'
    """
    return [
        "-nostdin",
        "-hide_banner",
        *("-loglevel", "error"),
        "-xerror",  # stop at damaged audio, as libsndfile does
        *("-protocol_whitelist", "file,pipe"),
        *("-f", form),
        *("-i", f"file:{os.path.abspath(path)}"),
        *("-map", "0:a:0"),
        *("-c:a", "pcm_f32le"),
        *("-f", "wav"),
        "pipe:1",
    ]


class FFmpegDecoder:
    """Decode a file by the program ffmpeg, which runs beside this process.

    Arguments
    ---------
    program : str
        The path of ffmpeg.
    path, name, form
        As in :func:`open_container`.
    """

    live = False
    subtype = "PCM_16"  # what a file made of decoded audio gets

    def __init__(self, program: str, path: str | os.PathLike, name: str, form: str) -> None:
        self._name = name
        # not a pipe: if nobody reads it, ffmpeg stops
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        command = [program, *ffmpeg_arguments(path, form)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._said, shell=False
        )
        assert self._process.stdout is not None
        try:
            self._wave = WaveStream(cast(BinaryIO, self._process.stdout), name)
        except BaseException as error:
            if isinstance(error, NotPlainWaveError):
                error = self._fault("no audio")
            self.close()
            raise error from None
        self.sample_rate, self.channels = self._wave.sample_rate, self._wave.channels
        self.frames: int | None = None
        self.notices: list[str] = []

    def _fault(self, otherwise: str) -> UnreadableAudioError:
        """What ffmpeg complained about, in a sentence."""
        assert self._process.stdout is not None
        self._process.stdout.close()  # so that it does not wait for a reader
        self._process.wait()
        said = self._messages() or [otherwise]
        return UnreadableAudioError(
            f"ffmpeg cannot decode the audio file '{self._name}' ({said[0]}): replace it.", "corrupt"
        )

    def _messages(self) -> list[str]:
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").splitlines()
        return [printable(line.partition("] ")[2] if line.startswith("[") else line) for line in lines if line.strip()]

    def read(self, frames: int) -> Tensor:
        """As :meth:`~speechbrain_mamba.dataio.wave_streams.Decoder.read`.

        Raises
        ------
        UnreadableAudioError
            When ffmpeg fails, or finds the file cut short.
        """
        block = self._wave.read(frames)
        if block.shape[1] < frames:
            if self._process.wait():
                raise self._fault("no message")
            messages = self._messages()
            if any("prematurely" in line or "partial file" in line for line in messages):
                raise UnreadableAudioError(
                    f"The audio file '{self._name}' is cut short ({messages[0]}): replace it.", "cut short"
                )
            self.notices = [f"ffmpeg says of '{self._name}': {line}" for line in messages[:1]]
        return block

    def close(self) -> None:
        """End ffmpeg."""
        self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()
        self._said.close()


class TorchCodecDecoder:
    """Decode a file by torchcodec, at once: a part of a file that it decodes is not exactly that part of the whole.

    Arguments
    ---------
    path, name
        As in :func:`open_container`.
    """

    live = False
    subtype = "PCM_16"

    def __init__(self, path: str | os.PathLike, name: str) -> None:
        try:
            from torchcodec.decoders import AudioDecoder
        except (ImportError, OSError, RuntimeError) as error:
            raise UnreadableAudioError(
                f"The audio file '{name}' takes a decoder, and torchcodec does not find FFmpeg's libraries: install "
                "the program ffmpeg.",
                "needs ffmpeg",
            ) from error
        try:
            decoder = AudioDecoder(os.path.abspath(path))
            self._check_size(decoder.metadata, name)
            samples = decoder.get_all_samples()
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, UnreadableAudioError):
                raise
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UnreadableAudioError(
                f"torchcodec cannot decode the audio file '{name}' ({text}): replace it.", "corrupt"
            ) from error
        self._left: Tensor = samples.data
        self.sample_rate, self.channels = int(samples.sample_rate), len(samples.data)
        self.frames: int | None = samples.data.shape[1]
        self.notices: list[str] = []
        promised, seconds = decoder.metadata.duration_seconds or 0, self.frames / self.sample_rate
        if seconds < 0.9 * promised - 0.5:  # torchcodec does not tell, and a video may be longer than its sound
            self.notices.append(f"'{name}' holds {seconds:.1f} s of sound, but its header promises {promised:.1f} s.")

    @staticmethod
    def _check_size(facts: Any, name: str) -> None:
        values = (facts.duration_seconds or 0) * (facts.sample_rate or 0) * (facts.num_channels or 0)
        if 4 * values > _AT_ONCE:
            raise UnreadableAudioError(
                f"The audio file '{name}' takes {4 * values / 2**30:.1f} GB when torchcodec decodes it: install the "
                "program ffmpeg, which decodes it in little memory.",
                "needs ffmpeg",
            )

    def read(self, frames: int) -> Tensor:
        """As :meth:`~speechbrain_mamba.dataio.wave_streams.Decoder.read`."""
        block, self._left = self._left[:, :frames], self._left[:, frames:]
        return block

    def close(self) -> None:
        """Let go of the samples."""
        self._left = self._left[:, :0].clone()
