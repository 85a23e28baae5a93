"""Published checkpoints as runs of this package."""

import json
import re
import shutil

import pytest
import torch
from speechbrain.processing.features import InputNormalization

from speechbrain_mamba.inference.conversion import LAYOUTS, RENAMED, convert_checkpoint
from speechbrain_mamba.inference.pretrained import open_model
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.text.tokenizer import train_tokenizer
from speechbrain_mamba.training.record import RunFolder
from speechbrain_mamba.utils._compat import normalizer_statistics
from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from tests.conftest import HPARAMS
from tests.errors import relative_error
from tests.lobes.recognition.test_golden_asr import FILES
from tests.published_runs import as_modules, leave_weights_alone, write_published
from tests.recipes.conftest import ROOT

SEPARATION = HPARAMS / "separation"


@pytest.fixture
def tasnet(golden, tmp_path):
    """The tiny Mamba-TasNet of the authors' code, its file here and its overrides, in the layout of their folders."""
    expected = golden("mamba_tasnet_tiny")
    root = tmp_path / "unpacked" / "mamba-tasnet"
    (folder,) = write_published(root / "save", as_modules(expected["state_dict"]), [{"si-snr": -21.4}])
    return expected, folder, SEPARATION / f"{expected['source']}.yaml", dict(expected["overrides"])


def estimate_of(folder, mix):
    return SpeechSeparator.from_hparams(folder / "inference").separate_batch(mix)


@pytest.mark.parametrize(
    "kind",
    [
        "archive",
        "weights",
        pytest.param("save", marks=pytest.mark.slow),
        pytest.param("checkpoint", marks=pytest.mark.slow),
    ],
)
def test_a_separator_gives_the_authors_estimates(tasnet, tmp_path, kind):
    expected, folder, hparams, overrides = tasnet
    places = {
        "checkpoint": folder, "save": folder.parent, "archive": folder.parents[2], "weights": tmp_path / "bare",
    }  # fmt: skip
    leave_weights_alone(folder, tmp_path / "bare")
    made = convert_checkpoint(places[kind], tmp_path / "out", hparams, overrides)
    assert relative_error(estimate_of(tmp_path / "out", expected["mix"]), expected["estimate"]) < 1e-4
    parts = expected["state_dict"].values()
    assert (made.checkpoints, made.tensors) == (1, sum(map(len, parts)))
    assert made.parameters == sum(value.numel() for part in parts for value in part.values())
    run = RunFolder(tmp_path / "out", tmp_path / "out" / "save")
    assert run.last_epoch() == 200 and not run.tested_epochs()
    (found,) = AtomicCheckpointer(tmp_path / "out" / "save").find_checkpoints(min_key="si-snr")
    assert found.meta["si-snr"] == (float("inf") if kind == "weights" else -21.4)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    (entry,) = record["checkpoints"]
    assert entry["epoch"] == 200 and set(entry["sha256"]) == {"encoder.ckpt", "masknet.ckpt", "decoder.ckpt"}


def test_the_best_of_several_checkpoints_is_exported(tasnet, golden, tmp_path):
    expected, _, hparams, overrides = tasnet
    zeros = {name: {key: 0 * value for key, value in part.items()} for name, part in expected["state_dict"].items()}
    both = [as_modules(expected["state_dict"]), as_modules(zeros)]
    write_published(tmp_path / "two" / "save", both, [{"si-snr": -21.0}, {"si-snr": -3.0}])
    made = convert_checkpoint(tmp_path / "two", tmp_path / "out", hparams, overrides)
    assert (made.checkpoints, made.averaged) == (2, 1)
    assert relative_error(estimate_of(tmp_path / "out", expected["mix"]), expected["estimate"]) < 1e-4
    assert RunFolder(tmp_path / "out", tmp_path / "out/save").last_epoch() == 200


def spoil(folder, change):
    path = folder / "masknet.ckpt"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("mask_conv1x1.conv.weight"),
            r"Missing there: masknet\.mask_conv1x1\.conv \(weight\)\.",
        ),
        (lambda state: state.update(extra=torch.zeros(2)), r"Only there: masknet \(extra\)\."),
        (
            lambda state: state.update({"mask_conv1x1.conv.weight": torch.zeros(3, 2, 1)}),
            r"Of another shape: masknet\.mask_conv1x1\.conv \(weight, 3 x 2 x 1 there, \d+ x \d+ x 1 here\)",
        ),
        (
            lambda state: state["mask_conv1x1.conv.weight"].fill_(torch.nan),
            r"not finite in masknet\.mask_conv1x1\.conv",
        ),
    ],
)
def test_what_does_not_fit_is_listed_and_nothing_is_left(tasnet, tmp_path, change, message):
    _, folder, hparams, overrides = tasnet
    spoil(folder, change)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(folder, tmp_path / "out", hparams, overrides)
    assert not list(tmp_path.glob("*out*"))


def test_hyper_parameters_of_another_size_are_refused(tasnet, tmp_path):
    _, folder, hparams, overrides = tasnet
    with pytest.raises(ValueError, match=r"does not fit these hyper-parameters.*Of another shape"):
        convert_checkpoint(folder, tmp_path / "out", hparams, {**overrides, "num_spks": 3})
    with pytest.raises(ValueError, match="Missing there"):
        convert_checkpoint(folder, tmp_path / "out", SEPARATION / "dpmamba_XS.yaml", {"n_dp": 1})
    assert not list(tmp_path.glob("*out*"))


def test_what_cannot_be_converted_is_named(tasnet, tmp_path):
    _, folder, hparams, overrides = tasnet
    shutil.copytree(folder.parents[1], folder.parents[2] / "another")
    with pytest.raises(ValueError, match=r"holds several runs: '.*another', '.*mamba-tasnet'\. Give one"):
        convert_checkpoint(folder.parents[2], tmp_path / "out", hparams, overrides)
    with pytest.raises(ValueError, match="is a file, but checkpoints are folders: unpack it"):
        convert_checkpoint(folder / "masknet.ckpt", tmp_path / "out", hparams, overrides)
    with pytest.raises(FileExistsError, match="exists and is not overwritten"):
        convert_checkpoint(folder, folder, hparams, overrides)
    with pytest.raises(ValueError, match="task tts, but published checkpoints can be converted for separation and asr"):
        convert_checkpoint(folder, tmp_path / "out", HPARAMS / "tts" / "vallm.yaml")
    with pytest.raises(FileNotFoundError, match=r"^SOURCE: There is no folder '.*nothing'"):
        convert_checkpoint(tmp_path / "nothing", tmp_path / "out", hparams, overrides)


def test_code_in_a_checkpoint_does_not_run(tasnet, tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    _, folder, hparams, overrides = tasnet
    for name in ("optimizer", "lr_scheduler"):  # what is not needed is not read
        torch.save({"harm": Harm()}, folder / f"{name}.ckpt")
    convert_checkpoint(folder, tmp_path / "out", hparams, overrides)
    torch.save({"harm": Harm()}, folder / "encoder.ckpt")
    with pytest.raises(ValueError, match="could run code: it was not loaded"):
        convert_checkpoint(folder, tmp_path / "other", hparams, overrides)
    assert not (tmp_path / "harm").exists()


# ---------------------------------------------------------------------------------------------------- recognizers


def published_recognizer(golden, name, save, tmp_path, scores=({"ACC": 0.9},), tokenizer="tokenizer.ckpt"):
    """The tiny recognizer of the authors' code in the layout of their folders; returns what is needed to convert it."""
    expected = golden(name)
    overrides = dict(expected["overrides"])
    size = expected["state_dict"]["ctc_lin"]["w.weight"].shape[0]
    words = ["ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE ZERO THE QUICK BROWN FOX JUMPS OVER A LAZY DOG"]
    made = train_tokenizer(tmp_path / "tokens" / "tokenizer.ckpt", words * 50, size, token_type="bpe")
    parts = [part for part in ("CNN", "Transformer", "seq_lin", "ctc_lin") if part in expected["state_dict"]]
    states = []
    for number in range(len(scores)):
        states.append(
            {
                f"{place}.{key}": value + number
                for place, part in enumerate(parts)
                for key, value in expected["state_dict"][part].items()
            }
        )
    normalizer = InputNormalization(norm_type="global", update_until_epoch=4)
    normalizer.train()
    normalizer(torch.randn(4, 50, 80) * 3 + 2, torch.ones(4), epoch=1)
    modules = [as_modules({"model": state}) for state in states]
    folders = write_published(save, modules, list(scores), 110, normalizer)
    (save / tokenizer).write_bytes(made.serialized_model_proto())
    hparams = HPARAMS / "asr" / f"{FILES[expected['source']]}.yaml"
    return expected, folders, hparams, {**overrides, "output_neurons": size}, normalizer


@pytest.mark.parametrize(
    "name",
    [
        "conmamba_ctc_tiny",
        pytest.param("conmamba_s2s_tiny", marks=pytest.mark.slow),
        pytest.param("conmambamamba_s2s_tiny", marks=pytest.mark.slow),
    ],
)
def test_a_recognizer_gives_the_authors_outputs(golden, tmp_path, name):
    save = tmp_path / "published" / "save"
    expected, _, hparams, overrides, normalizer = published_recognizer(
        golden, name, save, tmp_path, tokenizer="31_char.model" if "ctc" in name else "tokenizer.ckpt"
    )
    made = convert_checkpoint(save.parent, tmp_path / "out", hparams, overrides)
    assert made.checkpoints == 1 and (tmp_path / "out/save/tokenizer.ckpt").is_file()
    opened = open_model(tmp_path / "out" / "inference")
    from speechbrain.inference.ASR import EncoderASR, EncoderDecoderASR

    model = opened.load(EncoderASR if "ctc_tiny" in name else EncoderDecoderASR)
    encoder = model.mods.encoder
    ours, theirs = normalizer_statistics(encoder.normalize), normalizer_statistics(normalizer)
    assert torch.equal(ours["glob_mean"], theirs["glob_mean"])
    with torch.no_grad():
        cnn = encoder.CNN(expected["feats"], torch.ones(2))
        inner = encoder.encoder if "ctc_tiny" in name else encoder.transformer
        out = inner(cnn, torch.ones(2)) if "ctc_tiny" in name else inner.encode(cnn, torch.ones(2))
        layer = encoder.ctc_lin if "ctc_tiny" in name else model.mods.ctc_lin
    assert relative_error(layer(out), expected["ctc_logits"]) < 1e-4


@pytest.mark.slow
def test_a_recognizer_is_the_average_that_a_test_would_take(golden, tmp_path):
    save = tmp_path / "published" / "save"
    scores = [{"ACC": 0.5}, {"ACC": 0.9}, {"ACC": 0.8}]
    expected, _, hparams, overrides, _ = published_recognizer(golden, "conmamba_s2s_tiny", save, tmp_path, scores)
    made = convert_checkpoint(save, tmp_path / "out", hparams, {**overrides, "avg_checkpoints": 2})
    assert (made.checkpoints, made.averaged) == (3, 2)
    loaded = torch.load(tmp_path / "out/inference/ctc_lin.ckpt", weights_only=True)["w.weight"]
    torch.testing.assert_close(loaded, expected["state_dict"]["ctc_lin"]["w.weight"] + 1.5)  # the last two
    ranked = AtomicCheckpointer(tmp_path / "out/save").find_checkpoints(min_key="TER")
    assert [checkpoint.meta["epoch"] for checkpoint in ranked] == [109, 110, 108]


@pytest.mark.slow
def test_the_tokenizer_of_a_recognizer_is_checked(golden, tmp_path):
    save = tmp_path / "published" / "save"
    _, folders, hparams, overrides, _ = published_recognizer(golden, "conmamba_ctc_tiny", save, tmp_path)
    (save / "tokenizer.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer .*--tokenizer_folder"):
        convert_checkpoint(folders[0], tmp_path / "out", hparams, overrides)
    wrong = train_tokenizer(tmp_path / "wrong" / "tokenizer.ckpt", ["ONE TWO"], 9, token_type="char")
    (save / "tokenizer.ckpt").write_bytes(wrong.serialized_model_proto())
    with pytest.raises(ValueError, match=r"has 9 tokens, but output_neurons is \d+"):
        convert_checkpoint(folders[0], tmp_path / "out", hparams, overrides)
    made = convert_checkpoint(
        folders[0], tmp_path / "out", hparams, {**overrides, "tokenizer_folder": str(tmp_path / "tokens")}
    )
    assert made.folder.is_dir()


def test_layouts_are_those_of_the_recipes():
    """Of the Brains, which the package does not import."""
    recipes = "\n".join((ROOT / "recipes" / name).read_text() for name in
                        ("separation/train.py", "asr/objectives.py", "asr/recognition_brain.py"))  # fmt: skip
    scores = re.findall(r'best_by = "([\w-]+)"', recipes)
    assert scores == [LAYOUTS[name].best_by for name in ("separation", "ctc", "ctc_attention")]
    (renamed,) = re.findall(r"renamed_weights.*= (\{.*\})", recipes)
    assert json.loads(renamed) == RENAMED
