"""The command stream."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from speechbrain_mamba.cli.model_choice import RECOGNIZER, ModelChoice
from speechbrain_mamba.cli.options import model_options, talk_options
from speechbrain_mamba.cli.program import Command
from speechbrain_mamba.utils.terminal import show

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


@click.command(
    cls=Command,
    section="Use a model",
    short_help="Write down what is said while it is being said.",
    examples=[
        ("stream", "listen to the microphone until Ctrl-C; takes pip install sounddevice"),
        ("stream talk.wav --milliseconds 320", "a file in pieces, as if it were being spoken"),
        ("stream - < talk.wav", "what another program writes"),
    ],
)
@click.argument("file", metavar="[FILE]", required=False)
@click.option(
    "--milliseconds", type=click.IntRange(min=1), default=320, show_default=True, help="Length of a piece of sound."
)
@model_options(RECOGNIZER)
@talk_options
def command(file: str | None, milliseconds: int, model: ModelChoice, progress: bool) -> None:
    """Write down what is said while it is being said, from the microphone, or from FILE or - in pieces.

    On a terminal the text grows in one line. Elsewhere each line is a time in seconds and the text until then, when the
    text has changed. --quiet shows the whole text only, in the end.
    """
    from speechbrain_mamba.inference.streaming import StreamingRecognizer

    recognizer = model.load(StreamingRecognizer)
    rate = recognizer.sample_rate
    write = Growing(sys.stdout.isatty()) if progress else None
    heard = 0
    for piece in take_pieces(file, rate, max(1, rate * milliseconds // 1000)):
        heard += piece.shape[-1]
        text = recognizer.add(piece)
        if write and not write(heard / rate, text):
            raise SystemExit(0)
    if write:
        write.clear()
    show(recognizer.finish())


def take_pieces(file: str | None, sample_rate: int, samples: int) -> Iterator[Tensor]:
    """Pieces (1, samples) of the microphone until Ctrl-C, or of a file until its end."""
    if file is None:
        with contextlib.suppress(KeyboardInterrupt):
            from speechbrain_mamba.cli.microphone import listen

            yield from listen(sample_rate, samples)
    else:
        from speechbrain_mamba.dataio.recordings import open_recording

        with open_recording(file, sample_rate) as reader:
            for notice in reader.notices:
                logger.warning(notice)
            yield from reader.blocks(samples)


class Growing:
    """Shows a text that grows.

    Arguments
    ---------
    terminal : bool
        Whether the text is written over itself, its end if it is longer than a line. If not, each change is a line.

    Example
    -------
    >>> write = Growing(terminal=False)
    >>> write(0.32, "one") and write(0.64, "one") and write(0.96, "one two")
       0.32 s  one
       0.96 s  one two
    True
    """

    def __init__(self, terminal: bool) -> None:
        self.terminal, self.last = terminal, ""

    def __call__(self, seconds: float, text: str) -> bool:
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
