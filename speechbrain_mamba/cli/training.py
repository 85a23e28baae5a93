"""The command train, which runs a task's recipe."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from speechbrain_mamba.cli.commands import PROGRAM, user_errors
from speechbrain_mamba.cli.locations import find_hparams, find_recipe, list_names, list_tasks
from speechbrain_mamba.utils.terminal import show

HELP = ("-h", "--help")


def train(arguments: list[str]) -> None:
    """Train and test a model: run ``recipes/TASK/train.py`` as a script, in this process.

    Arguments
    ---------
    arguments : list of str
        Task, name or path of a hyper-parameter file, and options for the recipe; or ``--help`` after any of them.

    Example
    -------
    >>> train(["--help"])  # doctest: +ELLIPSIS
    usage: python -m speechbrain_mamba train TASK NAME [--key value ...]
    ...
    """
    given = [argument for argument in arguments[:2] if argument not in HELP]
    if len(given) < 2:
        with user_errors():
            text = describe_names(given[0]) if given else describe_tasks()
        if len(given) < len(arguments):
            show(text)
            return
        print(text, file=sys.stderr)  # the task or the name is missing
        raise SystemExit(2)
    task, name = given
    with user_errors():
        script, file = find_recipe(task), find_hparams(name, task)
    sys.argv = [str(script), str(file), *arguments[2:]]
    sys.path.insert(0, str(script.parent))  # where a script finds the modules beside it
    runpy.run_path(str(script), run_name="__main__")


def describe_tasks() -> str:
    """The help of the command."""
    tasks = list_tasks()
    width = max(map(len, tasks))
    lines = [f"  {task:{width}}  {', '.join(list_names(task))}" for task in tasks]
    return (
        f"usage: {PROGRAM} train TASK NAME [--key value ...]\n\n"
        "Train and test a model. NAME is one of the names below, or the path of a hyper-parameter file.\n\n"
        "tasks and names:\n" + "\n".join(lines) + f"\n\n'{PROGRAM} train TASK --help' says more about the names."
    )


def describe_names(task: str) -> str:
    """The help of the command for a task."""
    names = list_names(task)
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {read_summary(find_hparams(name, task))}" for name in names]
    return (
        f"usage: {PROGRAM} train {task} NAME [--key value ...]\n\n"
        "Train and test a model. NAME is one of the names below, or the path of a hyper-parameter file.\n\n"
        "names:\n" + "\n".join(lines) + "\n\n"
        f"--key value replaces a hyper-parameter; '{PROGRAM} hparams {task}/NAME' prints all of them.\n"
        f"'{PROGRAM} train {task} NAME --help' shows the other options."
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
