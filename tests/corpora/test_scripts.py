"""Preparations as scripts."""

import argparse
import logging

import pytest

from speechbrain_mamba.corpora.scripts import preparation_parser, run_preparation
from speechbrain_mamba.utils.locks import FolderLock


def test_a_script_takes_two_folders_and_shows_its_docstring(capsys):
    parser = preparation_parser("Make it.\n\n    python make.py", "the data", "the results")
    assert vars(parser.parse_args(["in", "out"])) == {"data_folder": "in", "save_folder": "out"}
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = capsys.readouterr().out
    assert "Make it.\n\n    python make.py\n" in shown
    assert "data_folder  the data\n" in shown and "save_folder  the results\n" in shown


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError])
def test_a_script_says_in_one_line_what_is_wrong(capsys, error):
    def prepare(save_folder):
        raise error(f"bad {save_folder}")

    parser = argparse.ArgumentParser()
    parser.add_argument("save_folder")
    with pytest.raises(SystemExit) as exited:
        run_preparation(parser, prepare, ["out"])
    assert (exited.value.code, capsys.readouterr().err) == (1, "bad out\n")


def test_a_script_does_not_write_into_a_run_that_another_command_works_on(tmp_path, capsys):
    parser = preparation_parser("List it.", "the data", "the results")
    (tmp_path / "hyperparams.yaml").touch()
    made, locked = [], []

    def prepare(data_folder, save_folder):
        made.append(save_folder)
        locked.append((tmp_path / ".lock").exists())
        return {}

    command = ["in", str(tmp_path / "save")]
    with FolderLock(tmp_path), pytest.raises(SystemExit) as exited:
        run_preparation(parser, prepare, command)
    assert exited.value.code == 1 and capsys.readouterr().err.startswith(f"'{tmp_path}' is in use by process ")
    assert made == []
    run_preparation(parser, prepare, command)
    assert locked == [True] and [path.name for path in tmp_path.iterdir()] == ["hyperparams.yaml"]


def test_a_script_lists_what_it_made(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)  # to restore it
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int)
    run_preparation(parser, lambda number: {"test": f"test{number}.csv"}, ["--number", "3"])
    assert capsys.readouterr().err == "test: test3.csv\n"
