#!/usr/bin/env python3
"""Make mixtures from any folder tree of clean speech, speaker/**/*.wav or .flac.

The tree is either divided already, into folders such as train, valid, test (the embedded corpus) or train-clean-100,
dev-clean, test-clean (LibriSpeech), each with a folder per speaker; or it has a folder per speaker, and the speakers
are divided here.

    python recipes/separation/prepare_folder.py DATA_FOLDER SAVE_FOLDER --num_spks 2 --sample_rate 8000
"""

from __future__ import annotations

from speechbrain_mamba.corpora.folder import prepare_folder
from speechbrain_mamba.corpora.mixtures import add_mixture_options
from speechbrain_mamba.corpora.scripts import preparation_parser, run_preparation


def main(arguments: list[str] | None = None) -> None:
    """Run the preparation from the command line."""
    parser = preparation_parser(__doc__, "folder of the speech", "where the manifests and mixtures go")
    add_mixture_options(parser)
    parser.add_argument("--fractions", type=float, nargs=3, default=(0.8, 0.1, 0.1), help="shares of the speakers")
    run_preparation(parser, prepare_folder, arguments)


if __name__ == "__main__":
    main()
