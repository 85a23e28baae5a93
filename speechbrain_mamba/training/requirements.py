"""Packages that a recipe needs beside those that are always installed, checked before anything slow happens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec

_INSTALLED_BY = {
    "matplotlib": "speechbrain_mamba[recipes]",
    "fast_bss_eval": "speechbrain_mamba[recipes]",
    "tensorboard": "speechbrain_mamba[recipes]",
    "encodec": "speechbrain_mamba[tts]",
    "espeakng_loader": "speechbrain_mamba[tts]",
    "webdataset": "speechbrain_mamba[shards]",
    "pesq": "speechbrain_mamba[metrics]",
    "pystoi": "speechbrain_mamba[metrics]",
}
"""What pip is told to install, by the name of the module; another module is installed by its own name."""


def named_packages(text: str) -> list[str]:
    """List the packages of the objects that hyper-parameters make.

    Arguments
    ---------
    text : str
        HyperPyYAML.

    Returns
    -------
    list of str
        Names of top-level modules.

    Example
    -------
    >>> named_packages("loss: !name:torch.nn.functional.l1_loss\\nlayer: !new:encodec.modules.SLSTM")
    ['encodec', 'torch']
    """
    return sorted(set(re.findall(r"!(?:new|name|apply|module):(\w+)", text)))


def setting_packages(settings: Mapping) -> list[str]:
    """List the packages of the loggers, the corpus and the test that the hyper-parameters ask for.

    Arguments
    ---------
    settings : mapping
        Hyper-parameters by name, all optional: ``tensorboard`` and ``wandb``; ``corpus`` and ``skip_prep``, as
        espeak-ng speaks the corpus ``mini``; ``train_shards``; ``perceptual_scores``; and those of :func:`speaks_test`,
        for which a codec is needed.

    Returns
    -------
    list of str
        Names of modules.

    Example
    -------
    >>> setting_packages({"tensorboard": True, "wandb": False, "corpus": "mini"})
    ['tensorboard', 'espeakng_loader']
    """
    speaks = settings.get("corpus") == "mini" and not settings.get("skip_prep")
    loggers = [name for name in ("tensorboard", "wandb") if settings.get(name)]
    shards = ["webdataset"] * bool(settings.get("train_shards"))
    heard = ["pesq", "pystoi"] * bool(settings.get("perceptual_scores"))
    return loggers + ["espeakng_loader"] * speaks + ["encodec"] * speaks_test(settings) + shards + heard


def speaks_test(settings: Mapping) -> bool:
    """Whether a run speaks its test set: if it synthesizes (``task``), if ``n_test_utterances`` is not 0, and if both
    models are trained (``train_parts``), which it takes.

    Example
    -------
    >>> speaks_test({"task": "tts", "n_test_utterances": 20, "train_parts": ["ar", "nar"]})
    True
    """
    parts = settings.get("train_parts") or []
    return settings.get("task") == "tts" and bool(settings.get("n_test_utterances")) and {*parts} == {"ar", "nar"}


def check_requirements(modules: Iterable[str]) -> None:
    """Make sure that modules are installed, without importing them.

    Arguments
    ---------
    modules : iterable of str
        Names of top-level modules.

    Raises
    ------
    ModuleNotFoundError
        When some are not installed; the message has the command that installs them.

    Example
    -------
    >>> check_requirements(["torch", "yaml"])
    >>> check_requirements(["no_such_module"])
    Traceback (most recent call last):
    ModuleNotFoundError: This run needs no_such_module, not installed here: pip install no_such_module
    """
    missing = [name for name in dict.fromkeys(modules) if find_spec(name) is None]
    if missing:
        targets = dict.fromkeys(_INSTALLED_BY.get(name, name) for name in missing)
        command = " ".join(f'"{target}"' if "[" in target else target for target in targets)
        raise ModuleNotFoundError(f"This run needs {', '.join(missing)}, not installed here: pip install {command}")
