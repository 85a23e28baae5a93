#!/usr/bin/env python3
"""Join folders of manifests: the utterances of several corpora, as one corpus for recipes that take one.

    python recipes/bundled/join_manifests.py JOINED FOLDER FOLDER...

Each folder has ``train.csv``, ``valid.csv`` and ``test.csv``; so has the joined one. The recordings stay where they
are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechbrain_mamba.dataio.manifests import TRANSCRIBED, find_manifests, read_manifest, write_manifest
from speechbrain_mamba.training.script import run_script


def join_manifests(joined: Path, folders: list[Path]) -> None:
    """Write the three manifests of several folders as one folder."""
    found = [find_manifests(folder) for folder in folders]
    joined.mkdir(parents=True, exist_ok=True)
    for split in found[0]:
        rows = read_manifest([manifests[split] for manifests in found], columns=(*TRANSCRIBED, "spk_id"))
        columns = (*TRANSCRIBED, "spk_id")
        write_manifest(
            joined / f"{split}.csv",
            [{"ID": name, **{column: row[column] for column in columns}} for name, row in rows.items()],
        )
        print(f"{split}: {len(rows)} utterances")


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("joined", type=Path, help="where the joined manifests go")
    parser.add_argument("folders", type=Path, nargs="+", help="folders of train, valid and test manifests")
    options = parser.parse_args(arguments)
    join_manifests(options.joined, options.folders)


if __name__ == "__main__":
    run_script(main)
