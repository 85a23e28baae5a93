"""Kill training runs at random moments, and see whether they resume exactly; see README.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from tests.kills.campaign import Campaign, write_kills
from tests.kills.tiny_runs import TINY_RUNS


def main() -> int:
    """Run the campaigns; the exit code is 1 if a run did not resume exactly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=[*TINY_RUNS, "all"], default="all", help="which recipe to kill")
    parser.add_argument("--kills", type=int, default=20, help="how often, for each recipe")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and kills.csv")
    parser.add_argument("--by", choices=["time", "file"], nargs="+", default=["time", "file"], help="see README.md")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
    kills, failures = [], []
    for recipe in TINY_RUNS if chosen.recipe == "all" else [chosen.recipe]:
        outcome = Campaign(recipe, chosen.out.absolute(), chosen.seed).run(chosen.kills, chosen.by)
        kills, failures = kills + outcome.kills, failures + outcome.failures
        write_kills(chosen.out / "kills.csv", kills)
        print(outcome, *outcome.failures, sep="\n", flush=True)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
