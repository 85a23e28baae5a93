#!/usr/bin/env python3
"""Turn transcribed speech into the tokens that train.py trains on.

    python recipes/tts/prepare_tokens.py MANIFEST_FOLDER TOKEN_FOLDER --codec encodec_24khz

The manifest folder has ``train.csv``, ``valid.csv`` and ``test.csv`` (or ``.json``) with the columns ID, duration
(seconds), wav and wrd (the text), and optionally spk_id and language (an espeak-ng language such as de). The same
command again resumes a run that was killed.

Several machines or GPUs share the work if each gives this command with another part, ``--part 1/4`` to ``--part 4/4``,
at the same time or not, and with the same folders. ``--merge`` then writes the files that one machine would have
written.
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
    parser.add_argument("--part", type=read_part, metavar="I/N", help="encode only the I-th of N parts")
    parser.add_argument("--merge", action="store_true", help="write the tokens of all parts; nothing is encoded")


def read_part(text: str) -> tuple[int, int]:
    """Read ``2/8``, the second of eight parts."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a part: give 1/N to N/N, for instance 2/8.")
    return int(part), int(parts)


def make_tokens(manifests, codec, options, data_root=None):
    """Turn the speech of some manifests into tokens, as a command line says."""
    counts = tokenize_speech(
        manifests, options.token_folder, codec, options.codec, options.kind, options.language, data_root,
        options.device, options.part, options.merge,
    )  # fmt: skip
    if "shards" in counts:
        part, parts = options.part
        print(
            f"part {part} of {parts}: {counts['shards']} shards are encoded. After all parts, --merge writes the tokens"
        )
    else:
        print(", ".join(f"{split}: {count} utterances" for split, count in counts.items()))


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest_folder", help="folder of train, valid and test manifests")
    add_token_options(parser)
    parser.add_argument("--data_root", help="what $data_root stands for in the manifests")
    options = parser.parse_args(arguments)
    try:
        manifests = find_manifests(options.manifest_folder)
        make_tokens(manifests, load_codec(options.codec, options.n_codebooks), options, options.data_root)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
