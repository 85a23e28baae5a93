"""The first second of a training script."""

import subprocess
import sys
import time

import pytest

from speechbrain_mamba.training.command_line import check_command_line, read_comments
from tests.conftest import HPARAMS

RECIPES = sorted((HPARAMS.parent / "recipes").glob("*/train.py"))


def help_of(recipe, *arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        check_command_line(recipe, [*map(str, arguments), "--help"])
    assert not stopped.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_help_imports_nothing_slow(recipe):
    hparams = sorted((HPARAMS / recipe.parent.name).glob("*.yaml"))[0]
    start = time.monotonic()
    command = [sys.executable, "-X", "importtime", str(recipe), str(hparams), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0 and time.monotonic() - start < 10  # 0.3 s on a quiet machine
    assert not {"torch", "numpy", "speechbrain"} & {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    for text in (
        "python recipes/",
        f"keys of {hparams.name}:",
        "--number_of_epochs",
        "options of SpeechBrain:",
        "--debug",
    ):
        assert text in result.stdout
    assert "``" not in result.stdout


def test_help_has_the_keys_of_the_file_with_what_is_said_about_them(tmp_path, capsys):
    recipe, hparams = tmp_path / "train.py", tmp_path / "toy.yaml"
    recipe.write_text('"""Train ``toys``, 5 % of them."""')
    hparams.write_text(
        "lr: 0.1   # at the peak, 90 %\nn: null  # none\ndata: !PLACEHOLDER  # a folder\nprecision: bf16\n"
    )
    text = help_of(recipe, hparams, capsys=capsys)
    assert "Train toys, 5 % of them." in text
    for key, shown in {"lr": "at the peak, 90 % [0.1]", "n": "none [null]", "data": "a folder [to be given]"}.items():
        assert any(line.split() == [f"--{key}", *shown.split()] for line in text.splitlines())
    assert text.count("--precision") == 1
    assert "SpeechBrain" in help_of(recipe, capsys=capsys) and "--lr 0.001" in help_of(recipe, capsys=capsys)


TEXT = """# a title
a: 1  # one

b: [1, 2]   # two
            # three
# ---- part
c: !ref <a> # is 1

# another part
d: !new:x.Y
    e: 1  # no
f:
    g: 1
i:
j: 'x # y'
k: [1, 2,
    3]
l: !PLACEHOLDER  # give it
m: !apply:x.y [1]
"""


def test_comments_are_read_with_the_lines_below_them():
    read = read_comments(TEXT)
    assert read == {
        "a": (1, "one"), "b": ([1, 2], "two three"), "c": ("!ref <a>", "is 1"), "i": (None, ""), "j": ("x # y", ""),
        "k": ([1, 2, 3], ""), "l": ("!PLACEHOLDER", "give it"),
    }  # fmt: skip
    assert read_comments("") == {}


@pytest.mark.parametrize(
    ("source", "hparams", "arguments", "missing"),
    [
        ('class Toy:\n    needs = ("no_such_drawing", "yaml")', "a: 1", [], "no_such_drawing"),
        ("", "net: !new:no_such_net.Net", [], "no_such_net"),
        ("", "wandb: True", [], "wandb"),
        ("", "wandb: False", ["--wandb", "True"], "wandb"),
        ("", "wandb: False", ["--wandb=True"], "wandb"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_installs_it(tmp_path, source, hparams, arguments, missing):
    (tmp_path / "train.py").write_text(source)
    (tmp_path / "toy.yaml").write_text(hparams)
    with pytest.raises(SystemExit, match=f"This run needs {missing}, not installed here: pip install {missing}"):
        check_command_line(tmp_path / "train.py", [str(tmp_path / "toy.yaml"), *arguments])


def test_the_brain_may_stand_in_a_file_beside_the_script(tmp_path):
    (tmp_path / "train.py").write_text("import torch\nfrom torch import nn\nfrom toy_brain import ToyBrain")
    (tmp_path / "toy_brain.py").write_text("class ToyBrain:\n    needs = ('no_such_drawing',)")
    with pytest.raises(SystemExit, match="needs no_such_drawing"):
        check_command_line(tmp_path / "train.py", [])


@pytest.mark.parametrize("arguments", [[], ["nowhere.yaml"], ["--device", "cpu"]])
def test_other_mistakes_are_left_to_speechbrain(tmp_path, arguments):
    (tmp_path / "train.py").write_text("needs = ('yaml',)")
    check_command_line(tmp_path / "train.py", arguments)


def test_the_command_line_is_that_of_the_process(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("")
    monkeypatch.setattr("sys.argv", ["train.py", "--help"])
    with pytest.raises(SystemExit):
        check_command_line(tmp_path / "train.py")
