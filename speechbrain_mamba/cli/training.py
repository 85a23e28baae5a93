"""The command train, which runs a task's recipe."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from speechbrain_mamba.cli.commands import PROGRAM, user_errors
from speechbrain_mamba.cli.locations import check_choice, find_hparams, find_recipe, list_names, list_tasks


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
    with user_errors():
        if arguments[:1] in ([], ["-h"], ["--help"]):
            answer(describe_tasks(), bool(arguments))
            return
        task = check_choice("task", arguments[0], list_tasks())
        if arguments[1:2] in ([], ["-h"], ["--help"]):
            answer(describe_names(task), len(arguments) > 1)
            return
        script, file = find_recipe(task), find_hparams(arguments[1], task)
    sys.argv = [str(script), str(file), *arguments[2:]]
    sys.path.insert(0, str(script.parent))  # where a script finds the modules beside it
    runpy.run_path(str(script), run_name="__main__")


def answer(text: str, asked: bool) -> None:
    """Print a help text if it was asked for; otherwise an argument is missing, which ends the process with code 2."""
    print(text, file=sys.stdout if asked else sys.stderr)
    if not asked:
        raise SystemExit(2)


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
