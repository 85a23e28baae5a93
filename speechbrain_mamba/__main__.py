"""``python -m speechbrain_mamba doctor``."""

from __future__ import annotations

import argparse

from speechbrain_mamba.doctor import report


def main(arguments: list[str] | None = None) -> None:
    """Run a command of the package.

    Arguments
    ---------
    arguments : list of str, optional
        Command line without the program's name; that of the process by default.

    Example
    -------
    >>> main(["doctor"])  # doctest: +ELLIPSIS
    speechbrain_mamba ...
    """
    parser = argparse.ArgumentParser(prog="python -m speechbrain_mamba", description="Mamba for SpeechBrain.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="show versions, backends and threads, and what would make it faster")
    parser.parse_args(arguments)
    print(report())


if __name__ == "__main__":
    main()
