"""Packages that a recipe needs."""

import re
import sys

import pytest

from speechbrain_mamba.training.requirements import check_requirements, named_packages, setting_packages


@pytest.fixture
def installed(monkeypatch):
    """Say what is installed."""
    return lambda *names: monkeypatch.setattr(
        "speechbrain_mamba.training.requirements.find_spec", lambda name: name if name in names else None
    )


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["matplotlib"], 'needs matplotlib, not installed here: pip install "speechbrain_mamba[recipes]"'),
        (
            ["fast_bss_eval", "torch", "tensorboard"],
            'needs fast_bss_eval, tensorboard, not installed here: pip install "speechbrain_mamba[recipes]"',
        ),
        (
            ["matplotlib", "encodec", "wandb"],
            'needs matplotlib, encodec, wandb, not installed here: pip install "speechbrain_mamba[recipes]" '
            '"speechbrain_mamba[tts]" wandb',
        ),
    ],
)
def test_one_command_installs_all_that_is_missing(installed, modules, message):
    installed("torch")
    with pytest.raises(ModuleNotFoundError, match=re.escape(message) + "$"):
        check_requirements(modules)


def test_nothing_is_imported():
    assert "this" not in sys.modules
    check_requirements(["this"])
    assert "this" not in sys.modules


def test_packages_of_the_objects_of_a_file():
    text = "a: !new:one.A\nb: !name:two.b\nc: !apply:three.c [1]\nd: !module:four\ne: !ref <a>\nf: !new:one.two.B"
    assert named_packages(text) == ["four", "one", "three", "two"]


def test_loggers_and_corpora_need_their_packages_when_asked_for():
    assert setting_packages({}) == setting_packages({"tensorboard": False, "wandb": None, "corpus": "fsdd"}) == []
    assert setting_packages({"tensorboard": True, "wandb": {"project": "mine"}}) == ["tensorboard", "wandb"]
    assert setting_packages({"corpus": "mini"}) == ["espeakng_loader"]
    assert setting_packages({"corpus": "mini", "skip_prep": True}) == []
    spoken = {"task": "tts", "n_test_utterances": 3, "train_parts": ["nar", "ar"]}
    assert setting_packages(spoken) == ["encodec"]
    for change in ({"n_test_utterances": 0}, {"train_parts": ["ar"]}, {"train_parts": None}, {"task": "codec"}):
        assert setting_packages(spoken | change) == []
