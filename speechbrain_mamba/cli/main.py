"""Choose a command and run it."""

from __future__ import annotations

import argparse
import sys

from speechbrain_mamba.cli.commands import PROGRAM, copy_recipes, run_doctor, show_hparams
from speechbrain_mamba.cli.training import train

COMMANDS = {
    "doctor": (run_doctor, "show versions, backends and threads, and what would make it faster"),
    "train": (train, "train and test a model: train TASK NAME [--key value ...]"),
    "hparams": (show_hparams, "print the hyper-parameters of a model, and where each one comes from"),
    "recipes": (copy_recipes, "copy recipes and hyper-parameter files into a folder, to change them"),
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command of the package. A user's mistake ends the process with one sentence on stderr.

    Arguments
    ---------
    arguments : list of str, optional
        Command line without the program's name; that of the process by default.

    Example
    -------
    >>> main(["train", "codec", "--help"])  # doctest: +ELLIPSIS
    usage: python -m speechbrain_mamba train codec NAME [--key value ...]
    ...
    """
    given = sys.argv[1:] if arguments is None else arguments
    listing = "\n".join(f"  {name:8}  {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND ...",
        description=f"Mamba for SpeechBrain.\n\ncommands:\n{listing}",
        epilog=f"'{PROGRAM} COMMAND --help' says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands above")
    command, _ = COMMANDS[parser.parse_args(given[:1]).command]
    command(given[1:])
