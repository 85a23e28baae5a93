#!/usr/bin/env python3
"""Write the training tokens of a token folder as tar shards, for corpora that fit no disk of a training machine.

    python recipes/tts/prepare_shards.py /path/to/tokens /path/to/shards
    python recipes/tts/train.py hparams/tts/vallm.yaml --token_folder /path/to/tokens --shard_batches 2000 \\
        --train_shards '/path/to/shards/shard-{000000..000127}.tar'

The training still needs the token folder, but not the files of ``train`` in it. See docs/scaling.md.
"""

from __future__ import annotations

import argparse

from speechbrain_mamba.dataio.codec_tokens import read_tokens
from speechbrain_mamba.dataio.shard_writer import write_token_shards


def main(arguments: list[str] | None = None) -> None:
    """Read the tokens, write the shards."""
    parser = argparse.ArgumentParser(description="Write the tokens of a split as tar shards.")
    parser.add_argument("token_folder", help="written by one of the other scripts")
    parser.add_argument("folder", help="where the shards go")
    parser.add_argument("--split", default="train", help="[%(default)s]")
    parser.add_argument("--per_shard", type=int, default=20000, help="utterances in a shard [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="decides on the order [%(default)s]")
    given = parser.parse_args(arguments)
    items, codes, _ = read_tokens(given.token_folder, given.split)
    totals = write_token_shards(items, codes, given.folder, given.per_shard, given.seed)
    print(", ".join(f"{key}: {value}" for key, value in totals.items()))


if __name__ == "__main__":
    main()
