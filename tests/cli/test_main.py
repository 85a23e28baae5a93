"""The command line."""

import contextlib
import gc
import logging
import os
import subprocess
import sys

import pytest
from hyperpyyaml import load_hyperpyyaml

from speechbrain_mamba.__main__ import main
from speechbrain_mamba.cli import locations
from speechbrain_mamba.cli.commands.hparams import read_options
from speechbrain_mamba.cli.main import program
from speechbrain_mamba.cli.options import set_up_logging
from speechbrain_mamba.utils.hparams import load_hparams
from tests.conftest import HPARAMS

ROOT = HPARAMS.parent
PYTHON = [sys.executable, "-m", "speechbrain_mamba"]
COMMANDS = program.list_commands(None)
HELP = [
    ["--help"],
    *([command, "--help"] for command in COMMANDS),
    ["train", "asr", "--help"],
    ["train", "separation", "-h"],
]
HEAVY = ("torch", "torchaudio", "speechbrain", "matplotlib", "numpy", "encodec", "sentencepiece")


@pytest.fixture
def fail(capsys):
    """Run a command that fails; answers its exit code, and its last line on stderr."""

    def fail(*arguments):
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capsys.readouterr()
        assert not captured.out
        return end.value.code, captured.err.splitlines()[-1]

    return fail


def test_help_of_all_commands_comes_without_heavy_imports():
    """Time is not measured: what makes it is the import of torch, a second or more."""
    lines = ["import contextlib, io, sys", "import speechbrain_mamba", "from speechbrain_mamba.__main__ import main"]
    lines += ["def run(arguments):", "    with contextlib.suppress(SystemExit): main(arguments)"]
    lines += [f"run({arguments})" for arguments in [*HELP, ["hparams", "asr/conmamba_ctc"], ["train", "tts"]]]
    lines += [f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"]
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0
    assert result.stderr.splitlines()[-1] == "[]"
    assert result.stdout.count("Usage: python -m speechbrain_mamba") == len(HELP)


@pytest.mark.parametrize("arguments", [["recipes"], ["no-command"]], ids=" ".join)
def test_a_command_leaves_the_collector_of_garbage_as_it_was(arguments, capsys):
    usual = gc.get_threshold()
    with contextlib.suppress(SystemExit):
        main(arguments)
    assert gc.get_threshold() == usual


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help(arguments, capsys):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: python -m speechbrain_mamba")
    expected = {
        "--help": COMMANDS,
        "train --help": ["separation", "mini_mambatasnet", "vallm_hybrid", "conmamba_ctc_streaming"],
        "train asr --help": ["conmamba_ctc_streaming", "ConMamba L with a Mamba decoder, 122.9 M parameters"],
    }
    assert all(word in text for word in expected.get(" ".join(arguments), []))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "error: Missing command. See 'python -m speechbrain_mamba --help'."),
        (["tain"], 2, "error: There is no command 'tain'. Did you mean 'train'? Choose from"),
        (["doctor", "--fast"], 2, "error: No such option"),
        (["hparams"], 2, "error: The first argument must be FILE, a path or TASK/NAME."),
        (["hparams", "none.yaml"], 1, "error: There is no hyper-parameter file 'none.yaml'."),
        (
            ["hparams", "tts/vallm", "--l2r", "3"],
            1,
            "vallm.yaml has no hyper-parameter 'l2r' to override. Did you mean",
        ),
        (["hparams", "tts/vallm", "--lr"], 1, "error: --lr has no value: give hyper-parameters as --key value."),
        (["hparams", "tts/vallm", "lr"], 1, "error: 'lr' has no key: give hyper-parameters as --key value."),
        (["hparams", "tts/vallm", "--lr", "[1"], 1, "error: The value of --lr is not valid YAML: expected ',' or ']'"),
        (["train"], 2, "says more about the names"),
        (["train", "tts"], 2, "shows the other options"),
        (["train", "tss", "vallm"], 1, "error: There is no task 'tss'. Did you mean 'tts'?"),
        (["train", "tts", "val"], 1, "error: There is no tts model 'val'."),
        (["train", "tts", "own.yaml", "--help"], 1, "error: There is no hyper-parameter file 'own.yaml'."),
        (["recipes"], 2, "error: Missing argument 'DIR'. See 'python -m speechbrain_mamba recipes --help'."),
    ],
)
def test_mistakes_end_in_one_sentence(fail, arguments, code, message):
    status, line = fail(*arguments)
    assert status == code
    assert message in line


def test_mistakes_have_no_traceback():
    result = subprocess.run([*PYTHON, "train", "tts", "val"], capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)


READ = [["hparams", "tts/vallm"], ["train", "asr", "--help"], ["train", "speaker", "mini_speaker", "--help"]]


@pytest.mark.parametrize("arguments", READ, ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([*PYTHON, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")


def test_hparams_are_printed(capsys, tmp_path, caplog):
    main(
        [
            "hparams",
            "codec/mini_codec",
            "--lr",
            "0.5",
            "--manifest_folder=x",
            "--ratios",
            "[8,",
            "4]",
            "--N_epochs",
            "2",
        ]
    )
    text = capsys.readouterr().out
    assert caplog.messages == ["N_epochs is called number_of_epochs here."]
    loaded = load_hyperpyyaml(text)
    overrides = {"lr": 0.5, "manifest_folder": "x", "ratios": [8, 4], "number_of_epochs": 2}
    expected = load_hparams(HPARAMS / "codec" / "mini_codec.yaml", overrides)
    assert loaded.keys() == expected.keys()
    assert {key: loaded[key] for key in overrides} == overrides
    path = tmp_path / "own.yaml"
    path.write_text("a: 1")
    main(["hparams", str(path), "--a", "-2"])
    assert capsys.readouterr().out.split() == ["a:", "-2", "#", "from", "the", "command", "line"]


def test_options_are_read_as_speechbrain_reads_them():
    from speechbrain.utils.run_opts import RunOptions

    arguments = ["--lr", "1e-3", "--splits=[a, b]", "--net.size", "-3", "--name", "two", "words", "--none", "null"]
    _, _, text = RunOptions.from_command_line_args(["x.yaml", *arguments])
    assert read_options(arguments) == load_hyperpyyaml(text)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A package with a recipe that shows what it is given."""
    monkeypatch.setattr(locations, "PACKAGE", tmp_path / "speechbrain_mamba")
    for folder in ("recipes", "hparams"):
        (tmp_path / folder / "tts").mkdir(parents=True)
    (tmp_path / "hparams" / "tts" / "own.yaml").write_text("# Mine.\na: 1")
    (tmp_path / "recipes" / "tts" / "beside.py").write_text("NAME = 'beside'")
    script = tmp_path / "recipes" / "tts" / "train.py"
    script.write_text("import sys\nfrom beside import NAME\nif __name__ == '__main__':\n    print(NAME, *sys.argv)")
    monkeypatch.setattr(sys, "argv", ["x"])
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "beside.py").write_text("NAME = 'of the working directory'")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "here"), *sys.path])
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    return script


def test_a_recipe_runs_as_a_script(recipe, capsys, tmp_path):
    file = tmp_path / "hparams" / "tts" / "own.yaml"
    main(["train", "tts", "own", "--lr", "0.1", "--debug", "--name=-x"])
    assert capsys.readouterr().out.split() == ["beside", str(recipe), str(file), "--lr", "0.1", "--debug", "--name=-x"]
    main(["train", "tts", str(file), "--help"])
    assert capsys.readouterr().out.split() == ["beside", str(recipe), str(file), "--help"]
    main(["train", "tts", "--help"])
    assert "  own  Mine.\n" in capsys.readouterr().out


def test_a_recipes_own_mistakes_are_not_hidden(recipe):
    recipe.write_text("raise ValueError('from the recipe')")
    with pytest.raises(ValueError, match="from the recipe"):
        main(["train", "tts", "own"])


def test_recipes_are_copied_and_nothing_is_overwritten(recipe, tmp_path, capsys, fail):
    (recipe.parent / "__pycache__").mkdir()
    main(["recipes", str(tmp_path / "new" / "folder")])
    text = capsys.readouterr().out
    assert f"cd {tmp_path / 'new' / 'folder'}\npython recipes/separation/train.py" in text
    copied = {str(path.relative_to(tmp_path / "new" / "folder")) for path in (tmp_path / "new").rglob("*.*")}
    assert copied == {"hparams/tts/own.yaml", "recipes/tts/beside.py", "recipes/tts/train.py"}
    (tmp_path / "other" / "hparams").mkdir(parents=True)
    code, line = fail("recipes", str(tmp_path / "other"))
    assert code == 1
    assert line == f"error: '{tmp_path / 'other' / 'hparams'}' exists and is not overwritten: choose another folder."
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["hparams"]


@pytest.mark.slow
def test_several_processes_train(tmp_path):
    """torchrun starts the command as it starts a script."""
    for folder in ("recipes", "hparams"):
        (tmp_path / "share" / folder / "tts").mkdir(parents=True)
    (tmp_path / "share" / "hparams" / "tts" / "own.yaml").write_text("a: 1")
    script = tmp_path / "share" / "recipes" / "tts" / "train.py"
    script.write_text(
        "import os, pathlib, sys\nrank, size = os.environ['RANK'], os.environ['WORLD_SIZE']\n"
        "pathlib.Path(__file__).with_name(f'{rank} of {size}').write_text(' '.join(sys.argv[2:]))"
    )
    patch = tmp_path / "patched" / "sitecustomize.py"
    patch.parent.mkdir()
    patch.write_text(
        "import pathlib\nfrom speechbrain_mamba.cli import locations\n"
        f"locations.PACKAGE = pathlib.Path({str(tmp_path)!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{patch.parent}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += ["-m", "speechbrain_mamba", "train", "tts", "own", "--lr", "3"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, result.stderr
    # by files: on a shared pipe, lines of two processes may be written into one another
    done = {path.name: path.read_text() for path in script.parent.glob("* of *")}
    assert done == {"0 of 2": "--lr 3", "1 of 2": "--lr 3"}, result.stderr


@pytest.mark.slow
def test_a_model_is_trained_by_name(tmp_path):
    sizes = {"N_encoder_out": 16, "out_channels": 8, "n_mamba": 1, "batch_size": 2, "num_workers": 0, "n_examples": 0}
    sizes |= {"mixtures_per_epoch": 4, "valid_mixtures": 2, "test_mixtures": 2, "n_warmup_steps": 1, "N_epochs": 1}
    sizes |= {"mini_corpus": "{speakers: [4, 2, 2], sentences: 2, digit_strings: 1}", "data_folder": tmp_path / "data"}
    options = [str(part) for key, value in sizes.items() for part in (f"--{key}", value)]
    command = [
        *PYTHON,
        "train",
        "separation",
        "mini_mambatasnet",
        *options,
        "--output_folder",
        "out",
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "N_epochs is called number_of_epochs here" in result.stderr
    assert (tmp_path / "out" / "test" / "summary.json").is_file()
    assert (tmp_path / "out" / "inference").is_dir()


def test_what_the_library_of_the_hub_says_is_said_once(monkeypatch, capsys):
    """It has a handler of its own beside the root's, so that each retry of a transfer was told twice."""
    log = logging.getLogger("huggingface_hub")
    for owner, name, value in ((logging.getLogger(), "handlers", []), (log, "propagate", True)):
        monkeypatch.setattr(owner, name, value)
    monkeypatch.setattr(log, "handlers", [logging.StreamHandler()])
    set_up_logging(logging.INFO)
    log.warning("Trying to resume download")
    assert capsys.readouterr().err.count("Trying to resume download") == 1
