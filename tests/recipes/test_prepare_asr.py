"""The script that prepares data for recognition."""

import logging
import runpy

import pytest

from tests.recipes.asr_spies import RECIPE

SCRIPT = str(RECIPE / "prepare_librispeech.py")


def test_librispeech_is_prepared_by_a_command(monkeypatch):
    calls = []
    monkeypatch.setattr("logging.basicConfig", lambda **options: calls.append(options))
    monkeypatch.setattr(
        "speechbrain_mamba.corpora.librispeech.prepare_librispeech", lambda **options: calls.append(options) or {}
    )
    monkeypatch.setattr("sys.argv", ["prepare_librispeech.py", "data", "lists"])
    runpy.run_path(SCRIPT, run_name="__main__")
    assert calls == [{"level": logging.INFO, "format": "%(message)s"}, {"data_folder": "data", "save_folder": "lists"}]


def test_what_is_wrong_is_said_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["prepare_librispeech.py", str(tmp_path), str(tmp_path / "lists")])
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(SCRIPT, run_name="__main__")
    error = capsys.readouterr().err
    assert exited.value.code == 1 and "There is no folder" in error and error.count("\n") == 1
