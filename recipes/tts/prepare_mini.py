#!/usr/bin/env python3
"""Build the embedded corpus, with the manifests that the other scripts here take; nothing is downloaded.

python recipes/tts/prepare_mini.py CORPUS_FOLDER MANIFEST_FOLDER
"""

from __future__ import annotations

import argparse

from speechbrain_mamba.corpora.librispeech import prepare_librispeech
from speechbrain_mamba.corpora.mini.build import build_mini_corpus

SPLITS = ("train", "valid", "test")


def main(arguments=None):
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus_folder", help="where the corpus goes, or is")
    parser.add_argument("manifest_folder", help="where the manifests go")
    parser.add_argument("--sample_rate", type=int, default=8000, help="in Hz")
    parser.add_argument("--speakers", type=int, nargs=3, default=[40, 6, 8], help="for training, validation and test")
    parser.add_argument("--sentences", type=int, default=40, help="sentences of each speaker")
    options = parser.parse_args(arguments)
    rate = options.sample_rate
    corpus = build_mini_corpus(options.corpus_folder, rate, speakers=options.speakers, sentences=options.sentences)
    prepare_librispeech(corpus, options.manifest_folder, {split: [split] for split in SPLITS}, rate)


if __name__ == "__main__":
    main()
