"""Commands are found by their files, and their help has examples that work."""

import sys

import click
import pytest

from speechbrain_mamba.cli import commands
from speechbrain_mamba.cli.main import main, program
from speechbrain_mamba.cli.program import SECTIONS
from tests.cli.lines import check

CONTEXT = click.Context(program)
COMMANDS = {name: program.get_command(CONTEXT, name) for name in program.list_commands(CONTEXT)}
EXAMPLES = [(name, line) for name, command in COMMANDS.items() for line, _ in command.examples]


def test_the_commands():
    expected = {"separate", "transcribe", "synthesize", "stream", "train", "recipes", "hparams", "doctor", "try"}
    assert expected | {"drop-in"} <= COMMANDS.keys()
    for command in COMMANDS.values():
        assert command.examples and command.section in SECTIONS
        assert len(command.get_short_help_str(100)) < 80


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_examples_of_the_help(name, line):
    assert line.split()[0] == name
    check(line)


def test_examples_stand_in_the_help(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/speechbrain-mamba"])
    main(["doctor", "--help"])
    assert "Examples:\n  # what works here\n  speechbrain-mamba doctor\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["say_it", "if_"])
def test_a_command_is_a_file(tmp_path, monkeypatch, capsys, name):
    text = "import click\n@click.command()\ndef command():\n    print('it runs')\n"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"speechbrain_mamba.cli.commands.{name}", raising=False)
    main([name.rstrip("_").replace("_", "-")])
    assert capsys.readouterr().out == "it runs\n"


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (KeyboardInterrupt(), 130, "\ninterrupted.\n"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device: free some space"),
        (FileNotFoundError(2, "No such file", "x.wav"), 1, "error: 'x.wav': No such file\n"),
    ],
)
def test_errors_end_in_a_sentence(monkeypatch, capsys, error, code, shown):
    def broken():
        raise error

    monkeypatch.setattr("speechbrain_mamba.doctor.report", broken)
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    assert end.value.code == code
    assert capsys.readouterr().err.startswith(shown)


def test_faults_of_the_code_are_not_hidden(monkeypatch):
    monkeypatch.setattr("speechbrain_mamba.doctor.report", lambda: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        main(["doctor"])


def test_version(capsys):
    from speechbrain_mamba import __version__

    main(["--version"])
    assert capsys.readouterr().out == f"speechbrain-mamba {__version__}\n"
