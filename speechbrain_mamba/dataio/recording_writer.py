"""Recordings that are written in blocks, with as many frames as their source, and that appear only when complete."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import soundfile
from torch import Tensor

from speechbrain_mamba.dataio.recordings import Recording, RecordingReader
from speechbrain_mamba.dataio.resampling import StreamingResampler
from speechbrain_mamba.utils.files import check_writable, temporary_name
from speechbrain_mamba.utils.terminal import printable

STDOUT = "-"

_WAVE_BYTES = 2**32 - 2**16
"""The most bytes of samples in a WAV file, whose header counts in 32 bits; RF64 counts in 64."""
_BYTES = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_SUBTYPES = {"PCM_16": "PCM_16", "PCM_24": "PCM_24", "PCM_32": "PCM_32", "FLOAT": "FLOAT", "DOUBLE": "FLOAT"}
"""What is written for a source of some format; 16 bits for all others, and where the file takes no more, 24."""


class RecordingWriter:
    """Write a recording in blocks to a temporary name; it gets its own when it is complete.

    A context manager. If it ends by an error or Ctrl-C, nothing is left behind.

    Arguments
    ---------
    path : str or Path
        The file, whose suffix gives its format: ``.wav`` (RF64 if it is over 4 GB), ``.flac``, ``.ogg`` and others that
        libsndfile writes. Missing folders are made. ``-`` writes WAV to standard output.
    sample_rate : int
        Samples per second of the blocks.
    channels : int
        Channels of the blocks.
    like : RecordingReader or Recording, optional
        The source that the samples were made from: the file gets its rate, its number of frames and, if the format
        knows it, its format of samples. The blocks together must be as long as what was read.
    frames : int, optional
        How long the blocks will be together, if known. It decides between WAV and RF64 where there is no ``like``.
    rate : int, optional
        The sample rate of the file; that of ``like``, or ``sample_rate``, by default.
    subtype : str, optional
        The format of the samples, as libsndfile calls it.
    force : bool
        Whether to replace a file that exists.

    Raises
    ------
    FileExistsError
        When the file exists, also when it came to be while this one was written.
    ValueError
        When libsndfile cannot write such a file.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> from speechbrain_mamba.dataio.recordings import open_recording, read_recording
    >>> soundfile.write(folder / "in.wav", torch.randn(44100) / 10, 44100, subtype="PCM_24")
    >>> with open_recording(folder / "in.wav", 8000) as reader:
    ...     with RecordingWriter(folder / "out.wav", 8000, like=reader) as writer:
    ...         for block in reader.blocks(3000):
    ...             writer.write(0.5 * block)
    >>> read_recording(folder / "out.wav").source
    SourceFormat(sample_rate=44100, channels=1, frames=44100, subtype='PCM_24')
    """

    def __init__(
        self,
        path: str | os.PathLike,
        sample_rate: int,
        channels: int = 1,
        *,
        like: RecordingReader | Recording | None = None,
        frames: int | None = None,
        rate: int | None = None,
        subtype: str | None = None,
        force: bool = False,
    ) -> None:
        self.path = path if path == STDOUT else Path(path)
        self.name = "standard output" if path == STDOUT else printable(path)
        self.notices: list[str] = []
        self._channels, self._like, self._force = channels, like, force
        self._in_rate = sample_rate
        self.rate = rate or (sample_rate if like is None else like.source.sample_rate)
        self._resampler = StreamingResampler(sample_rate, self.rate)
        self._heard = self._written = self._clipped = 0
        self._check_target()
        source = None if like is None else like.source
        if source is not None and source.frames is not None:
            seconds: float | None = source.frames / source.sample_rate
        else:
            seconds = None if frames is None else frames / sample_rate
        self._choose_format(subtype, None if seconds is None else round(seconds * self.rate))
        self._file: soundfile.SoundFile | None = None
        self._temporary: Path | None = None
        self._added = False  # whether the name was not there before

    def _open(self) -> soundfile.SoundFile:
        """The file under its temporary name, which is made when the first samples come."""
        if self._file is not None:
            return self._file
        if self.path == STDOUT:
            descriptor, name = tempfile.mkstemp(suffix=".wav", prefix="recording-")
            self._temporary = Path(name)
        else:
            target = Path(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = temporary_name(target)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            descriptor = os.open(self._temporary, flags, 0o666)
        try:
            # by its descriptor, which it closes: soundfile takes no names that are not UTF-8
            self._file = soundfile.SoundFile(
                descriptor, "w", self.rate, self._channels, self._subtype, format=self._format
            )
        except (soundfile.SoundFileError, OSError) as error:
            text = getattr(error, "error_string", error)
            raise ValueError(
                f"'{self.name}' cannot be written with {self.rate} Hz and {self._channels} channels ({text}): choose "
                "another folder, or write a .wav file."
            ) from error
        return self._file

    def _check_target(self) -> None:
        if self.path == STDOUT:
            if sys.stdout is None or sys.stdout.isatty():
                raise ValueError("Standard output is a terminal: redirect it to a file or a pipe, or give a file.")
        elif os.path.isdir(self.path):
            raise IsADirectoryError(f"'{self.name}' is a folder: give the name of a file.")
        elif os.path.lexists(self.path) and not self._force:
            raise self._exists()
        else:
            check_writable(Path(self.path).parent)

    def _exists(self) -> FileExistsError:
        return FileExistsError(f"'{self.name}' exists: choose another name, or replace it with --force (force=True).")

    def _choose_format(self, subtype: str | None, frames: int | None) -> None:
        suffix = ".wav" if self.path == STDOUT else Path(self.path).suffix.lower()
        kinds = {f".{kind.lower()}": kind for kind in soundfile.available_formats()}
        kinds |= {".aif": "AIFF", ".oga": "OGG", ".opus": "OGG", ".wave": "WAV", ".snd": "AU", ".sph": "NIST"}
        del kinds[".raw"]
        if suffix not in kinds:
            raise ValueError(
                f"'{self.name}' has the suffix '{suffix}', but audio is written to .wav, .flac, .ogg, .mp3, .aiff and "
                "other files that libsndfile writes."
            )
        self._format = kinds[suffix]
        known = soundfile.available_subtypes(self._format)
        if subtype is None and self._like is not None:
            subtype = _SUBTYPES.get(self._like.source.subtype, "PCM_16")
            if subtype not in known:
                subtype = "PCM_24" if subtype != "PCM_16" and "PCM_24" in known else None
        if subtype is None:
            subtype = "PCM_16" if "PCM_16" in known else soundfile.default_subtype(self._format)
            subtype = "OPUS" if suffix == ".opus" else subtype
        self._subtype = subtype
        if self._format == "WAV":
            width = self._channels * _BYTES.get(self._subtype, 1)
            if frames is None or frames * width > _WAVE_BYTES:
                self._format = "RF64" if self._subtype in soundfile.available_subtypes("RF64") else "WAV"

    def write(self, block: Tensor) -> None:
        """Take the next samples (channels, samples), or (samples,) of a single channel; full scale is 1.

        Raises
        ------
        ValueError
            For another number of channels, and for samples that are not finite.
        """
        block = block.detach().cpu().float()
        block = block[None] if block.dim() == 1 else block
        if block.dim() != 2 or len(block) != self._channels:
            raise ValueError(
                f"The block for '{self.name}' has shape {tuple(block.shape)}, but must be ({self._channels}, samples)."
            )
        if not block.isfinite().all():
            raise ValueError(f"The samples for '{self.name}' are NaN or infinite: nothing is written.")
        self._heard += block.shape[1]
        if block.shape[1]:
            self._put(self._resampler.push(block))

    def _put(self, block: Tensor) -> None:
        frames = self._frames()
        if frames is not None:
            block = block[:, : max(0, frames - self._written)]
        if self._subtype not in ("FLOAT", "DOUBLE"):
            self._clipped += int((block.abs() > 1).sum())
            block = block.clamp(-1, 1)
        file = self._open()
        try:
            file.write(block.T.contiguous().numpy())
        except (soundfile.SoundFileError, OSError) as error:
            assert self._temporary is not None
            if shutil.disk_usage(self._temporary.parent).free < 2**20:  # libsndfile does not say why
                raise OSError(errno.ENOSPC, f"The disk is full, '{self.name}' is not written") from error
            text = getattr(error, "error_string", error)
            raise OSError(f"'{self.name}' cannot be written ({text}).") from error
        self._written += block.shape[1]

    def finish(self) -> None:
        """Complete the file under its temporary name.

        Raises
        ------
        ValueError
            When nothing was written, or not as much as was read.
        """
        if self._file is not None and self._file.closed:
            return
        if not self._heard:
            raise ValueError(f"There are no samples for '{self.name}'.")
        source = None if self._like is None else self._like.source
        if source is not None and source.frames is not None:
            expected = -(-source.frames * self._in_rate // source.sample_rate)
            if self._heard != expected:
                raise ValueError(f"'{self.name}' got {self._heard} samples, but its source has {expected}.")
        self._put(self._resampler.finish())
        assert self._file is not None and self._temporary is not None
        self._file.close()
        if self._format == "RF64" and self._temporary.suffix.lower() in (".wav", ".wave"):
            _shorten_header(self._temporary)
        if self._clipped:
            self.notices.append(
                f"{self._clipped} of {self._written * self._channels} samples in '{self.name}' were above full scale "
                "and are clipped."
            )

    def _frames(self) -> int | None:
        """How many frames the file must have."""
        if self._like is None or self._like.source.frames is None:
            return None
        return -(-self._like.source.frames * self.rate // self._like.source.sample_rate)

    def commit(self) -> None:
        """Give the finished file its name."""
        assert self._temporary is not None
        if self.path == STDOUT:
            with open(self._temporary, "rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            self._temporary.unlink()
            return
        if not self._force:
            try:
                os.link(self._temporary, self.path)  # which fails if the name is there, unlike a rename
                self._added = True
                self._temporary.unlink()
                return
            except FileExistsError as error:
                raise self._exists() from error
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                    raise
                self._check_target()  # a file system without hard links
        self._added = not os.path.lexists(self.path)
        os.replace(self._temporary, self.path)

    def abort(self) -> None:
        """Remove what was written."""
        if self._file is not None:
            with contextlib.suppress(soundfile.SoundFileError, OSError):
                self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def withdraw(self) -> None:
        """Take the name from a file that got it, if it replaced none."""
        if self._added:
            Path(self.path).unlink(missing_ok=True)

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
                self.commit()
        finally:
            self.abort()


@contextlib.contextmanager
def write_together(writers: Sequence[RecordingWriter]) -> Iterator[None]:
    """Write several files that belong together, one per speaker: all get their names, or none.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> writers = [RecordingWriter(folder / f"speaker{number}.wav", 8000) for number in (1, 2)]
    >>> with write_together(writers):
    ...     for writer in writers:
    ...         writer.write(torch.zeros(800))
    >>> sorted(path.name for path in folder.iterdir())
    ['speaker1.wav', 'speaker2.wav']
    """
    named: list[RecordingWriter] = []
    try:
        yield
        for writer in writers:
            writer.finish()
        for writer in writers:
            writer.commit()
            named.append(writer)
    except BaseException:
        for writer in named:
            writer.withdraw()
        raise
    finally:
        for writer in writers:
            writer.abort()


def write_recording(path: str | os.PathLike, signal: Tensor, sample_rate: int, **options: object) -> list[str]:
    """Write a whole recording (channels, samples) or (samples,); options as for :class:`RecordingWriter`.

    Returns
    -------
    list of str
        Notices for the user.

    Example
    -------
    >>> import torch
    >>> path = getfixture("tmp_path") / "loud.wav"
    >>> write_recording(path, torch.tensor([0.0, 0.5, 1.5]), 8000)  # doctest: +ELLIPSIS
    ["1 of 3 samples in '...loud.wav' were above full scale and are clipped."]
    """
    channels = 1 if signal.dim() == 1 else len(signal)
    with RecordingWriter(path, sample_rate, channels, frames=signal.shape[-1], **options) as writer:  # type: ignore[arg-type]
        for block in signal.split(2**18, -1):
            writer.write(block)
    return writer.notices


def _shorten_header(path: Path) -> None:
    """Make a plain WAV file of an RF64 file that is small enough, as libsndfile's automatic downgrade does."""
    with open(path, "r+b") as file:
        head = bytearray(file.read(4096))
        form = head.find(b"fmt ")
        place = head.find(b"data", form)
        total = os.fstat(file.fileno()).st_size
        if head[:4] != b"RF64" or head[12:16] != b"ds64" or place < 0 or total > _WAVE_BYTES:
            return
        head[place + 4 : place + 8] = head[28:32]  # the length of the data, whose upper half is zero
        head[:8] = b"RIFF" + (total - 8).to_bytes(4, "little")
        head[12:16] = b"JUNK"
        if head[form + 8 : form + 10] == b"\xfe\xff" and int.from_bytes(head[form + 10 : form + 12], "little") <= 2:
            head[form + 8 : form + 10] = head[form + 32 : form + 34]  # not WAVE_FORMAT_EXTENSIBLE, which few need
        file.seek(0)
        file.write(head)
