#!/usr/bin/env python3
"""Make mixtures of the clean speech of Picovoice's speech-to-intent benchmark, with each recording as a speaker.

Pauses are removed. The recordings are divided into 80, 10 and 10 %, always in the same way; most people speak in all
three.

    python recipes/separation/prepare_speech_to_intent.py DATA_FOLDER SAVE_FOLDER --dynamic_mixing
"""

from __future__ import annotations

from speechbrain_mamba.corpora.mixtures import add_mixture_options
from speechbrain_mamba.corpora.scripts import preparation_parser, run_preparation
from speechbrain_mamba.corpora.speech_to_intent import prepare_speech_to_intent


def main(arguments: list[str] | None = None) -> None:
    """Run the preparation from the command line."""
    parser = preparation_parser(__doc__, "the clone of speech-to-intent-benchmark", "where the manifests go")
    add_mixture_options(parser)
    run_preparation(parser, prepare_speech_to_intent, arguments)


if __name__ == "__main__":
    main()
