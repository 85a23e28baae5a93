#!/usr/bin/env python3
"""Build the embedded corpus, with the manifests that the other scripts here take; nothing is downloaded.

python recipes/tts/prepare_mini.py CORPUS_FOLDER MANIFEST_FOLDER
"""

from __future__ import annotations

from speechbrain_mamba.corpora.mini.prepare import prepare_mini
from speechbrain_mamba.corpora.scripts import preparation_parser, run_preparation


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = preparation_parser(__doc__, "where the corpus goes, or is", "where the manifests go")
    parser.add_argument("--sample_rate", type=int, default=8000, help="in Hz")
    parser.add_argument("--speakers", type=int, nargs=3, default=[40, 6, 8], help="for training, validation and test")
    parser.add_argument("--sentences", type=int, default=40, help="sentences of each speaker")
    parser.add_argument("--digit_strings", type=int, default=4, help="strings of digits of each speaker")
    parser.add_argument("--distinct_sentences", type=int, default=1200, help="different sentences in all")
    run_preparation(parser, prepare_mini, arguments)


if __name__ == "__main__":
    main()
