"""The commands that share models and take over those of others."""

import pytest
import torch

from tests.conftest import HPARAMS
from tests.hub_server import TOKEN
from tests.published_runs import as_modules, write_published


def test_a_model_is_exported_pushed_and_used(run, models, place, local_hub, monkeypatch):
    code, out, err = run("export", models / "separator", "mine", "--license", "cc0-1.0", "--repo", "me/mine")
    assert code == 0, err
    assert "'mine' has a separator" in out and "push mine me/mine" in out
    assert 'from_hparams("me/mine")' in (place / "mine" / "README.md").read_text()
    code, out, err = run("push", "mine", "me/mine")
    assert code == 1 and err.startswith("error: 'me/mine' was not written on the Hub: ") and "hf auth login" in err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    code, out, err = run("push", "mine", "me/mine", "--private", "--message", "The first one")
    assert code == 0, err
    assert 'from_hparams("me/mine")' in out and local_hub.repositories["me/mine"].messages == ["The first one"]
    code, out, err = run("separate", "talk.wav", "--source", "me/mine", "--out", "voices")
    assert code == 0, err
    assert len(list((place / "voices").iterdir())) == 2
    code, _, err = run("export", models / "separator", "mine")
    assert code == 1 and "exists and is not overwritten" in err


def test_published_checkpoints_are_converted(run, place, golden):
    expected = golden("mamba_tasnet_tiny")
    write_published(place / "save", as_modules(expected["state_dict"]), [{"si-snr": -20.0}])
    options = [str(part) for key, value in expected["overrides"].items() for part in (f"--{key}", value)]
    name = f"separation/{expected['source']}"
    assert (HPARAMS / f"{name}.yaml").is_file()
    code, out, err = run("convert-checkpoint", "save", "converted", name, *options)
    assert code == 0, err
    tensors = sum(map(len, expected["state_dict"].values()))
    assert f"1 checkpoint with {tensors} tensors" in out and "--output_folder converted --test_only" in out
    code, out, err = run("export", "converted", "shared")
    assert code == 0, err
    assert "converted from 1 published checkpoint (epoch 200)" in (place / "shared" / "README.md").read_text()
    code, _, err = run("convert-checkpoint", "save", "other", name)
    assert code == 1 and "does not fit these hyper-parameters" in err
    assert not (place / "other").exists()


@pytest.mark.parametrize("arguments", [(), ("save",), ("save", "out"), ("a", "b", "c", "d")])
def test_the_arguments_of_a_conversion_are_checked(run, arguments):
    code, _, err = run("convert-checkpoint", *arguments)
    assert code == 2 and "SOURCE, OUT and TASK/NAME" in err


def test_another_format_is_written_by_its_function(run, models, place, monkeypatch):
    from speechbrain_mamba.cli.commands import export

    (place / "writer.py").write_text("def write(source, out):\n    return f'{source} to {out}'\n")
    monkeypatch.syspath_prepend(str(place))
    form = next(option for option in export.command.params if option.name == "form")
    monkeypatch.setattr(form.type, "choices", ["speechbrain", "toy"])
    monkeypatch.setitem(export.FORMATS, "toy", "writer:write")
    torch.manual_seed(0)
    code, out, err = run("export", models / "separator", "toys", "--format", "toy")
    assert (code, out) == (0, f"{models / 'separator'} to toys\n"), err
    assert run("export", "me/there", "toys", "--format", "toy")[:2] == (0, "me/there to toys\n")  # a model on the Hub
    code, out, err = run("export", models / "separator", "toys", "--format", "toy", "--license", "mit", "--repo", "a/b")
    assert (code, out) == (1, "") and "The format toy has no card: leave out --license and --repo." in err


def test_the_precision_of_an_export(run, models, place):
    code, out, err = run("export", models / "separator", "small", "--precision", "int8")
    assert code == 0 and "'small' has a separator" in out, err
    assert not list((place / "small").glob("*.ckpt")) and "8-bit integers" not in err
    code, out, err = run("export", models / "separator", "graphs", "--format", "torch", "--precision", "int8")
    assert (code, out) == (1, "") and "The format torch has weights of fp32: leave out --precision int8." in err


@pytest.mark.slow
def test_a_model_is_exported_to_torch(run, models, place):
    code, _, err = run("export", models / "separator", "graphs", "--format", "torch")
    assert code == 0, err
    assert list((place / "graphs").glob("*.pt2")) and (place / "graphs" / "deployed.json").is_file()
