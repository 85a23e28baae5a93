"""The command separate."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from speechbrain_mamba.cli.model_choice import SEPARATOR, ModelChoice
from speechbrain_mamba.cli.options import file_options, model_options, talk_options
from speechbrain_mamba.cli.program import Command
from speechbrain_mamba.cli.progress import seconds_bar

if TYPE_CHECKING:
    from speechbrain_mamba.cli.files import Done, Task

FOLDER = "separated"
"""Where the speakers are written if ``--out`` does not say."""


@click.command(
    cls=Command,
    section="Use a model",
    short_help="Separate the speakers of recordings.",
    examples=[
        ("separate talk.wav", "separated/talk_speaker1.wav and separated/talk_speaker2.wav"),
        ("separate meeting.m4a recordings/ --out voices", "several files and folders, into a folder"),
        ("separate talk.wav --channels each --format flac", "each channel on its own"),
        ("separate 'recordings/*.wav' --source results/separation/mambatasnet_S/1234/inference --jobs 4", "your model"),
    ],
)
@file_options
@click.option(
    "--out",
    metavar="FOLDER",
    help=f"Where speakers are written, or NAME.wav for NAME_speaker1.wav and on.  [default: {FOLDER}]",
)
@click.option("--format", "suffix", type=click.Choice(["wav", "flac"]), default="wav", show_default=True)
@click.option(
    "--window",
    type=click.FloatRange(min=0),
    default=16.0,
    show_default=True,
    help="Seconds that are separated at a time, by models that see the future; 0 is the whole recording.",
)
@click.option("--overlap", type=click.FloatRange(min=0), default=4.0, show_default=True, help="Seconds of overlap.")
@model_options(SEPARATOR)
@talk_options
def command(
    files: Sequence[str], model: ModelChoice, out: str | None, suffix: str, jobs: int, progress: bool, **options: Any
) -> None:
    """Separate the speakers of recordings.

    FILE is a recording of any rate and number of channels, a folder, a pattern, or - for standard input. Each speaker
    gets a file as long as the recording and at its rate, NAME_speaker1.wav, NAME_speaker2.wav and on.
    """
    from speechbrain_mamba.cli.files import find_sources, plan_outputs, run_tasks

    sources = find_sources(files, out or FOLDER)
    make_work = partial(Separation, model, bar=progress and len(sources) == 1, **options)
    separation = make_work()
    endings = [f"_speaker{number}.{suffix}" for number in range(1, separation.separator.speakers + 1)]
    tasks = plan_outputs(sources, out, endings, force=options["force"], default=FOLDER)
    summary = run_tasks(tasks, separation, make_work=make_work, jobs=jobs, progress=progress, description="Separating")
    if summary.exit_code:
        raise SystemExit(summary.exit_code)


class Separation:
    """Separates one file after another.

    Arguments
    ---------
    model : ModelChoice
        The separator.
    channels, window, overlap, batch_size, force
        Those of :meth:`~speechbrain_mamba.inference.separation.SpeechSeparator.separate_recording`; a window of 0
        seconds is the whole recording.
    bar : bool
        Whether progress within a file is shown.
    """

    def __init__(
        self,
        model: ModelChoice,
        *,
        channels: str,
        window: float,
        overlap: float,
        batch_size: int,
        force: bool,
        bar: bool = False,
    ) -> None:
        from speechbrain_mamba.inference.separation import SpeechSeparator

        self.separator, self.bar = model.load(SpeechSeparator), bar
        self.options: dict[str, Any] = {"channels": channels, "window": window or None, "overlap": overlap}
        self.options |= {"batch_size": batch_size, "force": force}

    def __call__(self, task: Task) -> Done:
        """Separate one file into the files of its speakers."""
        from speechbrain_mamba.cli.files import Done

        with seconds_bar("Separating", self.bar) as progress:
            result = self.separator.separate_recording(
                task.source.path, task.outputs, progress=progress, **self.options
            )
        return Done(notices=result.notices)
