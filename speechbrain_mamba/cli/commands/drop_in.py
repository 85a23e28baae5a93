"""The command drop-in, which runs other people's code."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import click

from speechbrain_mamba.cli.program import HELP, RawCommand
from speechbrain_mamba.utils.terminal import show


@click.command(
    cls=RawCommand,
    section="This installation",
    short_help="Run other people's Mamba code without mamba-ssm: drop-in SCRIPT ...",
    add_help_option=False,
    options_metavar="SCRIPT | -m MODULE [ARGUMENTS ...]",
    examples=[
        ("drop-in inference.py --config config.yaml", "a script whose models import mamba_ssm, on a CPU"),
        ("drop-in -m pytest tests", "a module: the tests of such a repository"),
    ],
)
@click.pass_context
def command(context: click.Context, arguments: list[str]) -> Callable[[], None] | None:
    """Run a Python script or module, in this process, with what it imports of mamba-ssm and causal-conv1d served.

    All arguments after the script or the module are its own. What is installed of these two packages is used as it is.
    docs/drop_in.md lists what is served.
    """
    if not arguments or arguments[0] in HELP:
        show(context.get_help())
        return None
    if arguments[0] == "-m":
        if len(arguments) < 2:
            raise click.UsageError("-m needs the name of a module.", context)
        return lambda: run_module(arguments[1], arguments[1:])
    if arguments[0].startswith("-"):
        raise click.UsageError(f"'{arguments[0]}' stands before the script: give the script or -m first.", context)
    script = Path(arguments[0])
    if not script.is_file():
        raise FileNotFoundError(f"'{script}' is not a file: give a Python script, or -m and the name of a module.")
    return lambda: run_script(script, arguments)


def run_script(script: Path, arguments: list[str]) -> None:
    """Run a script as ``python SCRIPT`` does."""
    _serve(str(script.resolve().parent), arguments)
    runpy.run_path(str(script), run_name="__main__")


def run_module(name: str, arguments: list[str]) -> None:
    """Run a module as ``python -m MODULE`` does."""
    _serve(str(Path.cwd()), arguments)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _serve(folder: str, arguments: list[str]) -> None:
    """Install the finder, and let imports and arguments be those of the script."""
    from speechbrain_mamba import drop_in

    sys.argv = arguments
    sys.path.insert(0, folder)
    drop_in.install()
