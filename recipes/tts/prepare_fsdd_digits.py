#!/usr/bin/env python3
"""Make strings of digits of the Free Spoken Digit Dataset, with the manifests that the other scripts here take.

    python recipes/tts/prepare_fsdd_digits.py /path/to/fsdd MANIFEST_FOLDER

Its speakers differ by 18 dB: all recordings are brought to one level, that a codec learns to render every voice.
"""

from __future__ import annotations

import argparse

from speechbrain_mamba.corpora.fsdd import prepare_fsdd_digits


def main(arguments=None):
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_folder", help="FSDD, with its folder recordings")
    parser.add_argument("manifest_folder", help="where the manifests and strings go")
    parser.add_argument("--level", type=float, default=0.08, help="root mean square of each recording")
    parser.add_argument("--long", type=int, default=8000, help="training strings of 3 to 7 digits")
    parser.add_argument("--short", type=int, default=4000, help="training strings of 1 or 2 digits")
    parser.add_argument("--seed", type=int, default=1234, help="of all draws")
    options = parser.parse_args(arguments)
    choices = {"seed": options.seed, "level": options.level, "short": options.short}
    prepare_fsdd_digits(options.data_folder, options.manifest_folder, counts=(options.long, 100, 300), **choices)


if __name__ == "__main__":
    main()
