#!/usr/bin/env python3
"""List the utterances of LibriSpeech, or of a corpus that is laid out like it, in CSV files.

python recipes/asr/prepare_librispeech.py /path/to/LibriSpeech results/librispeech
"""

from __future__ import annotations

from speechbrain_mamba.corpora.librispeech import prepare_librispeech
from speechbrain_mamba.corpora.scripts import preparation_parser, run_preparation


def main(arguments: list[str] | None = None) -> None:
    """Run the preparation from the command line."""
    run_preparation(preparation_parser(__doc__, "the corpus", "where the CSV files go"), prepare_librispeech, arguments)


if __name__ == "__main__":
    main()
