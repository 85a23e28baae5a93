"""Subtitles: what stands on the screen and for how long, in SubRip's format and in WebVTT.

The rules of WebVTT are in https://www.w3.org/TR/webvtt1/, section 4.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TimedWord = tuple[str, float, float]
"""A word, and when it starts and ends in seconds."""

_MIN_SECONDS = 1.0  # how long a cue stays at least, if the next one leaves time


@dataclass(frozen=True)
class Cue:
    """Lines of text, and when they are shown, in milliseconds. No cue starts before the one before it ends."""

    start: int
    end: int
    lines: tuple[str, ...]


def make_cues(
    phrases: Iterable[Sequence[TimedWord]], line_length: int = 42, lines: int = 2, max_seconds: float = 7.0
) -> list[Cue]:
    """Break phrases into cues that can be read.

    Arguments
    ---------
    phrases : iterable of sequence of (str, float, float)
        The words of each phrase in order, with their times in seconds. A cue has words of one phrase only.
    line_length : int
        Characters of a line at most; a longer word is broken.
    lines : int
        Lines of a cue at most.
    max_seconds : float
        Duration of a cue at most. It lasts a second at least, unless the next one starts earlier.

    Returns
    -------
    list of Cue
        The cues, in order, without overlap.

    Raises
    ------
    ValueError
        When nothing could be shown with these limits.

    Example
    -------
    >>> make_cues([[("SEVEN", 0.5, 1.0), ("ELEVEN", 1.1, 1.8)]], line_length=8)
    [Cue(start=500, end=1800, lines=('SEVEN', 'ELEVEN'))]
    """
    for name, value in (("line_length", line_length), ("lines", lines), ("max_seconds", max_seconds)):
        if not value > 0:
            raise ValueError(f"{name} is {value}, but must be above 0.")
    groups: list[list[TimedWord]] = []
    for phrase in phrases:
        group: list[TimedWord] = []
        for word in (part for each in phrase for part in _break(each, line_length)):
            longer = [*group, word]
            if group and (len(_wrap(longer, line_length)) > lines or word[2] - group[0][1] > max_seconds):
                groups.append(group)
                longer = [word]
            group = longer
        if group:
            groups.append(group)
    cues: list[Cue] = []
    for group, after in zip(groups, [*groups[1:], None]):
        start = max(_milliseconds(group[0][1]), cues[-1].end if cues else 0)
        limit = start + _milliseconds(max_seconds)
        end = max(_milliseconds(group[-1][2]), start + _milliseconds(_MIN_SECONDS))
        if after is not None:
            limit = min(limit, _milliseconds(after[0][1]))
        cues.append(Cue(start, max(min(end, limit), start + 1), tuple(_wrap(group, line_length))))
    return cues


def write_srt(cues: Iterable[Cue]) -> str:
    """Write cues in SubRip's format. It has no escapes: an arrow in a text would be read as a time, and is shortened.

    Example
    -------
    >>> print(write_srt([Cue(500, 1800, ("SEVEN", "ELEVEN"))]), end="")
    1
    00:00:00,500 --> 00:00:01,800
    SEVEN
    ELEVEN
    """
    blocks = (
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n"
        + "".join(f"{re.sub('-+->', '->', line)}\n" for line in cue.lines)
        for number, cue in enumerate(cues, start=1)
    )
    return "\n".join(blocks)


def write_vtt(cues: Iterable[Cue]) -> str:
    """Write cues in the format WebVTT.

    Example
    -------
    >>> print(write_vtt([Cue(500, 1800, ("R & B",))]), end="")
    WEBVTT
    <BLANKLINE>
    00:00:00.500 --> 00:00:01.800
    R &amp; B
    """
    blocks = (
        f"\n{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n" + "".join(f"{_escape(line)}\n" for line in cue.lines)
        for cue in cues
    )
    return "WEBVTT\n" + "".join(blocks)


def _break(word: TimedWord, length: int) -> list[TimedWord]:
    """Break a word into parts that fit a line, each with its share of the time. What would end a line or a cue, such as
    a line break, becomes a space that parts words."""
    text, start, end = word
    parts = [part for piece in _clean(text).split() for part in textwrap.wrap(piece, length, break_on_hyphens=False)]
    seconds = (end - start) / max(1, len(parts))
    return [(part, start + i * seconds, start + (i + 1) * seconds) for i, part in enumerate(parts)]


def _clean(text: str) -> str:
    """Replace control characters, which neither format allows."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text)


def _wrap(words: Sequence[TimedWord], length: int) -> list[str]:
    return textwrap.wrap(" ".join(text for text, _, _ in words), length, break_on_hyphens=False, break_long_words=True)


def _escape(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _time(milliseconds: int, point: str) -> str:
    """Hours, which may have more than two digits, minutes, seconds and milliseconds."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{rest:03d}"
