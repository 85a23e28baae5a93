#!/usr/bin/env python3
"""Write the training utterances of a manifest as tar shards, for corpora larger than a disk or with millions of files.

    python recipes/asr/prepare_shards.py train.csv /path/to/shards --sample_rate 16000 [--data_root /path/to/audio]
    python recipes/asr/train.py hparams/asr/conmamba_ctc.yaml --data_folder ... --tokenizer_folder ... \\
        --train_shards '/path/to/shards/shard-{000000..000127}.tar' --shard_batches 2000

Copy the shards where you like: ``--train_shards`` also takes URLs and ``pipe:`` commands. See docs/scaling.md.
"""

from __future__ import annotations

import argparse

from speechbrain_mamba.dataio.manifests import read_manifest
from speechbrain_mamba.dataio.shard_writer import write_shards


def main(arguments: list[str] | None = None) -> None:
    """Read the manifest, write the shards."""
    parser = argparse.ArgumentParser(description="Write the utterances of a manifest as tar shards.")
    parser.add_argument("manifest", nargs="+", help="CSV or JSON files with ID, duration, wav and wrd")
    parser.add_argument("folder", help="where the shards go")
    parser.add_argument("--sample_rate", type=int, required=True, help="the rate in Hz that all files must have")
    parser.add_argument("--data_root", help="what $data_root in the paths stands for")
    parser.add_argument("--per_shard", type=int, default=2000, help="utterances in a shard [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="decides on the order [%(default)s]")
    given = parser.parse_args(arguments)
    items = read_manifest(given.manifest, given.data_root)
    totals = write_shards(items, given.folder, given.sample_rate, given.per_shard, given.seed)
    print(", ".join(f"{key}: {value}" for key, value in totals.items()))


if __name__ == "__main__":
    main()
