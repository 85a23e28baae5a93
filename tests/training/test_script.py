"""How the scripts of recipes end."""

import errno
import logging
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from speechbrain_mamba.training.script import run_script
from speechbrain_mamba.utils.hparams import read_hparams
from speechbrain_mamba.utils.main_process import do_on_main


@pytest.fixture(autouse=True)
def _recipe(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py"), "toy.yaml"])
    monkeypatch.delenv("RANK", raising=False)


def make_recipe(tmp_path, body):
    """A recipe's function, from its own file."""
    path = tmp_path / "train.py"
    path.write_text(f"def main():\n    {body}\n")
    names = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names["main"]


def ends(main, capsys):
    """The exit code of a script, and what it writes."""
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.__cause__ is None and ended.value.__suppress_context__
    return ended.value.code, capsys.readouterr().err


MISTAKES = {
    "of the package": (lambda: read_hparams("missing.yaml"), "error: There is no hyper-parameter file"),
    "passed through": (lambda: do_on_main(read_hparams, "missing.yaml"), "error: There is no hyper-parameter file"),
    "a file": (lambda: Path("missing.csv").read_text(), "error: 'missing.csv': No such file or directory"),
}


def _write(number):
    raise OSError(number, os.strerror(number))


for _number in (errno.ENOSPC, errno.EDQUOT):
    _shown = f"error: {os.strerror(_number)}: free some space, and give the same command again."
    MISTAKES[errno.errorcode[_number]] = (partial(_write, _number), _shown)


@pytest.mark.parametrize("main, text", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(main, text, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    code, shown = ends(main, capsys)
    assert code == 1 and shown.startswith(text) and shown.count("\n") == 1
    assert caplog.records[-1].exc_info  # the log file has the traceback


@pytest.mark.parametrize(
    "kind", ["ValueError", "TypeError", "RuntimeError", "ModuleNotFoundError", "FileNotFoundError"]
)
def test_a_recipe_tells_mistakes_too(tmp_path, capsys, kind):
    main = make_recipe(tmp_path, f"raise {kind}(\n        'lr is 0: set it higher')")
    assert ends(main, capsys) == (1, "error: lr is 0: set it higher\n")


UNEXPECTED = {
    "ValueError": "int('a')",
    "TypeError": "None + 1",
    "ModuleNotFoundError": "import no_such_module",
    "RuntimeError": "import torch; torch.zeros(2) @ torch.zeros(3)",
    "KeyError": "raise KeyError('a')",
    "BlockingIOError": "import errno; raise BlockingIOError(errno.EAGAIN, 'again')",
    "AssertionError": "raise AssertionError('a')",
}


@pytest.mark.parametrize("body", UNEXPECTED.values(), ids=UNEXPECTED)
def test_what_was_not_expected_keeps_its_traceback(tmp_path, body, request):
    with pytest.raises(Exception, match=r".") as error:
        run_script(make_recipe(tmp_path, body))
    assert type(error.value).__name__ == request.node.callspec.id


def test_debugging_shows_mistakes_in_full(monkeypatch):
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--debug"])
    with pytest.raises(FileNotFoundError):
        run_script(lambda: read_hparams("missing.yaml"))


def test_what_the_main_process_tells_is_told_once(tmp_path, capsys, monkeypatch):
    def main():
        error = ValueError("lr is 0")
        error.from_main = True
        raise error

    assert ends(main, capsys) == (1, "")
    monkeypatch.setenv("RANK", "1")
    own = make_recipe(tmp_path, "raise ValueError('no data here')")
    assert ends(own, capsys) == (1, "error in process 1: no data here\n")


def test_a_script_without_mistakes_leaves_the_processes(monkeypatch):
    done = []
    monkeypatch.setattr("speechbrain_mamba.training.script.leave_processes", lambda: done.append("left"))
    run_script(lambda: done.append("ran"))
    assert done == ["ran", "left"]
