"""Command lines that help texts and documents show."""

from __future__ import annotations

import shlex

import click

from speechbrain_mamba.cli.commands.hparams import read_options
from speechbrain_mamba.cli.locations import find_hparams
from speechbrain_mamba.cli.main import program
from speechbrain_mamba.cli.program import HELP
from speechbrain_mamba.utils.hparams_listing import list_hparams

CALLS = (["speechbrain-mamba"], ["python", "-m", "speechbrain_mamba"])


def split(line: str) -> tuple[list[str], str | None]:
    """The arguments of a command line without the program's name and comments, and the file that it reads, if any."""
    words = shlex.split(line, comments=True)
    for call in CALLS:
        if words[: len(call)] == call:
            words = words[len(call) :]
    if "<" in words:
        place = words.index("<")
        return words[:place] + words[place + 2 :], words[place + 1]
    return words, None


def check(line: str) -> None:
    """Fail if a command line is wrong, without running it."""
    (name, *arguments), _ = split(line)
    with click.Context(program, info_name="speechbrain-mamba") as context:
        command = program.get_command(context, name)
        assert command is not None, line
        if name in ("train", "hparams"):
            if name == "train":
                task, model, *rest = arguments
            else:
                task, model, rest = None, arguments[0], arguments[1:]
            options = [word for word in rest if word not in (*HELP, "--test_only")]  # flags
            assert list_hparams(find_hparams(model, task), read_options(options))
        else:
            command.make_context(name, list(arguments), parent=context)
