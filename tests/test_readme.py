"""The READMEs and other documents: their examples work, and what they name exists."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from tests.cli.lines import check

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HISTORY = {"CHANGELOG.md", "docs/mutants.md"}
"""They name files as they were."""
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "recipes/*/README.md", "tests/*/README.md")
    for path in ROOT.glob(pattern)
)
FOLDERS = "benchmarks|docs|hparams|recipes|speechbrain_mamba|tests"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def found(pattern):
    """What all documents have, each with its document."""
    return sorted(
        {
            (document, name)
            for document in DOCUMENTS
            if document not in HISTORY
            for name in re.findall(pattern, (ROOT / document).read_text(encoding="utf-8"))
        }
    )


def test_yaml_example():
    (text,) = blocks("yaml")
    masknet = load_hyperpyyaml(text)["MaskNet"]
    assert masknet(torch.rand(1, 64, 200)).shape == (2, 1, 64, 200)


def test_python_example():
    (code,) = (block for block in blocks("python") if "layer.step" in block)
    names = {}
    exec(code, names)
    assert names["y_next"].shape == (2, 64)


def test_every_recipe_has_a_readme():
    assert {path.parent.name for path in ROOT.glob("recipes/*/train.py")} == {
        Path(document).parent.name for document in DOCUMENTS if document.startswith("recipes/")
    }


@pytest.mark.parametrize(("document", "path"), found(rf"(?<![\w./])((?:{FOLDERS})/[\w/.-]+\.(?:yaml|py|md|csv|png))"))
def test_files_that_documents_name(document, path):
    path = path.replace("settings_TASK", "settings_asr")
    if not re.search("TASK|NAME|LibriSpeech/|WSJ0Mix/", path):  # patterns, and recipes of SpeechBrain
        assert (ROOT / path).exists(), f"{document} names {path}"


@pytest.mark.parametrize(("document", "target"), found(r"\]\(([^)]+)\)"))
def test_links(document, target):
    if not target.startswith("https://"):
        path, _, heading = target.partition("#")
        path = (ROOT / document).parent / path if path else ROOT / document
        assert path.exists(), f"{document} links to {target}"
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        assert not heading or heading in [line.lower().replace(" ", "-") for line in headings]


@pytest.mark.parametrize(("document", "name"), found(r"speechbrain_mamba(?:\.\w+)+"))
def test_names_that_documents_use(document, name):
    parts = name.split(".")
    for last in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:last]))
            break
        except ModuleNotFoundError:
            continue
    for attribute in parts[last:]:
        value = getattr(value, attribute)


@pytest.mark.parametrize(("document", "arguments"), found(r"python -m speechbrain_mamba train (\w+ \w+)"))
def test_models_that_documents_train(document, arguments):
    if arguments != "TASK NAME":
        task, name = arguments.split()
        assert (ROOT / "hparams" / task / f"{name}.yaml").exists(), f"{document} trains {arguments}"


def list_command_lines():
    """Lines of documents that call the program, with the document."""
    call = re.compile(r"^(?:speechbrain-mamba|python -m speechbrain_mamba) .*$", re.MULTILINE)
    for document in DOCUMENTS:
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL):
            yield from ((document, line) for line in call.findall(block.replace("\\\n", " ")))


@pytest.mark.parametrize(("document", "line"), list(list_command_lines()))
def test_commands_that_documents_show(document, line):
    check(line)


def test_numbers_that_stand_twice_agree():
    """The scores of make demo."""
    texts = {document: (ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS}
    rows = [line for text in texts.values() for line in text.splitlines() if line.startswith("| `make demo`")]
    si_snr_i, sdr_i = (re.search(rf"^{name} +([\d.]+) dB$", README, re.MULTILINE)[1] for name in ("SI-SNRi", "SDRi"))
    assert len(rows) == 2
    assert all(f"| {si_snr_i} dB | {sdr_i} dB |" in row for row in rows)
    assert f"| {si_snr_i} dB SI-SNRi in " in README
