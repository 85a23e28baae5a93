#!/usr/bin/env python3
"""List the utterances of LibriSpeech, or of a corpus that is laid out like it, in CSV files.

python recipes/asr/prepare_librispeech.py /path/to/LibriSpeech results/librispeech
"""

import argparse
import logging

from speechbrain_mamba.corpora.librispeech import prepare_librispeech

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_folder", help="the corpus")
    parser.add_argument("save_folder", help="where the CSV files go")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    prepare_librispeech(arguments.data_folder, arguments.save_folder)
