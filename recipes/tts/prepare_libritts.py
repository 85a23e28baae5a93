#!/usr/bin/env python3
"""Turn LibriTTS into the tokens that train.py trains on.

    python recipes/tts/prepare_libritts.py /path/to/LibriTTS TOKEN_FOLDER

LibriTTS is the folder with ``train-clean-100`` and so on. Manifests go to ``TOKEN_FOLDER/manifests``. A run that was
killed goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from prepare_tokens import add_token_options, load_token_codec, make_tokens

from speechbrain_mamba.corpora.librispeech import LIBRITTS, prepare_libritts


def main(arguments=None):
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_folder", help="LibriTTS")
    add_token_options(parser)
    for split, parts in LIBRITTS.items():
        parser.add_argument(f"--{split}", nargs="+", default=parts, help=f"parts for {split}: {' '.join(parts)}")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO)
    codec = load_token_codec(options)
    splits = {split: getattr(options, split) for split in LIBRITTS}
    folder = Path(options.token_folder) / "manifests"
    make_tokens(prepare_libritts(options.data_folder, folder, splits, codec.sample_rate), codec, options)


if __name__ == "__main__":
    main()
