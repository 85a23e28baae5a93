"""The frame of a preparation that runs as a script."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from speechbrain_mamba.utils.locks import FolderInUseError, alone_in_run

logger = logging.getLogger(__name__)


def preparation_parser(description: str | None, data_folder: str, save_folder: str) -> argparse.ArgumentParser:
    """The command line of a script: its docstring, and two folders with what the help says of them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_folder", help=data_folder)
    parser.add_argument("save_folder", help=save_folder)
    return parser


def run_preparation(
    parser: argparse.ArgumentParser, prepare: Callable[..., Mapping[str, Any]], arguments: list[str] | None = None
) -> None:
    """Run a preparation as a script: an error in the data is printed in one line, and the results are listed. It does
    not write into the folder of a run while another command works there.

    The options of the parser are the arguments of ``prepare``, which returns the result of each split. The command line
    is that of the process by default.

    Example
    -------
    >>> parser = preparation_parser("List a corpus.", "the corpus", "where the manifests go")
    >>> run_preparation(parser, lambda data_folder, save_folder: {"test": f"{save_folder}/test.csv"}, ["in", "out"])
    """
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with alone_in_run(options["save_folder"]) if "save_folder" in options else contextlib.nullcontext():
            results = prepare(**options)
    except (ValueError, FileNotFoundError, FolderInUseError) as error:
        parser.exit(1, f"{error}\n")
    for split, result in results.items():
        logger.info("%s: %s", split, result)
