"""The command try."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click

from speechbrain_mamba.cli.model_choice import RECOGNIZER, SEPARATOR, SYNTHESIZER, ModelChoice
from speechbrain_mamba.cli.options import force_option, precision_option, talk_options
from speechbrain_mamba.cli.program import Command
from speechbrain_mamba.utils.terminal import show

FOLDER = "speechbrain-mamba-try"


@click.command(
    cls=Command,
    section="Use a model",
    short_help="See what the small models of the package do, in a minute.",
    examples=[("try", f"files in {FOLDER}"), ("try --separator results/separation/mini/1234/inference", "your model")],
)
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help=f"Where files go.  [default: {FOLDER}]")
@click.option("--separator", metavar="MODEL", default=SEPARATOR, show_default=True, help="What separates.")
@click.option("--recognizer", metavar="MODEL", default=RECOGNIZER, show_default=True, help="What transcribes.")
@click.option("--synthesizer", metavar="MODEL", default=SYNTHESIZER, show_default=True, help="What speaks.")
@click.option("--device", default="auto", show_default=True, help="As for the other commands.")
@precision_option
@force_option
@talk_options
def command(
    out: Path | None,
    separator: str,
    recognizer: str,
    synthesizer: str,
    device: str,
    precision: str | None,
    force: bool,
    progress: bool,
) -> None:
    """See what the small models of the package do, in a minute.

    Two voices are mixed, separated and transcribed, and one says something else. Levels are relative to full scale.
    """
    from speechbrain_mamba.cli.trial import Trial

    start = time.monotonic()
    folder = choose_folder(out, force)
    models = [ModelChoice(source, device, precision) for source in (separator, recognizer, synthesizer)]
    Trial(folder, *models).run()
    show(f"The files are in '{folder}'. This took {time.monotonic() - start:.0f} s.")


def choose_folder(out: Path | None, force: bool) -> Path:
    """The folder to write to, which is made: one for temporary files if none is asked for and the working directory
    cannot be written to.

    Raises
    ------
    FileExistsError
        When it is not empty and must not be overwritten.
    """
    folder = out or Path(FOLDER)
    if not force and folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"'{folder}' is not empty and is not overwritten: choose another --out, or give --force.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        if out is not None:
            raise
        return Path(tempfile.mkdtemp(prefix=f"{FOLDER}-"))
    return folder
