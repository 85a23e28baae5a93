#!/usr/bin/env python3
"""Turn LibriTTS into the tokens that train.py trains on.

    python recipes/tts/prepare_libritts.py /path/to/LibriTTS TOKEN_FOLDER

LibriTTS is the folder with ``train-clean-100`` and so on. Manifests go to ``TOKEN_FOLDER/manifests``. A run that was
killed resumes where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prepare_tokens import add_token_options, make_tokens

from speechbrain_mamba.codecs import load_codec
from speechbrain_mamba.corpora.libritts import LIBRITTS, prepare_libritts
from speechbrain_mamba.corpora.scripts import run_preparation


def prepare(data_folder: str, **options: Any) -> dict[str, Path]:
    """List the corpus at the sample rate of the codec, and make its tokens."""
    settings = argparse.Namespace(**options)
    codec = load_codec(settings.codec, settings.n_codebooks)
    splits = {split: options[split] for split in LIBRITTS}
    manifests = prepare_libritts(data_folder, Path(settings.token_folder) / "manifests", splits, codec.sample_rate)
    make_tokens(manifests, codec, settings)
    return manifests


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_folder", help="LibriTTS")
    add_token_options(parser)
    for split, parts in LIBRITTS.items():
        parser.add_argument(f"--{split}", nargs="+", default=parts, help=f"parts for {split}: {' '.join(parts)}")
    run_preparation(parser, prepare, arguments)


if __name__ == "__main__":
    main()
