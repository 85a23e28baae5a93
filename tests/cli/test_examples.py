"""Examples of help texts and of docs/use.md run, with tiny models in place of real ones."""

import io
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.lines import split
from tests.cli.test_program import EXAMPLES

pytestmark = pytest.mark.slow  # together; that they can be parsed is tested beside the help and the documents

USE = (Path(__file__).parents[2] / "docs" / "use.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```\n\n(.*?)(?:\n\n|\Z)", USE, re.DOTALL)
"""Command lines, and the paragraphs that say what they do."""
KINDS = {"separate": "separator", "transcribe": "recognizer", "synthesize": "synthesizer"}
LINES = [line for name, line in EXAMPLES if name in (*KINDS, "stream", "try")]
GIVEN = ("talk.wav", "voice.wav", "meeting.wav", "lines.txt")


@pytest.fixture
def run_line(models, place, run, monkeypatch, figures):
    """Run a command line with the tiny models, and without more processes; answers its output."""
    for name in ("meeting.wav", "meeting.m4a", "talk.m4a"):
        shutil.copy("talk.wav", name)  # what a file is, its content says
    shutil.copy("stereo.wav", "call.wav")
    Path("lines.txt").write_text("one\ntwo\n")
    monkeypatch.setattr("speechbrain_mamba.cli.live.listen", lambda rate, samples: iter([torch.rand(1, samples)] * 3))

    def run_line(line):
        (name, *rest), stdin = split(line)
        if name == "try":
            rest = [part for kind in KINDS.values() for part in (f"--{kind}", models / kind)]
        else:
            tiny = "streaming_separator" if "streaming_separator" in rest else KINDS.get(name, "streaming_recognizer")
            if "--source" in rest:
                place = rest.index("--source")
                rest[place : place + 2] = []
            rest = ["1" if before == "--jobs" else word for before, word in zip([name, *rest], rest)]
            rest += ["--source", models / tiny]
        with open(stdin or "talk.wav", "rb") as file:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
            code, out, err = run(name, *rest)
        assert code == 0, err
        return out

    return run_line


@pytest.mark.parametrize("line", LINES)
def test_an_example_of_the_help_runs(run_line, place, line):
    before = set(place.rglob("*"))
    out = run_line(line)
    assert out.strip() or set(place.rglob("*")) > before


@pytest.mark.parametrize(("lines", "said"), BLOCKS, ids=[lines.split("\n")[0] for lines, _ in BLOCKS])
def test_documented_commands_do_what_is_said(run_line, place, lines, said):
    printed = "".join(run_line(line) for line in lines.splitlines())
    named = [name for name in re.findall(r"`([\w./-]*\w\.(?:wav|srt))`", said) if name not in GIVEN]
    assert all((place / name).is_file() for name in named), named
    assert named or printed.strip() or "folder" in said
