#!/usr/bin/env python3
"""Make the pages of a listening test (CMOS or A/B) of what several synthesizers said.

    python recipes/tts/make_listening_page.py OUT \
        --system vallm=results/tts/mini_vallm/1234/test --system valle=results/tts/mini_valle/1234/test --listeners 10

Each FOLDER has the synthesis.csv of a test by train.py or speak_list.py; texts that all have said are compared. The
first system is the baseline of the others. OUT/page is for the listeners: open its index.html, or put it on any web
server. OUT/key.json says which sound is whose: keep it. score_listening.py reads the answers.
"""

from __future__ import annotations

import argparse

from speechbrain_mamba.evaluation.listening.page import RECORDING, read_spoken, write_pages
from speechbrain_mamba.evaluation.listening.plan import KINDS, common_items, plan_sheets
from speechbrain_mamba.training.script import run_script


def named_folder(text: str) -> tuple[str, str]:
    """Read ``NAME=FOLDER``."""
    name, sign, folder = text.partition("=")
    if not (name and sign and folder):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not NAME=FOLDER, such as vallm=results/tts/mini_vallm/1234/test."
        )
    return name, folder


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="where the pages and the key go")
    parser.add_argument("--system", type=named_folder, action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument(
        "--recordings", action="store_true", help=f"a further system, {RECORDING}: the human recordings"
    )
    parser.add_argument("--all_pairs", action="store_true", help="compare all systems with each other")
    parser.add_argument("--kind", choices=KINDS, default="cmos")
    parser.add_argument("--subject", choices=["naturalness", "similarity"], default="naturalness")
    parser.add_argument("--listeners", type=int, default=10, help="sheets")
    parser.add_argument("--texts", type=int, help="texts of a sheet; all by default")
    parser.add_argument("--checks", type=int, default=2, help="comparisons of a sound with itself in each sheet")
    parser.add_argument("--hide_text", action="store_true", help="do not show what is said")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if len(dict(options.system)) < len(options.system):
        raise ValueError("Two systems have the same name: give each its own.")
    systems = {name: read_spoken(folder) for name, folder in options.system}
    if options.recordings:
        systems[RECORDING] = read_spoken(options.system[0][1], recordings=True)
    names, items = list(systems), common_items(systems)
    pairs = [(first, second) for i, first in enumerate(names) for second in names[i + 1 :]]
    if not options.all_pairs:
        pairs = [pair for pair in pairs if pair[0] == names[0]]
    plan = plan_sheets(items, pairs, options.listeners, options.texts, options.checks, options.seed)
    write_pages(options.out, systems, plan, options.kind, options.subject, not options.hide_text)
    print(f"{len(plan)} sheets of {len(plan[0])} comparisons of {len(items)} texts: {options.out}/page/index.html")


if __name__ == "__main__":
    run_script(main)
