"""The command stream."""

import re

import pytest
import soundfile
import torch

from speechbrain_mamba.cli.live import Growing, take_pieces


def test_the_text_grows(models, place, run):
    code, out, _ = run("stream", "talk.wav", "--source", models / "streaming_recognizer")
    *lines, last = out.splitlines()
    assert code == 0 and lines and last and all(re.fullmatch(r" +\d+\.\d\d s  [OTWNE ]*", line) for line in lines)
    code, quiet, _ = run(
        "stream", "talk.wav", "--milliseconds", 17, "--quiet", "--source", models / "streaming_recognizer"
    )
    assert (code, quiet) == (0, f"{last}\n")


def test_a_separator_writes_speakers(models, place, run):
    options = ["--source", models / "streaming_separator", "--out", "voices"]
    code, out, err = run("stream", "talk.wav", *options)
    assert (code, out) == (0, "")
    assert err.endswith("Written: voices/talk_speaker1.wav, voices/talk_speaker2.wav\n")
    for number in (1, 2):
        info = soundfile.info(place / "voices" / f"talk_speaker{number}.wav")
        assert (info.samplerate, info.frames, info.subtype) == (8000, 4000, "FLOAT")
    code, _, err = run("stream", "talk.wav", *options)
    assert code == 1 and "talk_speaker1.wav" in err
    assert run("stream", "talk.wav", *options, "--force")[0] == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("synthesizer", "is a synthesizer, but a recognizer or a separator is needed"),
        ("separator", "cannot run on a stream"),
        ("recognizer", "cannot run on a stream: it needs whole utterances"),
    ],
)
def test_models_that_do_not_stream_are_refused(models, place, run, source, message):
    code, out, err = run("stream", "talk.wav", "--source", models / source)
    assert (code, out, err.count("\n")) == (1, "", 1) and message in err


def test_a_stream_that_is_too_short_is_told_in_samples(models, place, run):
    soundfile.write(place / "short.wav", torch.zeros(20).numpy(), 8000)
    code, out, err = run("stream", "short.wav", "--quiet", "--source", models / "streaming_recognizer")
    assert (code, out) == (
        1,
        "",
    ) and "The stream has 20 samples, but the recognizer needs at least 160 at 8000 Hz" in err


def test_ctrl_c_ends_the_microphone_and_not_the_command(monkeypatch):
    def listen(sample_rate, samples):
        yield torch.zeros(1, samples)
        raise KeyboardInterrupt

    monkeypatch.setattr("speechbrain_mamba.cli.live.listen", listen)
    assert [piece.shape for piece in take_pieces(None, 8000, 320)] == [(1, 2560)]


def test_a_terminal_shows_the_end_of_a_text_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    growing = Growing(terminal=True)
    assert growing.show(0.5, "ONE") and growing.show(61.25, "ONE TWO THREE FOUR FIVE")
    growing.clear()
    assert capsys.readouterr().out.split("\r") == [
        "",
        f"   0.50 s  {'ONE':18}",
        "  61.25 s  TWO THREE FOUR FIVE"[:11] + "TWO THREE FOUR FIVE"[-18:],
        " " * 29,
        "",
    ]
