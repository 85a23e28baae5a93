"""Which torchaudio fits which torch, and what is said where they do not fit."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from speechbrain_mamba.utils import torch_pair
from speechbrain_mamba.utils.torch_pair import SUPPORTED, check_torchaudio, fitting_torchaudio, misfit


def _install(monkeypatch, works=False, **versions):
    """Pretend that these versions are installed, and that torchaudio can be imported or not."""

    def version(package):
        if versions.get(package) is None:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(torch_pair.metadata, "version", version)
    if not works:
        monkeypatch.setitem(sys.modules, "torchaudio", None)


@pytest.mark.parametrize(
    ("torch", "torchaudio"),
    [
        ("2.7.1", None),
        ("2.8.0", "2.8"),
        ("2.9.1", "2.9"),
        ("2.10.0+cu128", "2.10"),
        ("2.11.0", "2.11"),
        ("2.14.1", "2.11"),
        ("2.14.0a0+git123", "2.11"),
        ("2.15.0", None),
        ("3.0.0", None),
    ],
)
def test_torchaudio_that_fits(torch, torchaudio):
    assert fitting_torchaudio(torch) == (torchaudio and f"torchaudio=={torchaudio}.*")


@pytest.mark.parametrize(
    ("torch", "torchaudio"),
    [("2.8.0", "2.8.0"), ("2.11.0+cpu", "2.11.0+cpu"), ("2.14.1", "2.11.0"), ("2.13.0+cu130", "2.11.0+cu130")],
)
def test_pairs_that_fit(torch, torchaudio):
    assert misfit(torch, torchaudio) is None


@pytest.mark.parametrize(
    ("torch", "torchaudio", "says"),
    [
        ("2.15.0", "2.11.0", f"torch 2.15.0 is not supported, and no torchaudio .* pip install {SUPPORTED}$"),
        ("2.9.1", "2.11.0", 'torch 2.9.1 does not work with torchaudio 2.11.0: .* "torchaudio==2.9.\\*"$'),
        ("2.13.0+cpu", "2.11.0", 'built for CUDA: .* "torchaudio==2.11.\\*" with the --index-url'),
        ("2.9.1", None, 'torchaudio is not installed: run pip install "torchaudio==2.9.\\*"$'),
        (None, None, f"torch is not installed: run pip install {SUPPORTED}$"),
    ],
)
def test_misfits_are_told_what_fits(monkeypatch, torch, torchaudio, says):
    assert re.search(says, misfit(torch, torchaudio))
    _install(monkeypatch, torch=torch, torchaudio=torchaudio)
    with pytest.raises(ImportError, match=says[:-1] if says.endswith("$") else says):
        check_torchaudio()


def test_a_pair_that_loads_is_not_refused(monkeypatch):
    _install(monkeypatch, works=True, torch="2.15.0", torchaudio="2.11.0")
    check_torchaudio()


def test_supported_versions_are_those_of_the_project():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for requirement in SUPPORTED.split():
        assert f"    {requirement},\n" in project
