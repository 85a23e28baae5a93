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


def test_a_bad_line_is_named_and_the_others_are_said(models, place, run):
    (place / "lines.txt").write_text("one\n話\n€\ntwo\n", encoding="utf-8")
    options = [*VOICE, "--source", models / "synthesizer", "--quiet"]
    code, out, err = run("synthesize", "--text-file", "lines.txt", *options)
    assert (code, out) == (3, "") and err.startswith("error: speech/2.wav: The text '話' has symbols")
    assert err.endswith("2 of 4 texts failed: speech/2.wav, speech/3.wav\n")
    assert sorted(path.name for path in (place / "speech").iterdir()) == ["1.wav", "4.wav"]
    assert "error: speech/3.wav: The text '€' has nothing to say" in err
    bad = ["synthesize", "--text-file", "lines.txt", *options, "--out", "bad", "--prompt", "none.wav"]
    code, _, err = run(*bad)
    assert code == 3 and err.count("'none.wav' does not exist") == 1 and "4 of 4 texts failed" in err


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
        (
            ["--text", "one", *VOICE, "--out", "../p/voice.wav", "--force"],
            1,
            "'../p/voice.wav' would be written, but is",
        ),
        (["--text", "one", *VOICE, "--out", "one.txt"], 1, "'one.txt' has the suffix '.txt', but audio is written to"),
        (["--text", "one", *VOICE, "--out", "recordings"], 1, "'recordings' is a folder: give the name of a file."),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(place, run, arguments, code, message):
    (place / "empty.txt").write_text(" \n")
    (place.parent / "p").symlink_to(place)
    status, out, err = run("synthesize", *arguments)
    assert (status, out, err.count("\n")) == (code, "", 1) and message in err
