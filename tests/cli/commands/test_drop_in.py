import sys

import pytest

from speechbrain_mamba import drop_in
from speechbrain_mamba.cli.main import main

SCRIPT = """
import sys
import torch
from helper import greet
from mamba_ssm import Mamba
print(greet, __name__, sys.argv, tuple(Mamba(8)(torch.zeros(1, 3, 8)).shape))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A script and its helper; imports and arguments are as before afterwards."""
    (tmp_path / "infer.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text("greet = 'hello'\n")
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    drop_in.uninstall()
    for name in ("helper", "infer"):
        sys.modules.pop(name, None)


def test_a_script_runs_with_its_arguments(folder, monkeypatch, capsys):
    monkeypatch.chdir("/")
    main(["drop-in", str(folder / "infer.py"), "--help", "-m", "1"])
    assert capsys.readouterr().out == f"hello __main__ ['{folder}/infer.py', '--help', '-m', '1'] (1, 3, 8)\n"


def test_a_module_runs_with_its_arguments(folder, capsys):
    main(["drop-in", "-m", "infer", "--config", "x.yaml"])
    assert capsys.readouterr().out == f"hello __main__ ['{folder}/infer.py', '--config', 'x.yaml'] (1, 3, 8)\n"


def test_errors_of_the_script_are_its_own(folder):
    (folder / "infer.py").write_text("raise FileNotFoundError('mine')")
    with pytest.raises(FileNotFoundError, match="mine"):
        main(["drop-in", "infer.py"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.py"], 1, "'nowhere.py' is not a file: give a Python script, or -m and the name of a module."),
        (["-m"], 2, "-m needs the name of a module."),
        (["--quiet", "infer.py"], 2, "'--quiet' stands before the script: give the script or -m first."),
    ],
)
def test_mistakes(folder, capsys, arguments, code, said):
    with pytest.raises(SystemExit) as end:
        main(["drop-in", *arguments])
    assert end.value.code == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(capsys, arguments):
    main(["drop-in", *arguments])
    shown = capsys.readouterr().out
    assert "drop-in SCRIPT | -m MODULE [ARGUMENTS ...]" in shown
    assert "drop-in inference.py --config config.yaml" in shown


def test_the_example_of_the_help_runs(folder, capsys):
    (folder / "infer.py").rename(folder / "inference.py")
    main(["drop-in", "inference.py", "--config", "config.yaml"])
    assert "'--config', 'config.yaml'] (1, 3, 8)" in capsys.readouterr().out
