"""The command transcribe."""

import json
import re

import pytest


def test_the_text_is_printed(models, place, run):
    code, out, _ = run("transcribe", "talk.wav", "--source", models / "recognizer")
    assert code == 0 and re.fullmatch(r"[OTWNE \n]+", out)
    code, both, _ = run("transcribe", "talk.wav", "recordings", "--source", models / "recognizer")
    assert code == 0 and both.startswith(f"talk.wav: {' '.join(out.split())}\n")
    assert [line.partition(": ")[0] for line in both.splitlines()][1:] == [
        "recordings/one.wav",
        "recordings/zwei ü.flac",
    ]


def test_formats(models, place, run):
    code, out, _ = run("transcribe", "talk.wav", "--format", "json", "--source", models / "recognizer")
    assert code == 0 and json.loads(out)["duration"] == 0.5
    code, out, _ = run("transcribe", "talk.wav", "voice.wav", "--format", "json", "--source", models / "recognizer")
    assert [json.loads(line)["file"] for line in out.splitlines()] == ["talk.wav", "voice.wav"]
    assert run("transcribe", "talk.wav", "--format", "vtt", "--source", models / "recognizer")[1].startswith("WEBVTT")
    assert run("transcribe", "talk.wav", "--format", "all", "--out", "texts", "--source", models / "recognizer")[
        :2
    ] == (0, "")
    assert {path.name for path in (place / "texts").iterdir()} == {"talk.txt", "talk.json", "talk.srt", "talk.vtt"}


def test_each_channel_is_named(models, place, run):
    code, out, _ = run("transcribe", "stereo.wav", "--channels", "each", "--source", models / "recognizer")
    assert code == 0 and {line.partition(":")[0] for line in out.splitlines()} == {"channel 1", "channel 2"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["talk.wav", "--format", "all"], "All formats cannot be printed: give --out."),
        (
            ["talk.wav", "voice.wav", "--format", "srt"],
            "Subtitles of several recordings cannot be printed: give --out.",
        ),
        (["talk.wav", "--quiet", "--verbose"], "--quiet and --verbose exclude each other."),
        (["talk.wav", "--jobs", "0"], "Invalid value for '--jobs': 0 is not in the range x>=1."),
    ],
)
def test_wrong_command_lines(place, run, arguments, message):
    code, out, err = run("transcribe", *arguments)
    assert (code, out) == (2, "")
    assert err == f"error: {message} See 'python -m speechbrain_mamba transcribe --help'.\n"
