"""What the wheel and the sdist hold."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from speechbrain_mamba import __version__
from speechbrain_mamba.corpora.mini.samples import SAMPLES
from speechbrain_mamba.inference.separation import export_separator
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.hub_server import TOKEN, LocalHub

pytest.importorskip("setuptools", minversion="77")

ROOT = Path(__file__).parents[1]
IGNORED = shutil.ignore_patterns(".*", "__pycache__", "*.so", "*.egg-info", "build", "dist", "data", "results")
BUNDLED = ROOT / "speechbrain_mamba/inference/bundled_models"
KERNELS = "speechbrain_mamba/ops/backends/cpu/_kernels.so"


@pytest.fixture
def source(tmp_path):
    """A copy of the checkout, in which a build leaves its traces."""
    copy = tmp_path / "source"
    shutil.copytree(ROOT, copy, ignore=lambda folder, names: IGNORED(folder, names) - {".ci", ".github"})
    for name in (".yamllint", ".pre-commit-config.yaml"):
        shutil.copy(ROOT / name, copy)
    return copy


def build(source, kind, **environment):
    """The path of the built file."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    run = [sys.executable, "-c", code]
    subprocess.run(run, cwd=source, env=os.environ | environment, check=True, capture_output=True, timeout=600)
    (path,) = (source / "dist").iterdir()
    return path


def names_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def shared(folder, *patterns):
    paths = [path for pattern in patterns for path in (ROOT / folder).rglob(pattern)]
    assert paths
    return {f"speechbrain_mamba/share/{path.relative_to(ROOT)}" for path in paths}


@pytest.mark.slow
def test_wheel(source):
    (source / "build" / "lib" / "speechbrain_mamba").mkdir(parents=True)
    (source / "build" / "lib" / "speechbrain_mamba" / "stale.py").touch()
    wheel = build(source, "wheel")
    assert re.fullmatch(rf"speechbrain_mamba-{re.escape(__version__)}-py3-none-(?!any)\w+\.whl", wheel.name)
    names = names_of(wheel)
    shared_names = {name for name in names if name.startswith("speechbrain_mamba/share/")}
    assert shared_names == shared("hparams", "*.yaml") | shared("recipes", "*.py", "*.md")
    samples = {str(sample.path.relative_to(ROOT)) for sample in SAMPLES}
    microphone = {f"speechbrain_mamba/cli/page_microphone.{kind}" for kind in ("html", "css", "js")}
    assert {KERNELS, "speechbrain_mamba/py.typed", *samples, *microphone} <= names
    with zipfile.ZipFile(wheel) as archive:
        (scripts,) = (name for name in names if name.endswith("entry_points.txt"))
        assert b"speechbrain-mamba = speechbrain_mamba.cli.main:main" in archive.read(scripts)
    bundled = {str(path.relative_to(ROOT)) for path in BUNDLED.rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith(str(BUNDLED.relative_to(ROOT)))} == bundled
    assert not [name for name in names if "stale" in name or name.startswith("tests") or name.endswith((".c", ".h"))]


@pytest.mark.slow
def test_wheel_without_a_compiler(source):
    wheel = build(source, "wheel", CC="/bin/false")
    assert wheel.name == f"speechbrain_mamba-{__version__}-py3-none-any.whl"
    assert KERNELS not in names_of(wheel)


SHARE = """
import sys
from huggingface_hub import constants
import speechbrain_mamba
from speechbrain_mamba.cli.main import main
from speechbrain_mamba.dataio.audio import write_audio
import torch

assert speechbrain_mamba.__file__.startswith(sys.path[1]), speechbrain_mamba.__file__
main(["export", "trained", "mine", "--safetensors-only", "--license", "apache-2.0"])
main(["push", "mine", "me/mine", "--private"])
write_audio("talk.wav", 0.1 * torch.randn(8000), 8000)
main(["separate", "talk.wav", "--source", "me/mine", "--out", "voices"])
constants.HF_HUB_OFFLINE = True
main(["separate", "talk.wav", "--source", "me/mine", "--out", "again"])
"""


@pytest.mark.slow
def test_an_installed_wheel_shares_a_model(source, tmp_path):
    """Export, push and load, through a Hub that HF_ENDPOINT names."""
    path, sizes = ROOT / "hparams/separation/mini_mambatasnet.yaml", {"N_encoder_out": 16, "out_channels": 8}
    sizes["n_mamba"] = 1  # without its kernels the wheel is slow
    export_separator(tmp_path / "trained", read_hparams(path, sizes), load_hparams(path, sizes)["modules"])
    wheel = build(source, "wheel", CC="/bin/false")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    with LocalHub().running() as hub:
        environment = {**os.environ, **hub.variables(str(tmp_path / "home")), "HF_TOKEN": TOKEN}
        environment["PYTHONPATH"] = str(tmp_path / "site")
        run = [sys.executable, "-c", SHARE]
        subprocess.run(run, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=300)
        repository = hub.repositories["me/mine"]
        assert repository.private and "masknet.safetensors" in repository.files
        assert sum("/large/" in path for path in hub.transfers()) == 3  # of three files of weights, once
    for folder in ("voices", "again"):
        assert len(list((tmp_path / folder).glob("talk_speaker*.wav"))) == 2


@pytest.mark.slow
def test_sdist_holds_what_the_tests_need(source):
    sdist = build(source, "sdist")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    left_out = {f for f in files - names if not f.startswith(("dist/", "speechbrain_mamba.egg-info/"))}
    assert not left_out
