"""The command transcribe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speechbrain_mamba.cli.model_choice import RECOGNIZER, ModelChoice
from speechbrain_mamba.cli.options import file_options, model_options, talk_options
from speechbrain_mamba.cli.program import Command
from speechbrain_mamba.cli.progress import seconds_bar
from speechbrain_mamba.utils.terminal import show

if TYPE_CHECKING:
    from speechbrain_mamba.cli.files import Done, Outcome, Task
    from speechbrain_mamba.text.transcripts import Transcript

FORMATS = {"txt": "text", "json": "json", "srt": "srt", "vtt": "vtt"}
"""Formats by the names of their files' suffixes."""


@click.command(
    cls=Command,
    section="Use a model",
    short_help="Write down what is said in recordings.",
    examples=[
        ("transcribe talk.wav", "print the text"),
        ("transcribe talk.m4a --format srt --out subtitles", "subtitles/talk.srt"),
        ("transcribe recordings/ --format all --out texts", "all files of a folder, in all formats"),
        ("transcribe - --format json < talk.wav", "print words with times and confidence"),
        ("transcribe call.wav --channels each", "one speaker on each channel"),
    ],
)
@file_options
@click.option("--out", metavar="FOLDER", help="Where transcripts are written, or a file; without it they are printed.")
@click.option(
    "--format",
    "form",
    type=click.Choice([*FORMATS, "all"]),
    help="Text; JSON with the times of words; subtitles as SubRip or WebVTT; or all of them, which takes --out.  "
    "[default: the suffix of --out, or txt]",
)
@click.option("--search", type=click.Choice(["greedy", "beam"]), help="How the text is looked for.  [the model's own]")
@click.option("--beam-size", type=click.IntRange(min=1), help="Hypotheses of the beam search.  [the model's own]")
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=6),
    default=20.0,
    show_default=True,
    help="Longest piece that is recognized at a time. Recordings are cut at pauses.",
)
@model_options(RECOGNIZER)
@talk_options
def command(
    files: Sequence[str],
    model: ModelChoice,
    out: str | None,
    form: str | None,
    jobs: int,
    force: bool,
    progress: bool,
    batch_size: int,
    **options: Any,
) -> None:
    """Write down what is said in recordings.

    FILE is a recording of any rate and number of channels, a folder, a pattern, or - for standard input. The text is
    printed, or written to NAME.txt in the folder of --out.
    """
    from speechbrain_mamba.cli.files import Task, find_sources, plan_outputs, run_tasks

    sources = find_sources(files)
    out = None if out == "-" else out
    form = form or (Path(out or "").suffix[1:] if Path(out or "").suffix[1:] in FORMATS else "txt")
    if out is None and (form == "all" or (form in ("srt", "vtt") and len(sources) > 1)):
        what = "All formats" if form == "all" else "Subtitles of several recordings"
        raise click.UsageError(f"{what} cannot be printed: give --out.", click.get_current_context())
    if out is None:
        tasks = [Task(source, (), source.error) for source in sources]
    else:
        endings = [f".{suffix}" for suffix in (FORMATS if form == "all" else [form])]
        tasks = plan_outputs(sources, out, endings, force=force)
    bar = progress and len(sources) == 1
    summary = run_tasks(
        tasks,
        make_work=partial(Transcription, model, form, bar=bar, batch_size=batch_size, **options),
        jobs=jobs,
        batch_size=batch_size,
        report=partial(print_transcript, form=form, named=len(sources) > 1) if out is None else None,
        progress=progress,
        description="Transcribing",
    )
    if summary.exit_code:
        raise SystemExit(summary.exit_code)


class Transcription:
    """Transcribes one file after another.

    Arguments
    ---------
    model : ModelChoice
        The recognizer.
    form : str
        The format of what is returned, and of the files that are written; ``all`` if they have several.
    search, beam_size
        Those of :meth:`~speechbrain_mamba.inference.recognition.Recognizer.from_hparams`.
    channels, max_seconds, batch_size
        Those of :meth:`~speechbrain_mamba.inference.recognition.Recognizer.transcribe`.
    bar : bool
        Whether progress within a file is shown.
    """

    def __init__(
        self,
        model: ModelChoice,
        form: str,
        *,
        search: str | None,
        beam_size: int | None,
        channels: str,
        max_seconds: float,
        batch_size: int,
        bar: bool = False,
    ) -> None:
        from speechbrain_mamba.inference.recognition import Recognizer

        self.recognizer = model.load(Recognizer, search=search, beam_size=beam_size)
        self.form, self.bar = form, bar
        self.options: dict[str, Any] = {"channels": channels, "max_seconds": max_seconds, "batch_size": batch_size}

    def __call__(self, task: Task) -> Done:
        """Transcribe one file, into files or a text."""
        with seconds_bar("Transcribing", self.bar) as progress:
            heard = self.recognizer.transcribe(task.source.path, progress=progress, **self.options)
        return self.write(task, heard if isinstance(heard, list) else [heard])

    def many(self, tasks: Sequence[Task]) -> list[Done]:
        """Transcribe several files, whose pieces share batches."""
        if self.options["channels"] == "each":
            return [self(task) for task in tasks]
        options = {name: self.options[name] for name in ("max_seconds", "batch_size")}
        heard = self.recognizer.transcribe_many([task.source.path for task in tasks], **options)
        return [self.write(task, [transcript]) for task, transcript in zip(tasks, heard)]

    def write(self, task: Task, transcripts: Sequence[Transcript]) -> Done:
        """Write the transcripts of the channels of a file, into files or a text."""
        from speechbrain_mamba.cli.files import Done
        from speechbrain_mamba.utils.files import atomic_path

        for output in task.outputs:
            with atomic_path(output, durable=False) as temporary:
                temporary.write_text(write_channels(transcripts, Path(output).suffix[1:]), encoding="utf-8")
        return Done(None if task.outputs else write_channels(transcripts, self.form))


def write_channels(transcripts: Sequence[Transcript], form: str) -> str:
    """Write the transcripts of the channels of a recording in a format. If there are several, JSON has a list of them,
    and elsewhere each segment begins with its channel.

    Example
    -------
    >>> from speechbrain_mamba.text.transcripts import Transcript, Word
    >>> said = [Word("NO", 1.0, 2.0)], [Word("YES", 0.0, 1.0)]
    >>> channels = [Transcript.from_words(words, 3.0) for words in said]
    >>> print(write_channels(channels, "txt"), end="")
    channel 2: YES
    channel 1: NO
    """
    from speechbrain_mamba.text.transcripts import Segment, Transcript, Word, write_transcript

    if len(transcripts) == 1:
        return write_transcript(transcripts[0], FORMATS[form])
    if form == "json":
        channels = [json.loads(transcript.to_json()) for transcript in transcripts]
        return json.dumps({"channels": channels}, ensure_ascii=False, indent=1) + "\n"
    segments = []
    for number, transcript in enumerate(transcripts, start=1):
        for segment in transcript.segments:
            channel = Word(f"channel {number}:", segment.start, segment.start)
            segments.append(Segment((channel, *segment.words)))
    segments.sort(key=lambda segment: segment.start)
    return write_transcript(Transcript(tuple(segments), transcripts[0].duration), FORMATS[form])


def print_transcript(outcome: Outcome, form: str, named: bool) -> None:
    """Print the transcript of a file, if there are several on one line with its name. Ends the command if nobody reads.

    Example
    -------
    >>> from types import SimpleNamespace as Outcome
    >>> task = Outcome(source=Outcome(name="a.wav"))
    >>> print_transcript(Outcome(message="", task=task, value="ONE\\nTWO\\n"), "txt", named=True)
    a.wav: ONE TWO
    """
    if outcome.message:
        click.echo(f"error: {outcome.message}", err=True)
        return
    text, name = outcome.value, outcome.task.source.name
    if named and form == "json":
        text = json.dumps({"file": name, **json.loads(text)}, ensure_ascii=False)
    elif named:
        text = f"{name}: {' '.join(text.split())}"
    if not show(text):
        raise SystemExit(0)
