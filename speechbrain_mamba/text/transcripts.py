"""Transcripts with times, and the formats they are written in: plain text, JSON, SRT and WebVTT."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from speechbrain_mamba.text.subtitles import Cue, make_cues, write_srt, write_vtt

PAUSE = 0.8
"""Silence between two words, in seconds, that ends a segment."""


@dataclass(frozen=True)
class Word:
    """A word of a transcript.

    Arguments
    ---------
    text : str
        The word, without spaces around it.
    start, end : float
        When it is said, in seconds from the beginning of the recording.
    confidence : float
        Probability from 0 to 1 that the model gives it.
    """

    text: str
    start: float
    end: float
    confidence: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end) and 0 <= self.start <= self.end):
            raise ValueError(
                f"The word {self.text!r} is from {self.start} to {self.end} s, but a word ends after it starts, at 0 s "
                "or later."
            )


@dataclass(frozen=True)
class Segment:
    """Words without a long pause between them; there is at least one."""

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The words with spaces between them."""
        return " ".join(word.text for word in self.words)

    @property
    def start(self) -> float:
        """When the first word starts, in seconds."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """When the last word ends, in seconds."""
        return self.words[-1].end

    @property
    def confidence(self) -> float:
        """The mean confidence of the words."""
        return sum(word.confidence for word in self.words) / len(self.words)


@dataclass(frozen=True)
class Transcript:
    """What is said in a recording, and when. Silence gives one without segments.

    Arguments
    ---------
    segments : tuple of Segment
        The segments, in order.
    duration : float
        Length of the recording in seconds.

    Example
    -------
    >>> words = [Word("ONE", 0.2, 0.5), Word("TWO", 0.6, 0.9, 0.7), Word("THREE", 2.0, 2.4)]
    >>> transcript = Transcript.from_words(words, duration=3.0)
    >>> transcript.text, [segment.text for segment in transcript.segments]
    ('ONE TWO THREE', ['ONE TWO', 'THREE'])
    >>> print(transcript.to_srt(), end="")
    1
    00:00:00,200 --> 00:00:01,200
    ONE TWO
    <BLANKLINE>
    2
    00:00:02,000 --> 00:00:03,000
    THREE
    """

    segments: tuple[Segment, ...]
    duration: float

    @classmethod
    def from_words(cls, words: Iterable[Word], duration: float, pause: float = PAUSE) -> Transcript:
        """Make segments of words in order: one ends before a pause of some seconds."""
        groups: list[list[Word]] = []
        for word in words:
            if groups and word.start - groups[-1][-1].end < pause:
                groups[-1].append(word)
            else:
                groups.append([word])
        return cls(tuple(Segment(tuple(group)) for group in groups), duration)

    @property
    def words(self) -> tuple[Word, ...]:
        """All words, in order."""
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def text(self) -> str:
        """All words with spaces between them."""
        return " ".join(segment.text for segment in self.segments)

    def to_text(self) -> str:
        """Plain text, a line per segment."""
        return "".join(f"{segment.text}\n" for segment in self.segments)

    def to_json(self) -> str:
        """JSON with the times, in seconds, and confidences of all segments and words; :meth:`from_json` reads it."""
        segments = [
            {
                "start": _round(segment.start),
                "end": _round(segment.end),
                "text": segment.text,
                "confidence": _round(segment.confidence),
                "words": [
                    {
                        "text": word.text,
                        "start": _round(word.start),
                        "end": _round(word.end),
                        "confidence": _round(word.confidence),
                    }
                    for word in segment.words
                ],
            }
            for segment in self.segments
        ]
        content = {"duration": _round(self.duration), "text": self.text, "segments": segments}
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Transcript:
        """Read what :meth:`to_json` wrote."""
        content = json.loads(text)
        segments = (Segment(tuple(Word(**word) for word in segment["words"])) for segment in content["segments"])
        return cls(tuple(segments), content["duration"])

    def to_srt(self, line_length: int = 42, lines: int = 2, max_seconds: float = 7.0) -> str:
        """Subtitles in SubRip's format; arguments as in :func:`~speechbrain_mamba.text.subtitles.make_cues`."""
        return write_srt(self.cues(line_length, lines, max_seconds))

    def to_vtt(self, line_length: int = 42, lines: int = 2, max_seconds: float = 7.0) -> str:
        """Subtitles in the format WebVTT; arguments as in :func:`~speechbrain_mamba.text.subtitles.make_cues`."""
        return write_vtt(self.cues(line_length, lines, max_seconds))

    def cues(self, line_length: int = 42, lines: int = 2, max_seconds: float = 7.0) -> list[Cue]:
        """What subtitles show and when, as :func:`~speechbrain_mamba.text.subtitles.make_cues` decides."""
        phrases = [[(word.text, word.start, word.end) for word in segment.words] for segment in self.segments]
        return make_cues(phrases, line_length, lines, max_seconds)


def _round(value: float) -> float:
    return round(value, 3)


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "text": Transcript.to_text,
    "json": Transcript.to_json,
    "srt": Transcript.to_srt,
    "vtt": Transcript.to_vtt,
}
"""How a transcript is written, by the name of the format."""

SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
"""The endings of files, by the name of the format."""


def write_transcript(transcript: Transcript, format_name: str) -> str:
    """Write a transcript in a format of :data:`FORMATS`; a ValueError is raised for another one.

    Example
    -------
    >>> write_transcript(Transcript.from_words([Word("ONE", 0.0, 0.5)], 1.0), "text")
    'ONE\\n'
    >>> write_transcript(Transcript((), 1.0), "doc")
    Traceback (most recent call last):
    ValueError: There is no format 'doc' for transcripts: choose text, json, srt or vtt.
    """
    if format_name not in FORMATS:
        *others, last = FORMATS
        raise ValueError(f"There is no format {format_name!r} for transcripts: choose {', '.join(others)} or {last}.")
    return FORMATS[format_name](transcript)
