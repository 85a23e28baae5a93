#!/usr/bin/env python3
"""Turn transcribed speech into the tokens that train.py trains on.

    python recipes/tts/prepare_tokens.py MANIFEST_FOLDER TOKEN_FOLDER --codec encodec_24khz

The manifest folder has ``train.csv``, ``valid.csv`` and ``test.csv`` (or ``.json``) with the columns ID, duration
(seconds), wav and wrd (the text), and optionally spk_id and language (an espeak-ng language such as de). The same
command again resumes a run that was killed.
"""

from __future__ import annotations

import argparse

from speechbrain_mamba.codecs import load_codec
from speechbrain_mamba.codecs.tokenize_speech import tokenize_speech
from speechbrain_mamba.dataio.manifests import find_manifests
from speechbrain_mamba.text.phonemes import KINDS


def add_token_options(parser):
    """Add the options of tokens and their folder to a command line."""
    parser.add_argument("token_folder", help="where the tokens go")
    parser.add_argument("--codec", default="encodec_24khz", help="encodec_24khz, a folder or a Hub id")
    parser.add_argument("--n_codebooks", type=int, help="codebooks to use; all, of encodec_24khz 8, by default")
    parser.add_argument("--kind", choices=KINDS, default="ipa", help="kind of text tokens")
    parser.add_argument("--language", default="en-us", help="espeak-ng language of texts without one")
    parser.add_argument("--device", default="cpu", help="where the codec runs")


def make_tokens(manifests, codec, options, data_root=None):
    """Turn the speech of some manifests into tokens, as a command line says."""
    counts = tokenize_speech(
        manifests, options.token_folder, codec, options.codec, options.kind, options.language, data_root, options.device
    )
    print(", ".join(f"{split}: {count} utterances" for split, count in counts.items()))


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest_folder", help="folder of train, valid and test manifests")
    add_token_options(parser)
    parser.add_argument("--data_root", help="what $data_root stands for in the manifests")
    options = parser.parse_args(arguments)
    codec = load_codec(options.codec, options.n_codebooks)
    make_tokens(find_manifests(options.manifest_folder), codec, options, options.data_root)


if __name__ == "__main__":
    main()
