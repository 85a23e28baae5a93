"""The frame of a preparation that runs as a script."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)


def preparation_parser(description: str | None, data_folder: str, save_folder: str) -> argparse.ArgumentParser:
    """The command line of a preparation, with its two folders.

    Arguments
    ---------
    description : str
        The script's docstring, shown as it is written.
    data_folder, save_folder : str
        What the help says of the two folders.

    Returns
    -------
    argparse.ArgumentParser
        A parser with the arguments ``data_folder`` and ``save_folder``; add others.

    Example
    -------
    >>> parser = preparation_parser("List a corpus.", "the corpus", "where the manifests go")
    >>> parser.parse_args(["corpus", "lists"]).save_folder
    'lists'
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_folder", help=data_folder)
    parser.add_argument("save_folder", help=save_folder)
    return parser


def run_preparation(
    parser: argparse.ArgumentParser, prepare: Callable[..., Mapping[str, Any]], arguments: list[str] | None = None
) -> None:
    """Run a preparation as a script: an error in the data is printed in one line, and the results are listed.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Its options have the names of the preparation's arguments.
    prepare : callable
        The preparation. It returns a mapping from split to manifest, or to something else that is to be listed.
    arguments : list of str, optional
        The command line; that of the process by default.

    Raises
    ------
    SystemExit
        When the arguments or the data are wrong.

    Example
    -------
    >>> parser = argparse.ArgumentParser()
    >>> _ = parser.add_argument("save_folder")
    >>> run_preparation(parser, lambda save_folder: {"test": f"{save_folder}/test.csv"}, ["out"])
    """
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        results = prepare(**options)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(1, f"{error}\n")
    for split, result in results.items():
        logger.info("%s: %s", split, result)
