#!/usr/bin/env python3
"""Make mixtures of digit strings from the Free Spoken Digit Dataset (FSDD), 8 kHz recordings of six speakers.

Its recordings are joined at random to strings of one speaker. Takes 0 to 4 are in the test data only; takes 5 to 9 are
for validation, the others for training. All splits have the same speakers.

    python recipes/separation/prepare_fsdd.py DATA_FOLDER SAVE_FOLDER --dynamic_mixing
"""

from __future__ import annotations

from speechbrain_mamba.corpora.fsdd import prepare_fsdd_mixtures
from speechbrain_mamba.corpora.mixtures import add_mixture_options
from speechbrain_mamba.corpora.scripts import preparation_parser, run_preparation


def main(arguments: list[str] | None = None) -> None:
    """Run the preparation from the command line."""
    parser = preparation_parser(
        __doc__, "the clone of free-spoken-digit-dataset", "where the manifests and mixtures go"
    )
    add_mixture_options(parser)
    run_preparation(parser, prepare_fsdd_mixtures, arguments)


if __name__ == "__main__":
    main()
