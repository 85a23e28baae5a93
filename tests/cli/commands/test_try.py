"""The command try."""

import re
import sys
from pathlib import Path

import pytest
import soundfile

from speechbrain_mamba.cli.commands import try_
from speechbrain_mamba.corpora.mini.samples import SAMPLES

SOUNDS = {"voice1.wav", "voice2.wav", "mixture.wav", "estimate1.wav", "estimate2.wav", "speech.wav"}


@pytest.fixture
def options(models):
    return [part for name in ("separator", "recognizer", "synthesizer") for part in (f"--{name}", models / name)]


def test_all_steps(place, run, options, figures):
    code, out, err = run("try", *options)
    assert code == 0, err
    folder = place / "speechbrain-mamba-try"
    assert {path.name for path in folder.iterdir()} == {*SOUNDS, "spectrograms.png"}
    assert {soundfile.info(folder / name).samplerate for name in SOUNDS} == {8000}
    assert [axes.get_title(loc="left") for axes in figures[-1].axes[:-1]] == [
        *sorted(SOUNDS - {"speech.wav"}, key=out.index),
        "speech.wav",
    ]
    for number, sample in enumerate(SAMPLES, start=1):
        assert re.search(rf'^  voice{number}.wav +-\d+\.\d dB  "{sample.text}"$', out, re.MULTILINE)
        assert re.search(
            rf"^  estimate{number}.wav +-\d+\.\d dB  SI-SNR +-?\d+\.\d dB, [+-]\d+\.\d dB by", out, re.MULTILINE
        )
        assert re.search(rf'^  estimate{number}.wav +"[a-z ]*"  \d+ % of the words wrong$', out, re.MULTILINE)
    assert re.search(r'^  speech.wav +"[a-z ]*"  \d+ % of the words wrong$', out, re.MULTILINE)
    assert f"The files are in '{folder.name}'. This took " in out.splitlines()[-1]
    code, out, err = run("try", *options)
    assert (code, out) == (1, "") and "is not empty and is not overwritten" in err


def test_models_that_are_not_in_this_version_are_left_out(place, run, monkeypatch):
    monkeypatch.setattr("speechbrain_mamba.inference.bundled.bundled_models", dict)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run("try", "--out", "here")
    assert (code, err) == (0, "")
    for name in ("separator", "recognizer-digits", "synthesizer-digits"):
        assert f"left out, as this version has no model '{name}'" in out
    assert 'Spectrograms\n  left out: Pictures are drawn by matplotlib, which is not installed: pip install "' in out
    assert {path.name for path in (place / "here").iterdir()} == {"voice1.wav", "voice2.wav", "mixture.wav"}


def test_a_working_directory_that_cannot_be_written_to(monkeypatch, tmp_path):
    monkeypatch.chdir("/proc")  # where nobody can make a folder
    monkeypatch.setattr(try_.tempfile, "tempdir", str(tmp_path))
    folder = try_.choose_folder(None, False)
    assert folder.parent == tmp_path and folder.is_dir()
    with pytest.raises(OSError):
        try_.choose_folder(Path("here"), False)
