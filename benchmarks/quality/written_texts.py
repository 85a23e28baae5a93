"""Texts that a script writes of figures: whole pages, and what stands between two comments of README.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from speechbrain_mamba.utils.files import atomic_path


def fill_block(path: Path, name: str, text: str) -> str:
    """A file's text, with another text between ``<!-- NAME: ... -->`` and ``<!-- end of NAME -->``.

    Arguments
    ---------
    path : Path
        The file, which stays as it is.
    name : str
        The name of the place.
    text : str
        What goes there.

    Raises
    ------
    ValueError
        When the file has no such place.
    """
    whole = path.read_text(encoding="utf-8")
    if not (match := _block(name).search(whole)):
        raise ValueError(f"{path} has no place for the {name}: <!-- {name}: ... --> and <!-- end of {name} -->.")
    return whole[: match.start(2)] + text + whole[match.end(2) :]


def read_block(path: Path, name: str) -> str:
    """What stands between the two comments of a file, empty without them."""
    match = _block(name).search(path.read_text(encoding="utf-8"))
    return match[2] if match else ""


def write_or_check(texts: Mapping[Path, str], source: Path, check: bool) -> int:
    """Write texts, or say of each whether its file agrees with the figures of ``source``.

    Returns
    -------
    int
        1 if something was to be checked and does not agree, otherwise 0.
    """
    code = 0
    for path, text in texts.items():
        if check:
            same = path.is_file() and path.read_text(encoding="utf-8") == text
            print(f"{path} {'agrees' if same else 'does not agree'} with {source}.")
            code = code or int(not same)
            continue
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"Written: {path}")
    return code


def _block(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}:[^>]*-->\n)(.*?)(<!-- end of {name} -->)", re.DOTALL)
