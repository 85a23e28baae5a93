"""The command train, which runs a task's recipe."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import click

from speechbrain_mamba.cli.locations import find_hparams, find_recipe, list_names, list_tasks
from speechbrain_mamba.cli.program import HELP, RawCommand, program_name
from speechbrain_mamba.utils.terminal import show


@click.command(
    cls=RawCommand,
    section="Train a model",
    short_help="Train and test a model: train TASK NAME [--key value ...].",
    add_help_option=False,
    examples=[
        ("train separation mini_mambatasnet", "a small Mamba-TasNet on synthetic voices, minutes on a CPU"),
        ("train separation mini_mambatasnet --number_of_epochs 10 --lr 1e-4", "with other hyper-parameters"),
    ],
)
def command(arguments: list[str]) -> Callable[[], None] | None:
    """Train and test a model: run ``recipes/TASK/train.py`` as a script, in this process.

    ``arguments`` are the task, the name or path of a hyper-parameter file, and options for the recipe; or ``--help``
    after any of them. Returns what runs the recipe: its errors are its own, and are not caught here.
    """
    given = [argument for argument in arguments[:2] if argument not in HELP]
    if len(given) < 2:
        text = describe_names(given[0]) if given else describe_tasks()
        if len(given) < len(arguments):
            show(text)
            return None
        click.echo(text, err=True)  # the task or the name is missing
        raise SystemExit(2)
    task, name = given
    script, file = find_recipe(task), find_hparams(name, task)

    def run() -> None:
        sys.argv = [str(script), str(file), *arguments[2:]]
        sys.path.insert(0, str(script.parent))  # where a script finds the modules beside it
        runpy.run_path(str(script), run_name="__main__")

    return run


def describe_tasks() -> str:
    """The help of the command."""
    tasks = list_tasks()
    width = max(map(len, tasks))
    lines = [f"  {task:{width}}  {', '.join(list_names(task))}" for task in tasks]
    return (
        f"Usage: {program_name()} train TASK NAME [--key value ...]\n\n"
        "Train and test a model. NAME is one of the names below, or the path of a hyper-parameter file.\n\n"
        "tasks and names:\n" + "\n".join(lines) + f"\n\n'{program_name()} train TASK --help' says more about the names."
    )


def describe_names(task: str) -> str:
    """The help of the command for a task."""
    names = list_names(task)
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {read_summary(find_hparams(name, task))}" for name in names]
    return (
        f"Usage: {program_name()} train {task} NAME [--key value ...]\n\n"
        "Train and test a model. NAME is one of the names below, or the path of a hyper-parameter file.\n\n"
        "names:\n" + "\n".join(lines) + "\n\n"
        f"--key value replaces a hyper-parameter; '{program_name()} hparams {task}/NAME' prints all of them.\n"
        f"'{program_name()} train {task} NAME --help' shows the other options."
    )


def read_summary(path: Path) -> str:
    """The first line of a hyper-parameter file's comment.

    Example
    -------
    >>> read_summary(find_hparams("separation/mini_mambatasnet"))
    'A small Mamba-TasNet for the embedded corpus, 0.20 M parameters.'
    """
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    return comments[0].removeprefix("# ") if comments else ""
