"""The command synthesize."""

import io

import pytest
import soundfile

VOICE = ["--prompt", "voice.wav", "--prompt-text", "four five"]


def test_a_text_is_said(models, place, run):
    options = [*VOICE, "--source", models / "synthesizer"]
    assert run("synthesize", "--text", "one two", *options, "--seed", 3)[:2] == (0, "")
    assert run("synthesize", "--text", "one two", *options, "--seed", 3, "--out", "again.wav")[0] == 0
    assert run("synthesize", "--text", "one two", *options, "--seed", 4, "--out", "other.flac")[0] == 0
    speech = [soundfile.read(place / name)[0].tolist() for name in ("speech.wav", "again.wav", "other.flac")]
    assert speech[0] == speech[1] != speech[2]


def test_each_line_of_a_text_is_said(models, place, run):
    (place / "lines.txt").write_text("one\n\n  two three \n", encoding="utf-8")
    options = [*VOICE, "--source", models / "synthesizer", "--quiet"]
    assert run("synthesize", "--text-file", "lines.txt", *options) == (0, "", "")
    assert sorted(path.name for path in (place / "speech").iterdir()) == ["1.wav", "2.wav"]


def test_texts_come_from_standard_input(models, place, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n"))
    options = [*VOICE, "--source", models / "synthesizer", "--out", "said"]
    assert run("synthesize", "--text-file", "-", *options)[0] == 0
    assert [path.name for path in (place / "said").iterdir()] == ["1.wav"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*VOICE], 2, "Give either --text or --text-file. See"),
        (["--text", "one", "--text-file", "lines.txt", *VOICE], 2, "Give either --text or --text-file. See"),
        (["--text", "one", "--prompt", "voice.wav"], 2, "Missing option '--prompt-text'. See"),
        (["--text-file", "empty.txt", *VOICE], 1, "'empty.txt' has no text: write one on each line."),
        (["--text-file", "voice.wav", *VOICE], 1, "'voice.wav' is not a text in UTF-8: convert it first."),
        (["--text-file", "none.txt", *VOICE], 1, "error: 'none.txt': No such file or directory"),
        (["--text", "one", *VOICE, "--out", "talk.wav"], 1, "'talk.wav' exists and is not overwritten: choose"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(place, run, arguments, code, message):
    (place / "empty.txt").write_text(" \n")
    status, out, err = run("synthesize", *arguments)
    assert (status, out, err.count("\n")) == (code, "", 1) and message in err
