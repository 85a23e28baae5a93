"""Patterns of parameter names, as ``--init_skip`` and ``--freeze`` take them."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

LIST_OPTIONS = ("init_skip", "freeze", "judge_sources")
"""Hyper-parameters that are lists of patterns or names."""


def quote_patterns(arguments: Iterable[str]) -> list[str]:
    """Write the patterns and names of a command line so that YAML reads a list: a leading ``*`` would be an alias
    there.

    Arguments
    ---------
    arguments : iterable of str
        A command line. Patterns may be separated by commas or spaces, with or without brackets and quotes.

    Example
    -------
    >>> quote_patterns(["toy.yaml", "--freeze", "*.norm,encoder.*", "--lr", "0.1", "--init_skip=[head]"])
    ['toy.yaml', '--freeze', '["*.norm", "encoder.*"]', '--lr', '0.1', '--init_skip', '["head"]']
    """
    quoted: list[str] = []
    given: list[str] | None = None
    for argument in arguments:
        option, joined, value = argument.partition("=")
        if argument.startswith("--"):
            _close(quoted, given)
            given = None
            if option[2:] in LIST_OPTIONS:
                quoted.append(option)
                given = [value] if joined else []
                continue
        if given is None:
            quoted.append(argument)
        else:
            given.append(argument)
    _close(quoted, given)
    return quoted


def _close(quoted: list[str], given: list[str] | None) -> None:
    if given is not None:
        quoted.append(json.dumps(read_patterns(" ".join(given)), ensure_ascii=False))


def read_patterns(value: str | Sequence[str] | None) -> list[str]:
    """Read a list of patterns, which may be one string with commas or spaces between them.

    Example
    -------
    >>> read_patterns("[encoder.*, 'head']"), read_patterns(["a b", "c"]), read_patterns(None)
    (['encoder.*', 'head'], ['a', 'b', 'c'], [])
    """
    if value is None or value == "null":
        return []
    text = value if isinstance(value, str) else " ".join(map(str, value))
    # brackets within a pattern are those of a set of characters
    inner = re.fullmatch(r"\s*\[(.*)\]\s*", text, re.DOTALL)
    text = inner[1] if inner else text
    return [part for part in (one.strip("'\"") for one in re.split(r"[\s,]+", text)) if part]


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern stands for a name: as file names are matched, or as the module that the name is in.

    Example
    -------
    >>> matches("masknet.conv1d.weight", "masknet.conv*"), matches("masknet.conv1d.weight", "masknet")
    (True, True)
    >>> matches("masknet2.weight", "masknet")
    False
    """
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def select(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    """Select the names that any of some patterns stands for."""
    return {name for name in names if any(matches(name, pattern) for pattern in patterns)}


def check_patterns(option: str, patterns: Sequence[str], names: Iterable[str]) -> None:
    """Refuse patterns that stand for nothing.

    Arguments
    ---------
    option : str
        The option that has the patterns, for the message.
    patterns : sequence of str
        The patterns.
    names : iterable of str
        All names that there are.

    Raises
    ------
    ValueError
        When a pattern stands for none of the names; the message has names that are near.

    Example
    -------
    >>> check_patterns("freeze", ["encodr.*"], ["encoder.weight", "encoder.bias"])
    Traceback (most recent call last):
    ValueError: freeze has 'encodr.*', but no parameter is called so. Near are: encoder, encoder.bias, encoder.weight.
    """
    known = list(names)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in known):
            near = near_names(pattern, known)
            hint = f"Near are: {', '.join(near)}." if near else f"There are {', '.join(top_names(known))}."
            raise ValueError(f"{option} has '{pattern}', but no parameter is called so. {hint}")


def near_names(pattern: str, names: Iterable[str]) -> list[str]:
    """The names, and modules of names, that look most like a pattern; at most five."""
    candidates = sorted({".".join(parts[: end + 1]) for parts in map(_parts, names) for end in range(len(parts))})
    plain = re.sub(r"[*?\[\]]", "", pattern).strip(".")
    return sorted(difflib.get_close_matches(plain, candidates, n=5, cutoff=0.6))


def top_names(names: Iterable[str]) -> list[str]:
    """The first parts of names, once each."""
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def _parts(name: str) -> list[str]:
    return name.split(".")
