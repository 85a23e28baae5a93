"""The Python and YAML examples of the guides run, with the models of the package and a recording of digits."""

import re
import shutil
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml

from speechbrain_mamba.corpora.mini.samples import SAMPLES

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("speechbrain.md", "precision.md", "long_and_streaming.md", "separation.md", "recognition.md", "synthesis.md")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """A folder with the files that the examples read: their content decides what they are."""
    monkeypatch.chdir(tmp_path)
    for name, sample in zip(("talk.wav", "voice.wav"), SAMPLES):
        shutil.copy(sample.path, name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_python_examples_run(recordings, page):
    names = {}
    examples = [example for example in blocks(page, "python") if '"results/' not in example]  # of a training
    assert examples
    for example in examples:
        exec(example, names)


def test_the_yaml_example_is_the_python_example():
    (text,) = blocks("speechbrain.md", "yaml")
    stack = load_hyperpyyaml(text)["mamba"]
    names = {}
    exec(blocks("speechbrain.md", "python")[0], names)
    shapes = [{name: p.shape for name, p in each.named_parameters()} for each in (stack, names["stack"])]
    assert shapes[0] == shapes[1]


def test_words_of_the_examples_are_heard(recordings):
    names = {}
    exec(blocks("recognition.md", "python")[0], names)
    assert "nine one five two" in names["transcript"].text.lower()
