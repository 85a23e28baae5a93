"""Run a command, and end in one sentence if something is wrong."""

from __future__ import annotations

import logging
import sys

import click

from speechbrain_mamba import __version__
from speechbrain_mamba.cli.program import HELP, NAME, Program, program_name
from speechbrain_mamba.cli.signals import interrupted_by_signals
from speechbrain_mamba.utils.memory import collect_as_usual, collect_rarely
from speechbrain_mamba.utils.mistakes import MISTAKES, is_full, is_mistake, words_of

logger = logging.getLogger(__name__)

INTERRUPTED = 130
"""The exit code after Ctrl-C: that of shells, 128 and the number of the signal."""


@click.command(
    cls=Program,
    no_args_is_help=False,
    help="Mamba for speech: separate voices, transcribe, synthesize, and train the models that do it.",
    epilog="'COMMAND --help' says more, with examples.",
    context_settings={"help_option_names": HELP, "max_content_width": 100},
)
@click.version_option(__version__, prog_name=NAME, message="%(prog)s %(version)s")
def program() -> None:
    """Hold the commands, which are found in ``cli/commands``."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command of the package. A mistake of the user ends the process with one sentence on stderr.

    Arguments
    ---------
    arguments : list of str, optional
        Command line without the program's name; that of the process by default.

    Raises
    ------
    SystemExit
        With code 1 after a mistake, 2 if the command line is wrong, 3 if some of many files failed, 130 after Ctrl-C,
        and 143 after SIGTERM. A fault of the code is raised as it is.

    Example
    -------
    >>> main(["train", "codec", "--help"])  # doctest: +ELLIPSIS
    Usage: python -m speechbrain_mamba train codec NAME [--key value ...]
    ...
    """
    received: list[int] = []
    collect_rarely()
    try:
        with interrupted_by_signals() as received:
            run = program.main(arguments, prog_name=program_name(), standalone_mode=False)
    except SystemExit as error:
        if received and error.code == INTERRUPTED:
            raise SystemExit(128 + received[0]) from None
        raise
    except click.UsageError as error:
        told = error.format_message()
        path = error.ctx.command_path if error.ctx else program_name()
        end(f"{told}{'' if told.endswith('.') else '.'} See '{path} --help'.", 2)
    except click.Abort:
        print("interrupted.", file=sys.stderr)
        raise SystemExit(128 + received[0] if received else INTERRUPTED) from None
    except MISTAKES as error:
        if not is_mistake(error):
            raise
        logger.debug("Where it came from:", exc_info=True)
        advice = ": free some space, and give the same command again." if is_full(error) else ""
        end(f"{words_of(error)}{advice}", 1)
    finally:
        collect_as_usual()
    if callable(run):  # what a command leaves to be done after it, whose errors are shown as they are
        run()


def end(sentence: str, code: int) -> None:
    """End the process with a sentence on stderr."""
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(code) from None
