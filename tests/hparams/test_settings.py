"""No number in a hyper-parameter file changes by accident, published ones are as published, and keys are the same in
all tasks."""

import json
import re

import pytest

from speechbrain_mamba.utils.hparams import merge_files
from speechbrain_mamba.utils.overrides import RENAMED
from tests.conftest import GOLDEN, HPARAMS
from tests.hparams.settings import (
    TASKS,
    files_of,
    read_settings,
    read_text,
    read_tree,
    table_path,
    value_of,
    write_table,
)

PUBLISHED = json.loads((GOLDEN / "published_settings.json").read_text(encoding="utf-8"))
FOLDERS = {"recognition": "asr", "separation": "separation"}

# Our keys of the published settings. Where there are several the first that the file has counts.
KEYS = {
    "epochs": ["number_of_epochs"],
    "averaged_checkpoints": ["avg_checkpoints"],
    "warmup_optimizer_steps": ["n_warmup_steps"],
    "weight_decay": ["optimizer.weight_decay"],
    "lr": ["optimizer.lr"],
    "adam_betas": ["optimizer.betas"],
    "adam_eps": ["optimizer.eps"],
    "n_fft": ["compute_features.n_fft"],
    "n_mels": ["compute_features.n_mels"],
    "win_length_ms": ["compute_features.win_length"],
    "max_batch_seconds_train": ["max_batch_length_train"],
    "max_batch_seconds_valid": ["max_batch_length_valid"],
    "dropout": ["Transformer.dropout"],
    "attention_type": ["Transformer.attention_type"],
    "loss_reduction": ["ctc_cost.reduction"],
    "ctc_beam_size": ["test_search.beam_size"],
    "ctc_beam_prune_logp": ["test_search.beam_prune_logp"],
    "ctc_token_prune_min_logp": ["test_search.token_prune_min_logp"],
    "label_smoothing": ["seq_cost.label_smoothing"],
    "speed_changes_percent": ["speed_perturb.speeds"],
    "time_drop_frames_low": ["time_drop.drop_length_low"],
    "time_drop_frames_high": ["time_drop.drop_length_high"],
    "time_drop_count_low": ["time_drop.drop_count_low"],
    "time_drop_count_high": ["time_drop.drop_count_high"],
    "freq_drop_bands_low": ["freq_drop.drop_length_low"],
    "freq_drop_bands_high": ["freq_drop.drop_length_high"],
    "freq_drop_count_low": ["freq_drop.drop_count_low"],
    "freq_drop_count_high": ["freq_drop.drop_count_high"],
    "drop_replace": ["time_drop.replace"],
    "time_warp_window": ["time_warp.warp_window"],
    "time_warp_mode": ["time_warp.warp_mode"],
    "augment_prob": ["fea_augment.augment_prob"],
    "concat_original": ["fea_augment.concat_original"],
    "d_state": ["mamba_config.d_state", "MambaNet.d_state", "intra_model.d_state"],
    "expand": ["mamba_config.expand", "MambaNet.expand", "intra_model.expand"],
    "d_conv": ["mamba_config.d_conv", "MambaNet.d_conv", "intra_model.d_conv"],
    "bidirectional": ["MambaNet.bidirectional", "intra_model.bidirectional"],
    "kernel_size": ["Encoder.kernel_size"],
    "kernel_stride": ["Decoder.stride"],
    "speed_perturb": ["use_speedperturb"],
    "threshold_db": ["threshold"],
    "lr_final_ratio": ["lr_scheduler.lr_final_ratio"],
    "chunk_size": ["MaskNet.K"],
    "n_dp": ["MaskNet.num_layers"],
    "skip_around_intra": ["MaskNet.skip_around_intra"],
    "max_grad_norm": ["max_grad_norm"],
}

# What holds where a file does not state it: SpeechBrain's values; and CTC is searched in each validation.
DEFAULTS = {
    "time_warp.warp_window": 5, "time_warp.warp_mode": "bicubic", "fea_augment.concat_original": False,
    "valid_search_interval": 1,
}  # fmt: skip

# Published, but not a setting here: what we do instead is the same.
NOT_SETTINGS = {
    "batch_ordering": "random",  # the recipe always shuffles
    "wave_drop": False,  # the recipe does not drop
    "random_shift": False,  # the recipe does not shift
    "skip_n_block": 0,  # no such connections
}


DELIBERATE: list[tuple[list[str], str, object]] = []
"""Differences from the published settings: files, key, our value. The YAML has the reason, in a comment at the key that
says "published"; where the file has no such key, in one that says "no KEY"."""


PLATEAU = ("factor", "patience", "dont_halve_until_epoch")


def our_key(settings, key):
    """Our key of a published setting."""
    keys = KEYS.get(key, [key])
    return next((k for k in keys if k in settings), keys[0])


def ours_of(settings, task, name, key):
    """Our value of a published setting, and the published one in the same form."""
    published = PUBLISHED[task][name][key]
    if key == "optimizer":
        return settings["optimizer"].rpartition(".")[2], published
    if key == "lr_scheduler":
        ours, form = settings["lr_scheduler"].rpartition(".")[2], "{}(factor {}, patience {}, not before epoch {}), "
        options = [value_of(settings, f"lr_scheduler.{name}") for name in PLATEAU]
        return form.format(ours, *options) + ("a" if "n_warmup_steps" in settings else "no") + " warm-up", published
    if key == "cosine_schedule":
        return settings["lr_scheduler"].endswith("LinearWarmupCosineScheduler"), published
    if key == "n_mamba_dp":
        return value_of(settings, "intra_model.n_mamba") + value_of(settings, "inter_model.n_mamba"), published
    if key == "augmentations":
        return settings.get("fea_augment.augmentations"), "[3]" if "time_warp_mode" in PUBLISHED[task][name] else "[2]"
    if key == "bidirectional" and task == "recognition":
        return settings["mamba_config.bidirectional.0"] == "!ref <causal>" and not value_of(settings, "causal"), True
    found = our_key(settings, key)
    if key == "bidirectional":
        return value_of(settings, found) == "inner", published
    return (value_of(settings, found) if found in settings else DEFAULTS.get(found)), published


@pytest.mark.parametrize("task", TASKS)
def test_settings_are_those_of_the_table(task):
    """After an intended change run ``python -m tests.hparams.settings``, which writes the tables again."""
    expected = table_path(task).read_text(encoding="utf-8").splitlines()
    changed = set(expected) ^ set(write_table(task).splitlines())
    assert not changed, "\n".join(sorted(changed))


@pytest.mark.parametrize(("task", "name"), [(task, name) for task in FOLDERS for name in PUBLISHED[task]])
def test_settings_are_the_published_ones_but_for_known_differences(task, name):
    settings, found = read_settings(files_of(FOLDERS[task])[name]), {}
    for key, published in PUBLISHED[task][name].items():
        if key in NOT_SETTINGS:
            assert published == NOT_SETTINGS[key]
            continue
        ours, published = ours_of(settings, task, name, key)
        if ours != published:
            found[key] = ours
    assert found == {key: value for names, key, value in DELIBERATE if name in names}


def reason_of(path, key):
    """The comment at a key of a file, or of the file that it has the key from: before it, or on its line."""
    _, sources = merge_files(path)
    top, _, inner = key.partition(".")
    lines = sources[top][-1].read_text(encoding="utf-8").splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith(f"{top}:"))
    if inner:
        place = next(i for i, line in enumerate(lines) if i > place and line.strip().startswith(f"{inner}:"))
    before = place
    while before and lines[before - 1].lstrip().startswith("#"):
        before -= 1
    return " ".join([*lines[before:place], lines[place].partition("#")[2]])


def without_reason(path, keys):
    """Those keys of a file that differ from what is published without a comment that says why."""
    settings, text = read_settings(path), read_text(path)
    places = {key: our_key(settings, key) for key in keys}
    return [
        key
        for key, place in places.items()
        if not ("published" in reason_of(path, place) if place in settings else f"no {key}" in text)
    ]


def test_the_yaml_says_why_it_differs_from_what_is_published():
    for folder in FOLDERS.values():
        for name, path in files_of(folder).items():
            assert without_reason(path, [key for names, key, _ in DELIBERATE if name in names]) == []


def test_a_difference_without_a_reason_is_found(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "# first\n\n# published: 3,\n# but 2 is better\nd_model: 2  # of all\nseed: 1\n"
    )
    (tmp_path / "top.yaml").write_text(
        "!include:base.yaml\nlr_scheduler:\n  patience: 1  # published: 2\n# no epochs\n"
    )
    path = tmp_path / "top.yaml"
    assert reason_of(path, "d_model") == "# published: 3, # but 2 is better  of all"
    assert reason_of(path, "lr_scheduler.patience").strip() == "published: 2"
    keys = ["d_model", "seed", "epochs", "lr_scheduler.patience", "precision"]
    assert without_reason(path, keys) == ["seed", "precision"]


def test_what_is_in_no_setting_is_published_for_the_baseline():
    """SepFormer was trained on the fixed mixtures, all others on mixtures drawn in training."""
    for name in PUBLISHED["separation"]:
        settings = read_settings(files_of("separation")[name])
        assert value_of(settings, "dynamic_mixing") is (name != "sepformer")
        assert value_of(settings, "level_law") is None and settings["corpus"] == "wsj0mix"
    with_our_schedule = read_settings(files_of("separation")["sepformer_cosine"])
    assert with_our_schedule["lr_scheduler"].endswith("LinearWarmupCosineScheduler")


def test_every_published_file_is_ours_too():
    for task, folder in FOLDERS.items():
        assert PUBLISHED[task].keys() <= files_of(folder).keys()


FILES = [(task, name) for task in TASKS for name in files_of(task)]
SAME = {"task", "seed", "precision", "number_of_epochs", "grad_accumulation_factor", "max_grad_norm", "tensorboard"}
SAME |= {"wandb", "ckpt_interval_minutes", "lr", "weight_decay", "num_workers", "checkpointer"}
KEPT = {"speed_changes"}
"""A key of separation that the published recognizers name in another place."""


@pytest.mark.parametrize(("task", "name"), FILES)
def test_the_same_thing_has_the_same_key_in_all_tasks(task, name):
    settings = read_settings(files_of(task)[name])
    common = read_settings(HPARAMS / "common.yaml")
    assert settings.keys() >= SAME | common.keys()
    assert ("n_warmup_steps" in settings) is not settings["lr_scheduler"].endswith("ReduceLROnPlateau")
    assert (settings["task"], settings["experiment_name"]) == (task, name)
    assert not settings.keys() & RENAMED.keys() - KEPT
    assert [key for key, value in settings.items() if "results/" in value] == ["output_folder"]
    used = {"dropout", "n_total_steps", "mamba_config"} & settings.keys()
    assert all(f"<{key}" in read_text(files_of(task)[name]) for key in used)


def test_no_key_does_nothing():
    """Each key is referred to in its file, or named in the code that reads the file."""
    code = "".join(
        path.read_text() for top in ("recipes", "speechbrain_mamba") for path in HPARAMS.parent.glob(f"{top}/**/*.py")
    )
    words = set(re.findall(r"\w+", code))
    brain = {"max_grad_norm", "precision", "grad_accumulation_factor", "ckpt_interval_minutes"}  # of SpeechBrain
    replaced = {"time_warp"}  # what the small recognizers have instead is in fea_augment
    for task, name in FILES:
        text = read_text(files_of(task)[name])
        referred = set(re.findall(r"<(\w+)", text))
        idle = read_tree(files_of(task)[name]).keys() - referred - words
        assert idle <= {"__set_seed"} | brain | (replaced if name.startswith("mini") else set())
