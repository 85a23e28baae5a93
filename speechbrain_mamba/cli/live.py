"""Work on sound while it comes, from the microphone or from a file in pieces."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechbrain_mamba.cli.microphone import listen
from speechbrain_mamba.dataio.recording_writer import RecordingWriter, write_together
from speechbrain_mamba.dataio.recordings import open_recording
from speechbrain_mamba.utils.terminal import show

if TYPE_CHECKING:
    from torch import Tensor

    from speechbrain_mamba.inference.separation import SpeechSeparator
    from speechbrain_mamba.inference.streaming import StreamingRecognizer

logger = logging.getLogger(__name__)


def take_pieces(file: str | None, sample_rate: int, milliseconds: int) -> Iterator[Tensor]:
    """Pieces (1, samples) at a rate in Hz: of the microphone until Ctrl-C, or of a file until its end."""
    samples = max(1, sample_rate * milliseconds // 1000)
    if file is None:
        with contextlib.suppress(KeyboardInterrupt):
            yield from listen(sample_rate, samples)
        return
    with open_recording(file, sample_rate) as reader:
        for notice in reader.notices:
            logger.warning(notice)
        yield from reader.blocks(samples)


def transcribe_pieces(recognizer: StreamingRecognizer, pieces: Iterable[Tensor], growing: Growing | None) -> None:
    """Show the text while it grows, if there is something to show it, and in the end the whole text."""
    heard = 0
    for piece in pieces:
        heard += piece.shape[1]
        text = recognizer.add(piece)
        if growing and not growing.show(heard / recognizer.sample_rate, text):
            return
    if growing:
        growing.clear()
    show(recognizer.finish())


def separate_pieces(separator: SpeechSeparator, pieces: Iterable[Tensor], outputs: Sequence[Path], force: bool) -> None:
    """Write each speaker to a file of floats, in the model's own scale, which a stream gives no reason to change."""
    stream = separator.stream()
    writers = [RecordingWriter(path, separator.sample_rate, subtype="FLOAT", force=force) for path in outputs]
    with write_together(writers):
        for piece in pieces:
            _write(writers, stream.add(piece))
        _write(writers, stream.finish())


def _write(writers: Sequence[RecordingWriter], estimates: Tensor) -> None:
    for writer, estimate in zip(writers, estimates[0].T):
        writer.write(estimate)


class Growing:
    """Shows a text that grows.

    Arguments
    ---------
    terminal : bool
        Whether the text is written over itself, its end if it is longer than a line. If not, each change is a line.

    Example
    -------
    >>> growing = Growing(terminal=False)
    >>> growing.show(0.32, "one") and growing.show(0.64, "one") and growing.show(0.96, "one two")
       0.32 s  one
       0.96 s  one two
    True
    """

    def __init__(self, terminal: bool) -> None:
        self.terminal, self.last = terminal, ""

    def show(self, seconds: float, text: str) -> bool:
        """Show the text after some seconds; answers whether somebody still reads."""
        changed, self.last = text != self.last, text
        if self.terminal:
            width = max(1, shutil.get_terminal_size().columns - 12)
            print(f"\r{seconds:7.2f} s  {text[-width:]:{width}}", end="", flush=True)
        return self.terminal or not changed or show(f"{seconds:7.2f} s  {text}")

    def clear(self) -> None:
        """Remove the line from the terminal."""
        if self.terminal:
            print(f"\r{'':{shutil.get_terminal_size().columns - 1}}\r", end="", flush=True)
