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
from speechbrain_mamba.utils.files import atomic_path

ROOT = Path(__file__).parents[1]
RESULTS = Path("docs", "results")
BLOCK = re.compile(r"(<!-- results:[^>]*-->\n)(.*?)(<!-- end of results -->)", re.DOTALL)
"""What README.md has of the results, with the comments around it."""


def make_text(template: str) -> str:
    """The text of a template in docs/results as the results are now."""
    text = (ROOT / RESULTS / template).read_text(encoding="utf-8")
    return fill_page(text, ROOT / RESULTS, RESULTS.as_posix()).strip() + "\n"


def make_page() -> str:
    """The text of RESULTS.md as the results are now."""
    return re.sub(r"\n{3,}", "\n\n", make_text("page.md.in"))


def make_readme() -> str:
    """The text of README.md as the results are now.

    Raises
    ------
    ValueError
        When it has no place for them.
    """
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise ValueError(f"{path} has no place for the results: <!-- results: ... --> and <!-- end of results -->.")
    filled = re.sub(r"\n{3,}", "\n\n", make_text("readme.md.in"))
    return BLOCK.sub(lambda match: match[1] + filled + match[3], text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check both texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a text is another one")
    check = parser.parse_args(arguments).check
    code = 0
    for path, text in ((ROOT / "RESULTS.md", make_page()), (ROOT / "README.md", make_readme())):
        if check:
            same = path.is_file() and path.read_text(encoding="utf-8") == text
            print(f"{path} {'agrees' if same else 'does not agree'} with {ROOT / RESULTS}.")
            code = code or int(not same)
            continue
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"Written: {path}")
    return code


if __name__ == "__main__":
    sys.exit(main())
