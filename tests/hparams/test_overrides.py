"""Values that replace those of a file: keys inside others, and the names that published files have for keys."""

import logging

import pytest
from hyperpyyaml import load_hyperpyyaml

from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from speechbrain_mamba.utils.overrides import RENAMED
from speechbrain_mamba.utils.yaml_text import parse_yaml
from tests.conftest import HPARAMS
from tests.hparams.settings import read_settings

FILES = [path for path in sorted(HPARAMS.glob("*/*.yaml"))]

PUBLISHED = {
    "separation/dpmamba_M": {
        "N_epochs": ("number_of_epochs", 3),
        "clip_grad_norm": ("max_grad_norm", -1),
        "n_audio_to_save": ("n_examples", 4),
        "n_warmup_step": ("n_warmup_steps", 5),
        "percent_lr": ("lr_final_ratio", 0.5),
        "ssm_dim": ("mamba_config.d_state", 8),
        "mamba_expand": ("mamba_config.expand", 3),
        "mamba_conv": ("mamba_config.d_conv", 2),
        "experiment": ("experiment_name", "mine"),
        "use_wandb": ("wandb", True),
    },
    "asr/conmamba_ctc": {
        "transformer_dropout": ("dropout", 0.3),
        "dev_splits": ("valid_splits", "dev-other"),
        "lr_model": ("lr", 0.01),
        "num_bucket": ("num_buckets", 9),
        "max_batch_len_val": ("max_batch_length_valid", 7),
        "beam_size": ("test_search.beam_size", 2),
        "d_state": ("mamba_config.d_state", 8),
    },
    "asr/conmambamamba_large": {
        "lr_adam": ("lr", 0.01),
        "max_batch_length_val": ("max_batch_length_valid", 7),
        "min_decode_ratio": ("searcher.min_decode_ratio", 0.1),
        "speed_changes": ("speed_perturb.speeds", 95),
        "time_drop_length_low": ("time_drop.drop_length_low", 2),
        "freq_drop_replace": ("freq_drop.replace", "zeros"),
        "time_warp_window": ("time_warp.warp_window", 3),
    },
    "codec/mini_codec": {"test_examples": ("n_examples", 2)},
}


def settings_of(tmp_path, name, overrides):
    path = tmp_path / "changed.yaml"
    path.write_text(read_hparams(HPARAMS / f"{name}.yaml", overrides))
    return read_settings(path)


@pytest.mark.parametrize(
    ("name", "key", "new", "value"),
    [(name, key, *meant) for name, keys in PUBLISHED.items() for key, meant in keys.items()],
)
def test_published_keys_are_accepted_with_a_notice(tmp_path, caplog, name, key, new, value):
    before = read_settings(HPARAMS / f"{name}.yaml")
    after = settings_of(tmp_path, name, f"{key}: {value}")
    assert {k: v for k, v in after.items() if before.get(k) != v} == {new: str(value)}
    assert caplog.messages == [f"{key} is called {new} here."]


def test_a_key_that_the_file_has_is_not_renamed(tmp_path, caplog):
    after = settings_of(tmp_path, "separation/dpmamba_M", {"bidirectional": False, "speed_changes": [100]})
    assert (after["bidirectional"], after["speed_changes.0"]) == ("False", "100")
    assert not caplog.records


def test_every_new_name_is_a_key_of_some_file():
    keys = {key for path in FILES for key in read_settings(path)}
    keys |= {"time_warp.warp_window", "time_warp.warp_mode"}  # options that the files leave at their defaults
    assert set(RENAMED.values()) <= keys


def test_a_published_key_without_a_counterpart_is_refused():
    with pytest.raises(ValueError, match=r"mini_codec\.yaml has no hyper-parameter 'ssm_dim' to override"):
        read_hparams(HPARAMS / "codec" / "mini_codec.yaml", "ssm_dim: 3")


@pytest.fixture
def path(tmp_path):
    text = (
        "net: {size: 3, depth: {low: 1, high: 2}}\nnone: null\nplace: !PLACEHOLDER\nother: !ref <net>\nlist: [1, 2]\n"
    )
    (tmp_path / "settings.yaml").write_text(text + "thing: !new:collections.Counter\nname: !name:collections.Counter\n")
    return tmp_path / "settings.yaml"


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        ("net.size: 4", "net", {"size": 4, "depth": {"low": 1, "high": 2}}),
        ("net.depth.high: 5", "net", {"size": 3, "depth": {"low": 1, "high": 5}}),
        ("{net.size: 4, net.depth.low: 0}", "net", {"size": 4, "depth": {"low": 0, "high": 2}}),
        ("net: {depth: {low: 0}, wide: 1}", "net", {"size": 3, "depth": {"low": 0, "high": 2}, "wide": 1}),
        ("net: {}", "net", {"size": 3, "depth": {"low": 1, "high": 2}}),
        ("net: 1", "net", 1),
        ("none: {a: 1}", "none", {"a": 1}),  # where there was no mapping there is one now
        ("none.a.b: 1", "none", {"a": {"b": 1}}),
        ("place: {a: 1}", "place", {"a": 1}),
        ("other: {a: 1}", "other", {"a": 1}),
        ("list: {a: 1}", "list", {"a": 1}),
        ("thing: {a: 2}", "thing", {"a": 2}),  # options of an object that had none
        ("net: !new:collections.Counter {a: 1}", "net", {"a": 1}),  # the whole value is another object
        ("none: !ref <list>", "none", [1, 2]),
    ],
)
def test_values_inside_others_are_replaced(path, overrides, key, value):
    hparams = load_hparams(path, {"place": 0, **parse_yaml(overrides, "")})
    assert hparams[key] == value
    assert type(hparams["thing"]).__name__ == "Counter"


def test_options_are_added_to_a_name(path):
    assert load_hparams(path, {"place": 0, "name.a": 3})["name"]() == {"a": 3}


@pytest.mark.parametrize("overrides", ["lr", "[1, 2]", 5])
def test_overrides_are_keys_with_values(path, overrides):
    with pytest.raises(ValueError, match="Overrides are keys with values, but these are"):
        read_hparams(path, overrides)


def test_wrong_yaml_is_named_with_its_line(path):
    with pytest.raises(ValueError, match=r"The text of the overrides is not valid YAML: .* in line 2\.$"):
        read_hparams(path, "list: 1\nnet: [1, 2")
    with pytest.raises(ValueError, match="The text of the overrides is not valid YAML: found duplicate key"):
        read_hparams(path, "list: 1\nlist: 2")
    path.write_text("a: 1\nb: {c: 2\n")
    with pytest.raises(ValueError, match=r"settings\.yaml is not valid YAML: .* in line 3\."):
        read_hparams(path)


def test_notices_are_warnings(path, caplog):
    with caplog.at_level(logging.WARNING):
        path.write_text("number_of_epochs: 3")
        assert load_hparams(path, {"N_epochs": 4}) == {"number_of_epochs": 4}
    assert caplog.records[0].levelname == "WARNING"


@pytest.mark.parametrize(
    "override, fault",
    [
        ("n: five", r"^n is 'five', but must be a number, such as 5\.$"),
        ("rate: 1..5", r"^rate is '1\.\.5', but must be a number, such as 0\.5\.$"),
        ("flag: no", r"^flag is 'no', but must be True or False\.$"),
        ({"flag": "off"}, r"^flag is 'off', but must be True or False\.$"),
    ],
)
def test_text_is_no_number_and_no_flag(tmp_path, override, fault):
    path = tmp_path / "settings.yaml"
    path.write_text("n: 5\nrate: 0.5\nflag: False\nname: a")
    with pytest.raises(ValueError, match=fault):
        read_hparams(path, override)
    kept = load_hyperpyyaml(read_hparams(path, "{n: 1e-3, rate: !ref <n>, flag: {a: b}, name: no}"))
    assert kept == {"n": 0.001, "rate": 0.001, "flag": {"a": "b"}, "name": "no"}
