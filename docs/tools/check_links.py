"""Walk a built site from its home page: every link, picture and anchor is there, and every page can be reached.

python docs/tools/check_links.py results/site
"""

from __future__ import annotations

import argparse
import posixpath
import sys
from collections import deque
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Links(HTMLParser):
    """What a page links to and shows, and the anchors that it has."""

    def __init__(self, page: Path):
        super().__init__()
        self.targets: list[str] = []
        self.anchors = {"", "__tabbed"}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.targets.append(value)


def faults(site: Path) -> Iterator[str]:
    """Say what is wrong with the links of a site, a sentence each.

    Arguments
    ---------
    site : Path
        The folder with its ``index.html``.

    Example
    -------
    >>> site = getfixture("tmp_path")
    >>> _ = (site / "index.html").write_text('<a href="more/#there">1</a> <img src="none.png"> <a href="#top">2</a>')
    >>> (site / "more").mkdir()
    >>> _ = (site / "more" / "index.html").write_text('<p id="here">')
    >>> _ = (site / "alone.html").write_text("")
    >>> for fault in faults(site):
    ...     print(fault)
    index.html links to more/#there, but more/index.html has no anchor 'there'.
    index.html links to none.png, which is not there.
    index.html links to #top, but index.html has no anchor 'top'.
    No link leads to alone.html.
    """
    read = cache(lambda page: Links(site / page))
    waiting, reached = deque(["index.html"]), {"index.html", "404.html"}
    while waiting:
        page = waiting.popleft()
        for target in read(page).targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = page
            if parts.path:
                path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path)))
                path = posixpath.join(path, "index.html") if (site / path).is_dir() else path
            if not (site / path).is_file() or path.startswith(".."):
                yield f"{page} links to {target}, which is not there."
            elif path.endswith(".html"):
                if unquote(parts.fragment) not in read(path).anchors:
                    yield f"{page} links to {target}, but {path} has no anchor '{parts.fragment}'."
                if path not in reached:
                    reached.add(path)
                    waiting.append(path)
    for path in sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html")):
        if path not in reached:
            yield f"No link leads to {path}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="the folder that mkdocs build made")
    site = parser.parse_args().site
    if not (site / "index.html").is_file():
        sys.exit(f"'{site}' is no built site, as it has no index.html: make docs builds one.")
    found = list(faults(site))
    print(*found, f"{len(found)} faults in {sum(1 for _ in site.rglob('*.html'))} pages", sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
