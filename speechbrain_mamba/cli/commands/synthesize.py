"""The command synthesize."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from speechbrain_mamba.cli.model_choice import SYNTHESIZER, ModelChoice
from speechbrain_mamba.cli.options import force_option, model_options, talk_options
from speechbrain_mamba.cli.program import Command
from speechbrain_mamba.utils.files import check_writable
from speechbrain_mamba.utils.mistakes import MISTAKES, is_mistake

logger = logging.getLogger(__name__)


@click.command(
    cls=Command,
    section="Use a model",
    short_help="Say a text in the voice of a recording.",
    examples=[
        ('synthesize --text "one two three" --prompt voice.wav --prompt-text "four five"', "speech.wav"),
        (
            "synthesize --text-file lines.txt --prompt voice.wav --prompt-text 'four five' --out lines",
            "each line of a text: lines/1.wav, lines/2.wav and on",
        ),
        ('synthesize --text "six" --prompt voice.wav --prompt-text "four five" --seed 7 --out -', "to another program"),
    ],
)
@click.option("--text", help="What is said.")
@click.option(
    "--text-file",
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file with a text on each line, UTF-8, or - for standard input. Each text gets a file.",
)
@click.option("--prompt", metavar="FILE", required=True, help="A recording of the voice: some seconds of speech.")
@click.option("--prompt-text", required=True, help="What is said in the recording.")
@click.option("--out", metavar="FILE", help="A file, or a folder with --text-file.  [default: speech.wav, or speech]")
@click.option("--seed", type=int, help="A number that decides how the text is said.  [the model's own]")
@click.option("--language", help="The language of the texts, as espeak-ng calls it.  [that of the training]")
@click.option("--max-seconds", type=click.FloatRange(min=0, min_open=True), help="Length at which speech is cut.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Pieces of a text at a time."
)
@force_option
@model_options(SYNTHESIZER)
@talk_options
def command(
    model: ModelChoice,
    text: str | None,
    text_file: Path | None,
    out: str | None,
    force: bool,
    progress: bool,
    **options: Any,
) -> None:
    """Say a text in the voice of a recording.

    Long texts are said in pieces. The same seed gives the same speech.
    """
    if (text is None) == (text_file is None):
        raise click.UsageError("Give either --text or --text-file.", click.get_current_context())
    if text_file is None:
        texts, outputs = [str(text)], [out or "speech.wav"]
    else:
        texts = read_lines(text_file)
        width = len(str(len(texts)))
        outputs = [str(Path(out or "speech", f"{number:0{width}}.wav")) for number in range(1, len(texts) + 1)]
    for output in outputs:
        check_output(output, options["prompt"], force)
    if outputs[0] != "-":
        check_writable(Path(outputs[0]).parent)
    from tqdm import tqdm

    from speechbrain_mamba.dataio.recording_writer import write_recording
    from speechbrain_mamba.inference.synthesis import SpeechSynthesizer

    synthesizer = model.load(SpeechSynthesizer)
    hidden = True if not progress or len(texts) == 1 else None  # None: shown on a terminal
    failed: dict[str, str] = {}
    for output, line in zip(outputs, tqdm(texts, "Speaking", disable=hidden)):
        try:
            spoken = synthesizer.synthesize(line, **options)
        except MISTAKES as error:
            if len(texts) == 1 or not is_mistake(error):
                raise
            if str(error) not in failed.values():  # of the prompt, it is the same for all texts
                click.echo(f"error: {output}: {error}", err=True)
            failed[output] = str(error)
            continue
        for notice in spoken.notices:
            logger.warning("%s: %s", output, notice)
        write_recording(output, spoken.wav, spoken.sample_rate, force=force)
        logger.info("%s: %.2f s, seed %s", output, spoken.seconds, spoken.seed)
    if failed:
        click.echo(f"{len(failed)} of {len(texts)} texts failed: {', '.join(failed)}", err=True)
        raise SystemExit(3)


def check_output(output: str, prompt: str, force: bool) -> None:
    """Refuse what cannot be written, before speech is made for it.

    Raises
    ------
    ValueError, OSError
        When the file exists, is the prompt, or has no suffix of audio.
    """
    from speechbrain_mamba.dataio.recording_writer import RecordingWriter

    if output == "-":
        return
    if prompt != "-" and os.path.realpath(output) == os.path.realpath(prompt):
        raise ValueError(f"'{output}' would be written, but is the prompt: choose another --out.")
    if not force and Path(output).is_file():
        raise FileExistsError(f"'{output}' exists and is not overwritten: choose another --out, or give --force.")
    RecordingWriter(output, 8000, force=force)  # which is not opened


def read_lines(file: Path) -> list[str]:
    """The texts of a file, one per line without empty ones.

    Raises
    ------
    ValueError
        When there is none, or the file is not UTF-8.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{file}' is not a text in UTF-8: convert it first.") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"'{file}' has no text: write one on each line.")
    return lines
