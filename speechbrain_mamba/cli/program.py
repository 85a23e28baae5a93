"""The program and its commands: what click does not do on its own."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from speechbrain_mamba.cli import commands
from speechbrain_mamba.cli.locations import check_choice

NAME = "speechbrain-mamba"
SECTIONS = ("Use a model", "Train a model", "Share a model", "This installation")
HELP = ("-h", "--help")


def program_name() -> str:
    """How this process was called: ``speechbrain-mamba``, or as a module of Python.

    Example
    -------
    >>> program_name()
    'python -m speechbrain_mamba'
    """
    return NAME if Path(sys.argv[0]).stem == NAME else "python -m speechbrain_mamba"


class Command(click.Command):
    """A command whose help ends with examples.

    Arguments
    ---------
    section : str
        Its place in the help of the program, one of ``SECTIONS``.
    examples : sequence of (str, str)
        Command lines without the program's name, and what each does.
    **options
        Those of ``click.Command``.
    """

    def __init__(self, *arguments: Any, section: str, examples: Sequence[tuple[str, str]] = (), **options: Any) -> None:
        options["context_settings"] = {"help_option_names": HELP, **(options.get("context_settings") or {})}
        super().__init__(*arguments, **options)
        self.section, self.examples = section, examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, a comment above each, and the epilog."""
        if self.examples:
            with formatter.section("Examples"):
                for line, comment in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}# {comment}\n")
                    formatter.write(f"{'':{formatter.current_indent}}{program_name()} {line}\n")
        super().format_epilog(ctx, formatter)


class RawCommand(Command):
    """A command that gets its arguments as they are, in ``arguments``, after ``--help`` is looked for among them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take all arguments; nothing is left to parse."""
        if self.add_help_option and any(argument in HELP for argument in args):
            click.echo(ctx.get_help())
            ctx.exit()
        ctx.params["arguments"] = args
        return []

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The usage, which is ``options_metavar``."""
        return [self.options_metavar or ""]


class Program(click.Group):
    """All commands. Each is a module of ``speechbrain_mamba.cli.commands`` and is imported when it is asked for.

    Example
    -------
    >>> program = Program()
    >>> program.list_commands(click.Context(program))[:3]
    ['convert-checkpoint', 'demo', 'doctor']
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        modules = [module.name for module in pkgutil.iter_modules(commands.__path__)]
        return sorted(name.rstrip("_").replace("_", "-") for name in modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Command | None:
        """The command of a name, None if there is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = cmd_name.replace("-", "_")
        stems = {name.name for name in pkgutil.iter_modules(commands.__path__)}
        return import_module(f"{commands.__name__}.{module if module in stems else module + '_'}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Choose the command; a near name is suggested for one that does not exist."""
        try:
            check_choice("command", args[0], self.list_commands(ctx))
        except ValueError as error:
            raise click.UsageError(str(error), ctx) from None
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section."""
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        for section in SECTIONS:
            rows = [(name, c.get_short_help_str(100)) for name, c in found.items() if c and c.section == section]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)
