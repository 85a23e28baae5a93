"""No number in a hyper-parameter file changes by accident, published ones are as published, and keys are the same in
all tasks."""

import json
import re

import pytest
from ruamel.yaml import YAML

from speechbrain_mamba.utils.hparams import read_hparams
from speechbrain_mamba.utils.overrides import RENAMED
from tests.conftest import GOLDEN, HPARAMS
from tests.hparams.settings import TASKS, files_of, read_settings, table_path, value_of, write_table

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

# SpeechBrain's value where a file does not state one.
DEFAULTS = {"time_warp.warp_window": 5, "time_warp.warp_mode": "bicubic", "fea_augment.concat_original": False}

# Published, but not a setting here: what we do instead is the same.
NOT_SETTINGS = {
    "batch_ordering",  # the recipe always shuffles
    "cosine_schedule",  # the scheduler has no other
    "wave_drop",  # the recipe does not drop
    "random_shift",  # the recipe does not shift
    "n_mamba_dp",  # a layer as intra and one as inter model: see intra_model.n_mamba
    "skip_n_block",  # no such connections
}


CTC = ["conformer_ctc", "conmamba_ctc"]

# Where our files differ from the published ones today: files, key, our value.
DIFFERENCES = [
    (CTC, "valid_search_interval", None),  # no key: every validation searches, as published
    (["sepformer"], "lr_scheduler", "LinearWarmupCosineScheduler"),
]


def ours_of(settings, task, name, key):
    """Our value of a published setting, and the published one in the same form."""
    published = PUBLISHED[task][name][key]
    if key == "optimizer":
        return settings["optimizer"].rpartition(".")[2], published
    if key == "lr_scheduler":
        return settings["lr_scheduler"].rpartition(".")[2], published.partition("(")[0]
    if key == "augmentations":
        return settings.get("fea_augment.augmentations"), "[3]" if "time_warp_mode" in PUBLISHED[task][name] else "[2]"
    if key == "bidirectional" and task == "recognition":
        return settings["mamba_config.bidirectional.0"] == "!ref <causal>" and not value_of(settings, "causal"), True
    keys = KEYS.get(key, [key])
    found = next((k for k in keys if k in settings), keys[0])
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
    for key in PUBLISHED[task][name].keys() - NOT_SETTINGS:
        ours, published = ours_of(settings, task, name, key)
        if ours != published:
            found[key] = ours
    assert found == {key: value for names, key, value in DIFFERENCES if name in names}


def test_every_published_file_is_ours_too():
    for task, folder in FOLDERS.items():
        assert PUBLISHED[task].keys() <= files_of(folder).keys()


FILES = [(task, name) for task in TASKS for name in files_of(task)]
SAME = {"task", "seed", "precision", "number_of_epochs", "grad_accumulation_factor", "max_grad_norm", "tensorboard"}
SAME |= {"wandb", "ckpt_interval_minutes", "lr", "weight_decay", "n_warmup_steps", "num_workers", "checkpointer"}
KEPT = {"bidirectional", "speed_changes"}
"""Keys of separation that the published recognizers name in another place."""


@pytest.mark.parametrize(("task", "name"), FILES)
def test_the_same_thing_has_the_same_key_in_all_tasks(task, name):
    settings = read_settings(files_of(task)[name])
    common = read_settings(HPARAMS / "common.yaml")
    assert settings.keys() >= SAME | common.keys()
    assert (settings["task"], settings["experiment_name"]) == (task, name)
    assert not settings.keys() & RENAMED.keys() - KEPT
    assert [key for key, value in settings.items() if "results/" in value] == ["output_folder"]
    used = {"max_grad_norm", "dropout", "n_total_steps", "mamba_config"} & settings.keys()
    assert all(f"<{key}" in read_hparams(files_of(task)[name]) for key in used - {"max_grad_norm"})


def test_no_key_does_nothing():
    """Each key is referred to in its file, or named in the code that reads the file."""
    code = "".join(
        path.read_text() for top in ("recipes", "speechbrain_mamba") for path in HPARAMS.parent.glob(f"{top}/**/*.py")
    )
    brain = {"max_grad_norm", "precision", "grad_accumulation_factor", "ckpt_interval_minutes"}  # of SpeechBrain
    replaced = {"time_warp"}  # what the small recognizers have instead is in fea_augment
    for task, name in FILES:
        text = read_hparams(files_of(task)[name])
        referred = set(re.findall(r"<(\w+)", text))
        idle = {key for key in YAML().load(text).keys() - referred if not re.search(rf"\b{key}\b", code)}
        assert idle <= {"__set_seed"} | brain | (replaced if name.startswith("mini") else set())
