#!/usr/bin/env python3
"""Write RESULTS.md, and the results in README.md, from the published results.

    python benchmarks/results.py           # write them
    python benchmarks/results.py --check   # end with exit code 1 if they do not agree with the results

The texts are docs/results/page.md.in and docs/results/readme.md.in, which have places for tables and numbers. They are
filled in from the CSV files in docs/results, where `--publish` of `benchmarks/study.py` and `benchmarks/efficiency.py`
puts them. In README.md only what stands between two comments is written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from quality.results_page import fill_page
from quality.written_texts import fill_block, write_or_check

ROOT = Path(__file__).parents[1]
RESULTS = Path("docs", "results")


def make_text(template: str) -> str:
    """The text of a template in docs/results as the results are now."""
    text = (ROOT / RESULTS / template).read_text(encoding="utf-8")
    return fill_page(text, ROOT / RESULTS, RESULTS.as_posix()).strip() + "\n"


def make_page() -> str:
    """The text of RESULTS.md as the results are now."""
    return re.sub(r"\n{3,}", "\n\n", make_text("page.md.in"))


def make_readme() -> str:
    """The text of README.md as the results are now."""
    return fill_block(ROOT / "README.md", "results", re.sub(r"\n{3,}", "\n\n", make_text("readme.md.in")))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check both texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a text is another one")
    check = parser.parse_args(arguments).check
    texts = {ROOT / "RESULTS.md": make_page(), ROOT / "README.md": make_readme()}
    return write_or_check(texts, ROOT / RESULTS, check)


if __name__ == "__main__":
    sys.exit(main())
