#!/usr/bin/env python3
"""Read the answers of a listening test that make_listening_page.py made.

    python recipes/tts/score_listening.py OUT answers/*.csv --csv cmos.csv

For each pair of systems: the mean of the answers, which is the CMOS of a test of that kind, with its 95 % interval, and
how often each was preferred. Listeners who told a sound from itself are left out, and named.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechbrain_mamba.evaluation.listening.answers import compare_systems, inattentive, read_answers, read_key
from speechbrain_mamba.training.script import run_script
from speechbrain_mamba.utils.files import write_csv


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the folder of key.json")
    parser.add_argument("answers", nargs="+", help="the files of the listeners")
    parser.add_argument("--baseline", help="the system that others are compared with; the first one of the test")
    parser.add_argument("--keep_all", action="store_true", help="keep listeners who told a sound from itself")
    parser.add_argument("--csv", type=Path, help="where to write the table")
    options = parser.parse_args(arguments)
    answers = read_answers(options.folder, options.answers)
    left_out = [] if options.keep_all else inattentive(answers)
    if left_out:
        print(f"Left out, as they told a sound from itself: {', '.join(left_out)}")
    systems = read_key(options.folder)["systems"]
    if options.baseline not in (None, *systems):
        raise ValueError(f"There is no system '{options.baseline}' in this test: give one of {', '.join(systems)}.")
    order = [options.baseline, *systems] if options.baseline else systems
    rows = compare_systems(
        [answer for answer in answers if answer.listener not in left_out], list(dict.fromkeys(order))
    )
    if not rows:
        raise ValueError("There is no answer to a comparison of two systems.")
    for row in rows:
        print(
            f"{row['system']} against {row['baseline']}: {row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}], "
            f"preferred {row['system_preferred']:.0f} % to {row['baseline_preferred']:.0f} % "
            f"({row['answers']} answers, {row['listeners']} listeners, {row['items']} texts)"
        )
    if options.csv is not None:
        write_csv(options.csv, rows, list(rows[0]))


if __name__ == "__main__":
    run_script(main)
