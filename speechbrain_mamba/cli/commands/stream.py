"""The command stream."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from speechbrain_mamba.cli.commands.separate import FOLDER
from speechbrain_mamba.cli.model_choice import RECOGNIZER, ModelChoice
from speechbrain_mamba.cli.options import force_option, model_options, talk_options
from speechbrain_mamba.cli.program import Command


@click.command(
    cls=Command,
    section="Use a model",
    short_help="Transcribe or separate speech while it is being spoken.",
    examples=[
        ("stream", "listen to the microphone until Ctrl-C; takes pip install sounddevice"),
        ("stream talk.wav --milliseconds 320", "a file in pieces, as if it were being spoken"),
        ("stream - < talk.wav", "what another program writes"),
        ("stream talk.wav --source streaming_separator --out voices", "speakers instead of text, by a separator"),
    ],
)
@click.argument("file", metavar="[FILE]", required=False)
@click.option(
    "--milliseconds",
    metavar="N",
    type=click.IntRange(min=1),
    default=320,
    show_default=True,
    help="Length of a piece of sound.",
)
@click.option("--out", metavar="FOLDER", default=FOLDER, show_default=True, help="Where a separator writes speakers.")
@force_option
@model_options(RECOGNIZER)
@talk_options
def command(file: str | None, milliseconds: int, out: str, force: bool, model: ModelChoice, progress: bool) -> None:
    """Transcribe or separate speech while it is being spoken, from the microphone, or from FILE or - in pieces.

    The model must not need the future. With a recognizer, the text grows in one line of the terminal; elsewhere each
    line is a time in seconds and the text until then, when it has changed. The last line is the whole text, and with
    --quiet the only one.
    """
    from speechbrain_mamba.cli.live import Growing, separate_pieces, take_pieces, transcribe_pieces
    from speechbrain_mamba.inference.separation import SpeechSeparator
    from speechbrain_mamba.inference.streaming import StreamingRecognizer

    loaded = model.load_any({"recognizer": StreamingRecognizer, "separator": SpeechSeparator})
    pieces = take_pieces(file, loaded.sample_rate, milliseconds)
    if isinstance(loaded, SpeechSeparator):
        name = {None: "microphone", "-": "stdin"}.get(file) or Path(str(file)).stem
        outputs = [Path(out, f"{name}_speaker{number}.wav") for number in range(1, loaded.speakers + 1)]
        separate_pieces(loaded, pieces, outputs, force)
        if progress:
            click.echo(f"Written: {', '.join(map(str, outputs))}", err=True)
    else:
        transcribe_pieces(loaded, pieces, Growing(sys.stdout.isatty()) if progress else None)
