#!/usr/bin/env python3
"""Write RESULTS.md from the published results.

    python benchmarks/results.py           # write it
    python benchmarks/results.py --check   # end with exit code 1 if it does not agree with the results

The text is docs/results/page.md.in, which has places for tables and numbers. They are filled in from the CSV files in
docs/results, where `benchmarks/study.py --publish docs/results` and `benchmarks/efficiency.py` put them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from quality.results_page import fill_page
from speechbrain_mamba.utils.files import atomic_path

ROOT = Path(__file__).parents[1]
RESULTS = Path("docs", "results")


def make_page(root: Path = ROOT) -> str:
    """The text of RESULTS.md as the results are now."""
    template = (root / RESULTS / "page.md.in").read_text(encoding="utf-8")
    return fill_page(template, root / RESULTS, RESULTS.as_posix()).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is another one")
    check = parser.parse_args(arguments).check
    page, path = make_page(), ROOT / "RESULTS.md"
    if check:
        same = path.is_file() and path.read_text(encoding="utf-8") == page
        print(f"{path} {'agrees' if same else 'does not agree'} with {ROOT / RESULTS}.")
        return 0 if same else 1
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"Written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
