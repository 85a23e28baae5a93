#!/usr/bin/env python3
"""Make strings of digits of the Free Spoken Digit Dataset, with the manifests that the other scripts here take.

    python recipes/tts/prepare_fsdd_digits.py /path/to/fsdd MANIFEST_FOLDER

Its speakers differ by 18 dB: the recordings are normalized to one level so that a codec learns every voice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechbrain_mamba.corpora.fsdd_digits import prepare_fsdd_digits
from speechbrain_mamba.corpora.scripts import preparation_parser, run_preparation


def prepare(long: int, **options: Any) -> dict[str, Path]:
    """Make the strings, as many of them for validation and test as the other recipes use."""
    return prepare_fsdd_digits(**options, counts=(long, 100, 300))


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = preparation_parser(__doc__, "FSDD, with its folder recordings", "where the manifests and strings go")
    parser.add_argument("--level", type=float, default=0.08, help="root mean square of each recording")
    parser.add_argument("--long", type=int, default=8000, help="training strings of 3 to 7 digits")
    parser.add_argument("--short", type=int, default=4000, help="training strings of 1 or 2 digits")
    parser.add_argument("--test_speakers", nargs="*", default=[], help="speakers that only the test has")
    parser.add_argument("--sample_rate", type=int, default=8000, help="of the strings, in Hz")
    parser.add_argument("--seed", type=int, default=1234, help="seed of all draws")
    run_preparation(parser, prepare, arguments)


if __name__ == "__main__":
    main()
