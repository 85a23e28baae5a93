"""The command separate."""

import os
import pickle
import signal
import time
from functools import partial

import pytest
import soundfile

from speechbrain_mamba.cli.commands.separate import Separation
from speechbrain_mamba.cli.model_choice import ModelChoice
from speechbrain_mamba.dataio.recording_writer import RecordingWriter


def test_speakers_are_written_as_the_recording_was(models, place, run):
    code, out, err = run("separate", "talk.wav", "recordings", "stereo.wav", "--source", models / "separator")
    assert (code, out) == (0, ""), err
    written = {path.name: soundfile.info(path) for path in (place / "separated").rglob("*.wav")}
    names = ("talk", "one", "zwei ü", "stereo")
    assert written.keys() == {f"{name}_speaker{number}.wav" for name in names for number in (1, 2)}
    facts = {name: (info.samplerate, info.frames, info.channels) for name, info in written.items()}
    assert facts["talk_speaker1.wav"] == facts["talk_speaker2.wav"] == (8000, 4000, 1)
    assert facts["stereo_speaker2.wav"] == (16000, 8000, 1)


def test_channels_and_format(models, place, run):
    options = ["--channels", "each", "--format", "flac", "--out", "voices", "--window", "0", "--quiet"]
    assert run("separate", "stereo.wav", "--source", models / "separator", *options) == (0, "", "")
    info = soundfile.info(place / "voices" / "stereo_speaker1.flac")
    assert (info.samplerate, info.frames, info.channels, info.format) == (16000, 8000, 2, "FLAC")


def test_nothing_is_overwritten_without_force(models, place, run):
    target = place / "separated" / "talk_speaker2.wav"
    target.parent.mkdir()
    target.write_text("mine")
    code, _, err = run("separate", "talk.wav", "--source", models / "separator")
    assert code == 1 and "talk_speaker2.wav" in err and "--force" in err
    assert [path.name for path in target.parent.iterdir()] == [target.name] and target.read_text() == "mine"
    assert run("separate", "talk.wav", "--source", models / "separator", "--force")[0] == 0
    assert soundfile.info(target).frames == 4000


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_command_that_is_told_to_end_leaves_nothing_half_written(models, place, run, monkeypatch, number, code):
    there = []

    def finish(writer):
        there.extend(path.name for path in (place / "separated").iterdir())
        os.kill(os.getpid(), number)
        time.sleep(5)  # the signal comes at once

    monkeypatch.setattr(RecordingWriter, "finish", finish)
    # what ran the tests, such as nohup, may have it ignored
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        told, out, err = run("separate", "talk.wav", "--source", models / "separator")
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert (told, out) == (code, "") and "interrupted" in err
    assert len(there) == 2 and all(name.startswith(".talk_speaker") for name in there)
    assert not list((place / "separated").iterdir())


def test_a_bad_file_among_many_is_named(models, place, run):
    (place / "recordings" / "bad.wav").write_bytes(b"RIFF")
    code, _, err = run("separate", "recordings", "--source", models / "separator")
    assert code == 3 and "bad.wav" in err
    assert len(list((place / "separated").rglob("*.wav"))) == 4


def test_other_processes_make_the_same_work(models):
    options = {"channels": "mix", "window": 2.0, "overlap": 0.5, "batch_size": 3, "force": False}
    made = pickle.loads(pickle.dumps(partial(Separation, ModelChoice(str(models / "separator")), **options)))()
    assert made.separator.speakers == 2
    assert made.options == {**options, "window": 2.0}


def test_a_model_of_another_kind_is_refused(models, place, run):
    code, out, err = run("separate", "talk.wav", "--source", models / "recognizer")
    assert (code, out) == (1, "") and "holds a recognizer" in err and err.count("\n") == 1
