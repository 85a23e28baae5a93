"""The examples of the README work."""

import re
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_yaml_example():
    (text,) = blocks("yaml")
    masknet = load_hyperpyyaml(text)["MaskNet"]
    assert masknet(torch.rand(1, 64, 200)).shape == (2, 1, 64, 200)


def test_python_example():
    (code,) = (block for block in blocks("python") if "layer.step" in block)
    names = {}
    exec(code, names)
    assert names["y_next"].shape == (2, 64)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:hparams|recipes)/[\w/]+\.(?:yaml|py)", README))))
def test_files_that_it_names(path):
    assert (Path(__file__).parents[1] / path).exists()
