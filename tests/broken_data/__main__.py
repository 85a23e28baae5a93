"""Write broken data, prepare it, and print what became of it."""

from __future__ import annotations

import argparse
import csv
import logging
import sys
import time
from pathlib import Path

from speechbrain_mamba.utils.terminal import printable
from tests.broken_data.audio import WRONG, write_audio_files
from tests.broken_data.check import check_audio_files, check_manifest_of_all, check_manifests
from tests.broken_data.manifests import write_manifests


def main() -> int:
    """Run from the command line; the exit status is 1 if a file had another fate than it must have."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="an empty or new folder")
    parser.add_argument("--files", type=int, default=2000, help="number of audio files")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"'{options.folder}' is not empty")
    logging.basicConfig(level=logging.ERROR)
    start = time.perf_counter()
    speech = options.folder.absolute() / "speech"
    audio = write_audio_files(speech, options.files, seed=options.seed)
    manifests = write_manifests(options.folder.absolute() / "manifests")
    seconds = time.perf_counter() - start
    with open(options.folder / "expected.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "kind", "fate", "reason"])
        for broken in audio:
            writer.writerow([printable(broken.path), broken.kind.name, broken.kind.fate, broken.kind.reason])
        for path, kind in manifests.items():
            writer.writerow([path, kind.name, WRONG if kind.message else "read", kind.message])
    print(f"written: {len(audio)} audio files, {len(manifests)} manifests, {seconds:.1f} s")

    accounts = [
        check_manifest_of_all(audio, options.folder / "all.csv"),
        check_audio_files(audio, speech, options.folder / "prepared"),
        check_manifests(manifests),
    ]
    for account in accounts:
        print("\n" + "\n".join(f"{step:32s}{value:8.2f} s" for step, value in account.seconds.items()))
        print("\n".join(f"{fate:32s}{count:8d}" for fate, count in sorted(account.fates.items())))
        print(f"{'all':32s}{sum(account.fates.values()):8d}")
    differences = [text for account in accounts for text in account.differences]
    print("\n" + "\n".join(differences) if differences else "\nevery file is accounted for")
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main())
