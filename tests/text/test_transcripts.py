"""Transcripts, and the formats they are written in, parsed back."""

import html
import itertools
import json
import random
import re

import pytest

from speechbrain_mamba.text.subtitles import make_cues
from speechbrain_mamba.text.transcripts import FORMATS, SUFFIXES, Segment, Transcript, Word, write_transcript


def parse_cues(text, point):
    """Cues of either format, read as a player does: (start, end, lines) in milliseconds."""
    number, cues = r"(\d{2,}):([0-5]\d):([0-5]\d)" + re.escape(point) + r"(\d{3})", []
    for block in re.split(r"\n\n+", text.strip("\n")) if text.strip("\n") else []:
        first, *lines = block.split("\n")
        match = re.fullmatch(f"{number} --> {number}", first)
        assert match, first
        assert lines and all(line.strip() and "-->" not in line for line in lines)
        h, m, s, ms, *end = map(int, match.groups())
        cues.append(
            (((h * 60 + m) * 60 + s) * 1000 + ms, ((end[0] * 60 + end[1]) * 60 + end[2]) * 1000 + end[3], lines)
        )
    assert all(start < end for start, end, _ in cues)
    assert all(end <= start for (_, end, _), (start, _, _) in itertools.pairwise(cues))
    return cues


def parse_srt(text):
    blocks = text.strip("\n").split("\n\n") if text else []
    assert [int(block.split("\n", 1)[0]) for block in blocks] == list(range(1, len(blocks) + 1))
    return parse_cues("\n\n".join(block.split("\n", 1)[1] for block in blocks), ",")


def parse_vtt(text):
    assert text.startswith("WEBVTT\n")
    cues = parse_cues(text.removeprefix("WEBVTT\n"), ".")
    assert not any(
        "<" in line or ">" in line or re.search(r"&(?!amp;|lt;|gt;)", line) for *_, ls in cues for line in ls
    )
    return [(start, end, [html.unescape(line) for line in lines]) for start, end, lines in cues]


def random_transcript(seed, words=60):
    draw, time, made = random.Random(seed), 0.0, []
    for _ in range(words):
        time += draw.choice([0.0, 0.02, 0.1, 0.7, 2.0])
        end = time + draw.choice([0.0, 0.0004, 0.04, 0.3, 0.9])
        text = "".join(draw.choice("abcdeÄß日本&<>'-") for _ in range(draw.randint(1, 12)))
        made.append(Word(text, time, end, round(draw.random(), 3)))
        time = end
    return Transcript.from_words(made, time + 1)


@pytest.mark.parametrize("seed", range(8))
def test_subtitles_say_all_words_in_lines_that_fit(seed):
    transcript = random_transcript(seed)
    plain = re.sub(r"-+->", "->", transcript.text)
    for length, lines, seconds in ((42, 2, 7.0), (20, 1, 2.0), (14, 3, 30.0)):
        for cues in (
            parse_srt(transcript.to_srt(length, lines, seconds)), parse_vtt(transcript.to_vtt(length, lines, seconds)),
        ):  # fmt: skip
            said = " ".join(line for *_, shown in cues for line in shown)
            assert re.sub(r"-+->", "->", said) == plain
            assert all(len(line) <= length for *_, shown in cues for line in shown)
            assert all(len(shown) <= lines and end - start <= 1000 * seconds for start, end, shown in cues)


def test_a_cue_is_shown_when_its_words_are_said():
    transcript = random_transcript(3)
    starts = {round(1000 * word.start): word.text for word in transcript.words}
    cues = parse_vtt(transcript.to_vtt())
    begins = [starts[start] == lines[0].split(" ")[0] for start, _, lines in cues if start in starts]
    assert len(begins) > len(cues) / 2 and sum(begins) > 0.8 * len(begins)  # words of no length push others back
    phrases = [segment.text for segment in transcript.segments]
    assert all(any(" ".join(lines) in phrase for phrase in phrases) for *_, lines in cues)


def test_a_cue_stays_a_second_if_there_is_time():
    def ends(*times):
        return [cue.end for cue in make_cues([[("A", start, end)] for start, end in times])]

    assert ends((1.0, 1.2), (1.5, 1.7), (4.0, 6.0)) == [1500, 2500, 6000]
    assert ends((0.0, 30.0)) == [7000]


def test_a_long_word_is_broken_over_lines_and_cues():
    word = "x" * 25
    (cue,) = make_cues([[(word, 0.0, 5.0)]], line_length=10, lines=3)
    assert cue.lines == ("x" * 10, "x" * 10, "x" * 5) and (cue.start, cue.end) == (0, 5000)
    cues = make_cues([[(word, 0.0, 6.0)]], line_length=10, lines=1)
    assert [(cue.start, cue.end) for cue in cues] == [(0, 2000), (2000, 4000), (4000, 6000)]


@pytest.mark.parametrize("text", ["a\nb", "a\n\nb", "a\u2028b", "a\x00b", "a\tb", " a b "])
def test_no_word_ends_a_cue(text):
    transcript = Transcript.from_words([Word(text, 0.0, 1.0)], 2.0)
    assert parse_srt(transcript.to_srt()) == parse_vtt(transcript.to_vtt()) == [(0, 1000, ["a b"])]


def test_arrows_and_tags_are_shown_and_not_read():
    transcript = Transcript.from_words([Word("-->", 0.0, 1.0), Word("<b>", 1.0, 2.0), Word("&lt;", 2.0, 3.0)], 3.0)
    assert parse_vtt(transcript.to_vtt())[0][2] == ["--> <b> &lt;"]
    assert parse_srt(transcript.to_srt())[0][2] == ["-> <b> &lt;"]


def test_more_than_99_hours_have_three_digits():
    transcript = Transcript.from_words([Word("LATE", 360_000.0, 360_061.0015)], 400_000)
    assert parse_srt(transcript.to_srt(max_seconds=99)) == parse_vtt(transcript.to_vtt(max_seconds=99))
    assert "100:00:00,000 --> 100:01:01,002" in transcript.to_srt(max_seconds=99)


@pytest.mark.parametrize("options", [{"line_length": 0}, {"lines": 0}, {"max_seconds": 0.0}])
def test_limits_that_leave_no_room_are_named(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is 0.*, but must be above 0"):
        Transcript((), 1.0).to_srt(**options)


def test_json_is_read_back():
    transcript = random_transcript(1)
    again = Transcript.from_json(transcript.to_json())
    assert again.text == transcript.text and again.to_json() == transcript.to_json()
    assert [segment.text for segment in again.segments] == [segment.text for segment in transcript.segments]
    content = json.loads(transcript.to_json())
    assert (
        content["text"] == transcript.text and content["segments"][0]["words"][0]["start"] == transcript.words[0].start
    )
    for own, read in zip(transcript.words, again.words):
        assert own.start == pytest.approx(read.start, abs=6e-4) and own.confidence == read.confidence


def test_silence_has_no_words_in_any_format():
    empty = Transcript((), 2.5)
    assert [write_transcript(empty, name) for name in ("text", "srt", "vtt")] == ["", "", "WEBVTT\n"]
    assert Transcript.from_json(empty.to_json()) == empty
    assert FORMATS.keys() == SUFFIXES.keys()


def test_segments_end_at_pauses():
    words = [Word("A", 0.0, 0.5, 0.4), Word("B", 1.2, 1.5, 0.8), Word("C", 2.4, 2.5)]
    transcript = Transcript.from_words(words, 3.0, pause=0.8)
    assert transcript.to_text() == "A B\nC\n" and transcript.words == tuple(words)
    assert transcript.segments[0] == Segment(tuple(words[:2]))
    assert (transcript.segments[0].start, transcript.segments[0].end) == (0.0, 1.5)
    assert transcript.segments[0].confidence == pytest.approx(0.6)
    assert len(Transcript.from_words(words, 3.0, pause=0.6).segments) == 3


@pytest.mark.parametrize("times", [(2.0, 1.0), (-1.0, 1.0), (0.0, float("nan")), (float("inf"), float("inf"))])
def test_a_word_ends_after_it_starts(times):
    with pytest.raises(ValueError, match=r"'A' is from .* a word ends after it starts"):
        Word("A", *times)
