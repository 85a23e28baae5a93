"""Runs that start from other weights, and runs with frozen parts."""

import logging
import shutil
from pathlib import Path

import pytest
import speechbrain as sb
import torch
from speechbrain.processing.features import InputNormalization
from torch import nn

import speechbrain_mamba
from speechbrain_mamba.inference.bundled import FOLDER
from speechbrain_mamba.training.fine_tuning import find_frozen_modules
from speechbrain_mamba.training.init_source import find_init_source
from speechbrain_mamba.training.named_weights import RunWeights
from speechbrain_mamba.utils._compat import save_normalizer
from speechbrain_mamba.utils.weights import write_weights
from tests.training.conftest import HPARAMS

MODULES = """
init_from: null
init_skip: []
width: 4
outputs: 1
front: !new:torch.nn.Sequential
    - !new:torch.nn.Linear
        in_features: 3
        out_features: !ref <width>
    - !new:torch.nn.BatchNorm1d
        num_features: !ref <width>
    - !new:torch.nn.Dropout
        p: !ref <dropout>
head: !new:torch.nn.Linear
    in_features: !ref <width>
    out_features: !ref <outputs>
normalize: !new:speechbrain.processing.features.InputNormalization
    update_until_epoch: 9
modules:
    front: !ref <front>
    head: !ref <head>
    normalize: !ref <normalize>
checkpointer: !new:speechbrain_mamba.utils.checkpoints.AtomicCheckpointer
    checkpoints_dir: !ref <save_folder>
    recoverables:
        front: !ref <front>
        head: !ref <head>
        normalizer: !ref <normalize>
        lr_scheduler: !ref <lr_scheduler>
        counter: !ref <epoch_counter>
"""
NAMES = [
    "front.0.weight", "front.0.bias", "front.1.weight", "front.1.bias", "front.1.running_mean", "front.1.running_var",
    "front.1.num_batches_tracked", "head.weight", "head.bias",
]  # fmt: skip


class Exploded(Exception):
    """What kills a run here."""


@pytest.fixture
def tune(toy, tmp_path, caplog):
    """Run a recipe of two modules and a normalizer; returns the state of its modules beside what ``toy`` does."""
    caplog.set_level(logging.INFO)
    (tmp_path / "toy.yaml").write_text(HPARAMS.partition("layer: !new")[0] + MODULES)
    toy.Brain.modes, toy.Brain.killed_at = [], None

    def compute_forward(brain, batch, stage):
        x = batch.to(brain.device).x.data.float()
        if stage == sb.Stage.TRAIN:
            front = brain.hparams.front
            toy.Brain.modes.append(
                (front[0].training, front[1].training, front[2].training, brain.modules.head.training)
            )
            if (brain.epoch, brain.step) == toy.Brain.killed_at:
                raise Exploded
        x = brain.modules.normalize(x[:, None], torch.ones(len(x)), epoch=brain.hparams.epoch_counter.current)[:, 0]
        return brain.modules.head(brain.modules.front(x))

    toy.Brain.compute_forward = compute_forward

    def run(output="out", killed_at=None, **options):
        toy.Brain.killed_at = killed_at
        toy.Brain.modes.clear()
        patterns = {key: ",".join(options.pop(key)) for key in ("init_skip", "freeze") if key in options}
        options = {"dropout": 0.3, "n_train": 4, **patterns, **options}
        try:
            toy(output, **options)
        except AttributeError as error:  # what the toy returns
            assert "layer" in str(error)
        brain = toy.brain
        state = {
            f"{name}.{key}": value.clone()
            for name in ("front", "head")
            for key, value in getattr(brain.hparams, name).state_dict().items()
        }
        return state, brain

    return run


def same(one, other, names=NAMES):
    return all(torch.equal(one[name], other[name]) for name in names)


@pytest.fixture
def folder(tmp_path):
    """An exported folder that fits, and its weights."""
    torch.manual_seed(1)
    front, head = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()), nn.Linear(4, 1)
    normalize = InputNormalization()
    normalize(torch.randn(9, 1, 3) + 5, torch.ones(9))
    (tmp_path / "model").mkdir()
    write_weights(tmp_path / "model" / "front.safetensors", front.state_dict())
    write_weights(tmp_path / "model" / "head.ckpt", head.state_dict())
    save_normalizer(normalize, tmp_path / "model" / "normalizer.ckpt")
    (tmp_path / "model" / "hyperparams.yaml").write_text("x: !!python/object/apply:os.system ['touch /tmp/never']")
    parts = {"front": front, "head": head}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    return tmp_path / "model", state, normalize


class TestStart:
    def test_a_run_starts_from_an_exported_folder(self, tune, folder, caplog):
        path, expected, normalize = folder
        state, brain = tune(init_from=path, lr=0, number_of_epochs=1)
        assert same(state, expected, ["front.0.weight", "front.1.bias", "head.weight", "head.bias"])
        assert not torch.equal(state["front.1.running_mean"], expected["front.1.running_mean"])  # trained on
        assert brain.hparams.normalize.count > normalize.count == 9
        assert f"init_from: 12 of 12 tensors from the folder '{path}' (front 7, head 2, normalize 3); " in caplog.text
        assert "nothing skipped; with the statistics of normalize" in caplog.text

    def test_half_precision_is_enough(self, tune, folder):
        path, *_ = folder
        write_weights(path / "head.safetensors", {"weight": torch.ones(1, 4).half(), "bias": torch.ones(1).half()})
        state, _ = tune(init_from=path, lr=0, number_of_epochs=1)
        assert state["head.weight"].dtype == torch.float32 and (state["head.weight"] == 1).all()

    def test_what_does_not_fit_is_listed_and_has_to_be_named(self, tune, folder, caplog):
        path, expected, _ = folder
        write_weights(path / "head.ckpt", {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)})
        with pytest.raises(ValueError) as caught:
            tune(init_from=path)
        message = str(caught.value)
        assert "Of another shape: head (weight, 2 x 4 there, 1 x 4 here)." in message
        assert "Missing there: head (bias). Only there: head (scale)." in message
        assert "Leave it out with --init_skip 'head'" in message
        with pytest.raises(
            ValueError, match=r"Missing there: head \(bias\)\. Leave it out with .* 'head.\*ght,head.scale,head"
        ):
            tune(init_from=path, init_skip=["head.*ght", "head.scale"])
        state, brain = tune(init_from=path, init_skip=["head"], lr=0, number_of_epochs=1)
        assert same(state, expected, ["front.0.weight"]) and not state["head.weight"].eq(0).any()
        assert "skipped: head (weight, bias, scale)" in caplog.text
        assert brain.taken >= {"front.0.weight", "normalize.count"} and not any("head" in name for name in brain.taken)

    def test_what_fits_may_be_left_out(self, tune, folder):
        path, expected, _ = folder
        state, brain = tune(init_from=path, init_skip=["front.0.*", "normalize"], lr=0, number_of_epochs=1)
        assert same(state, expected, ["head.weight"]) and not torch.equal(
            state["front.0.weight"], expected["front.0.weight"]
        )
        assert brain.hparams.normalize.glob_mean.max() < 3

    def test_statistics_that_are_missing_have_to_be_named(self, tune, folder):
        (folder[0] / "normalizer.ckpt").unlink()
        with pytest.raises(
            ValueError, match=r"Missing there: normalize \(count, glob_mean, glob_std\)\..* 'normalize'"
        ):
            tune(init_from=folder[0])

    def test_a_pattern_that_stands_for_nothing_is_refused(self, tune, folder):
        with pytest.raises(ValueError, match=r"init_skip has 'heed', but .* Near are: head"):
            tune(init_from=folder[0], init_skip=["heed"])
        with pytest.raises(ValueError, match="init_skip is head, but there is no init_from"):
            tune(init_skip=["head"])

    def test_weights_that_are_not_finite_are_refused(self, tune, folder):
        write_weights(folder[0] / "head.ckpt", {"weight": torch.full((1, 4), torch.nan), "bias": torch.zeros(1)})
        with pytest.raises(ValueError, match=r"not finite in head \(weight\)"):
            tune(init_from=folder[0])

    def test_a_failed_start_leaves_no_run(self, tune, folder):
        with pytest.raises(ValueError, match="does not fit"):
            tune(init_from=folder[0], outputs=2)
        tune(init_from=folder[0], init_skip=["head"], outputs=2, number_of_epochs=1)

    @pytest.mark.parametrize("name", ["head.ckpt", "normalizer.ckpt"])
    def test_a_link_out_of_the_folder_is_refused(self, tune, folder, name, tmp_path):
        (folder[0] / name).rename(tmp_path / "elsewhere")
        (folder[0] / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match=rf"{name}' is a link out of its folder"):
            tune(init_from=folder[0])

    @pytest.mark.parametrize("kind", ["run", "save", "checkpoint"])
    def test_a_run_starts_from_another_run(self, tune, kind, tmp_path):
        _, brain = tune("first")
        best = brain.checkpointer.find_checkpoint(min_key="loss")
        source = {"run": tmp_path / "first", "save": tmp_path / "first" / "save", "checkpoint": best.path}[kind]
        state, _ = tune("second", init_from=source, lr=0, number_of_epochs=1, freeze=["front", "normalize"])
        expected = {
            f"{name}.{key}": value
            for name in ("front", "head")
            for key, value in torch.load(best.path / f"{name}.ckpt").items()
        }
        assert same(state, expected)

    def test_the_best_checkpoint_is_that_of_the_score(self, tune, tmp_path):
        tune("first", lr=0.5, number_of_epochs=3, avg_checkpoints=3)
        scores = {
            one.path: one.meta["loss"]
            for one in sb.utils.checkpoints.Checkpointer(tmp_path / "first" / "save").list_checkpoints()
        }
        best = min((path for path in scores), key=scores.get)
        assert find_init_source(tmp_path / "first").folders[0] == best
        with pytest.raises(FileNotFoundError, match="no whole checkpoint with the score 'WER'"):
            find_init_source(tmp_path / "first", "WER")


class TestSources:
    def test_what_is_no_source_is_named(self, tmp_path):
        (tmp_path / "empty" / "inference").mkdir(parents=True)
        (tmp_path / "file").write_text("")
        for source, words in (
            ("empty", "neither weights .* Did you mean '.*inference'"),
            ("file", "which is a file"),
            ("no/such/folder", "There is no folder"),
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=words):
                find_init_source(tmp_path / source)

    def test_a_model_of_the_package_has_a_name(self, tmp_path, monkeypatch):
        assert Path(speechbrain_mamba.__file__).parent / "inference" / "bundled_models" == FOLDER
        (tmp_path / "inference" / "bundled_models" / "recognizer-digits").mkdir(parents=True)
        monkeypatch.setattr("speechbrain_mamba.__file__", str(tmp_path / "__init__.py"))
        monkeypatch.chdir(tmp_path)
        source = find_init_source("recognizer-digits")
        assert source.folders == (tmp_path / "inference" / "bundled_models" / "recognizer-digits",)
        with pytest.raises(FileNotFoundError, match="There is no folder"):
            find_init_source("digits")
        with pytest.raises(FileNotFoundError, match=r"'recognizer-digit'\. Did you mean 'recognizer-digits'\?"):
            find_init_source("recognizer-digit")

    def test_a_damaged_checkpoint_is_refused(self, tune, tmp_path):
        _, brain = tune("first", number_of_epochs=1)
        path = brain.checkpointer.find_checkpoint(min_key="loss").path
        content = (path / "head.ckpt").read_bytes()
        (path / "head.ckpt").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=r"is damaged: head\.ckpt was changed"):
            find_init_source(path)

    def test_a_model_of_another_kind_is_refused(self, tune, tmp_path):
        (tmp_path / "other").mkdir()
        write_weights(tmp_path / "other" / "masknet.ckpt", {"weight": torch.zeros(1)})
        with pytest.raises(FileNotFoundError, match=r"no weights of this recipe's modules \(front, head"):
            tune(init_from=tmp_path / "other")

    def test_files_that_are_no_weights_are_refused(self, tune, folder):
        torch.save({"weight": shutil.rmtree}, folder[0] / "head.ckpt")
        with pytest.raises(ValueError, match="which could run code"):
            tune(init_from=folder[0])

    def test_parts_of_a_list_get_the_names_of_modules(self, tmp_path):
        front, back, normalize = nn.Linear(1, 2), nn.Sequential(nn.Linear(2, 1)), InputNormalization()
        modules = {"front": front, "Wrapped": nn.ModuleDict({"inner": back}), "normalize": normalize}
        weights = RunWeights(
            modules, {"model": nn.ModuleList([front, back]), "normalizer": normalize}, {"Wrapped.inner.": "back."}
        )
        names = ["front.weight", "front.bias", "back.0.weight", "back.0.bias"]
        assert list(weights.here().tensors) == names
        write_weights(tmp_path / "model.ckpt", nn.ModuleList([front, back]).state_dict())
        found = weights.read(find_init_source(tmp_path)).tensors
        assert list(found) == names and torch.equal(found["back.0.weight"], back[0].weight)
        write_weights(tmp_path / "model.ckpt", nn.ModuleList([front, back, nn.Linear(1, 1)]).state_dict())
        with pytest.raises(ValueError, match="modules 0, 1, 2, and that of this run has 0, 1: numbers do not tell"):
            weights.read(find_init_source(tmp_path))


class TestFreeze:
    def test_frozen_weights_and_statistics_stay(self, tune, folder):
        path, expected, normalize = folder
        state, brain = tune(init_from=path, freeze=["front", "normalize"])
        assert same(state, expected, NAMES[:7]) and not torch.equal(state["head.weight"], expected["head.weight"])
        assert brain.hparams.normalize.count == normalize.count
        trained = [one for group in brain.optimizer.param_groups for one in group["params"]]
        assert {id(one) for one in trained} == {id(one) for one in brain.hparams.head.parameters()}
        assert all(one.grad is None for one in brain.hparams.front.parameters())

    @pytest.mark.parametrize(
        ("freeze", "modes"),
        [
            ([], (True, True, True, True)),
            (["front"], (False, False, False, True)),
            (["front.*"], (False, False, False, True)),
            (["front.0"], (False, True, True, True)),
            (["front.1.weight", "front.1.bias"], (True, False, True, True)),
            (["front.1.weight"], (True, True, True, True)),
            (["head.bias", "*.running_*"], (True, True, True, True)),
            (["*.weight"], (True, True, True, True)),
        ],
    )
    def test_modules_that_are_frozen_as_a_whole_are_in_evaluation_mode(self, toy, tune, freeze, modes):
        tune(freeze=freeze)
        assert set(toy.Brain.modes) == {modes} and len(toy.Brain.modes) == 4

    def test_nothing_to_train_and_nothing_to_freeze_are_refused(self, tune):
        with pytest.raises(ValueError, match=r"freeze is front, head, which leaves no parameter to train"):
            tune(freeze=["front", "head"])
        with pytest.raises(ValueError, match=r"freeze has 'frnt.\*', but .* Near are: front"):
            tune(freeze=["frnt.*"])
        with pytest.raises(ValueError, match="freeze has the statistics of 'normalize', but there are none yet"):
            tune(freeze=["normalize"])

    def test_buffers_alone_freeze_a_module_that_has_no_parameters(self):
        class Book(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("embed", torch.zeros(2))
                self.register_buffer("cache", torch.zeros(2), persistent=False)

        model = nn.Sequential(nn.Linear(1, 1), Book(), nn.Dropout())
        tensors = dict(model.state_dict(keep_vars=True))
        for frozen, expected in (("0", [model[0]]), ("1", [model[1]]), ("01", [model])):
            named = {id(tensor): name[0] in frozen for name, tensor in tensors.items()}
            assert find_frozen_modules([model], named, {}) == expected


class TestResume:
    def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(self, tune, folder, tmp_path):
        path, _, _ = folder
        options = {"init_from": path, "init_skip": ["head"], "freeze": ["front.0"], "ckpt_interval_steps": 1}
        expected, _ = tune("whole", **options)
        with pytest.raises(Exploded):
            tune("killed", killed_at=(2, 2), **options)
        path.rename(tmp_path / "moved")  # a run that is resumed does not load it again
        state, brain = tune("killed", **options)
        assert same(state, expected) and brain.source is None

    def test_a_run_without_a_checkpoint_starts_from_the_source_again(self, tune, folder):
        options = {"init_from": folder[0], "freeze": ["front"], "number_of_epochs": 1}
        with pytest.raises(Exploded):
            tune("killed", killed_at=(1, 2), **options)
        state, _ = tune("killed", **options)
        assert same(state, folder[1], NAMES[:7])

    def test_the_settings_belong_to_the_run(self, tune, folder):
        options = {"init_from": folder[0], "init_skip": ["head.bias"], "freeze": ["front.0"]}
        tune(**options, number_of_epochs=1)
        for change in ({"freeze": ["front"]}, {"init_skip": ["head"]}, {"init_from": "other/one"}):
            with pytest.raises(ValueError, match=f"holds a run with other settings: {next(iter(change))}"):
                tune(**{**options, **change}, number_of_epochs=2)
