"""Each recipe resumes exactly from a few kills, and a run that does not is found."""

import json
from pathlib import Path

import pytest
import torch

from tests.kills.comparison import compare_runs, list_temporary

CAMPAIGN = Path(__file__).with_name("__main__.py")


@pytest.mark.slow
@pytest.mark.oldest
def test_each_recipe_resumes_exactly(forked, tmp_path):
    """In a process of its own, which forks: here there may be threads."""
    pytest.importorskip("encodec", reason="the package encodec is not installed")
    from tests.kills.tiny_runs import TINY_RUNS  # makes codecs

    command = [CAMPAIGN, "--kills", "2", "--by", "file", "--out", tmp_path]
    done = forked.start(command, tmp_path / "said.txt")
    assert done.wait() == 0, done.said()
    lines = [line for line in done.said().splitlines() if " kills (" in line]
    assert [line.partition(":")[0] for line in lines] == list(TINY_RUNS)
    assert all("2 kills (2 file)" in line and "all equal" in line for line in lines)
    assert len((tmp_path / "kills.csv").read_text().splitlines()) >= 13


@pytest.fixture
def runs(tmp_path):
    """Two folders of a run, at other times and places."""
    for name, second in (("a", 1), ("b", 2)):
        folder = tmp_path / name / "save" / f"CKPT+{second}"
        folder.mkdir(parents=True)
        (folder / "CKPT.yaml").write_text(f"epoch: 3\nunixtime: {second}\nloss: 0.5\nfiles: {{m: [1, {second}]}}\n")
        torch.save({"weight": torch.tensor([1.0, float("nan")]), "seconds": second}, folder / "model.ckpt")
        (folder / "counter.ckpt").write_text("3")
        (tmp_path / name / "training.csv").write_text(f"epoch,loss,seconds\n1,0.5,{second}\n")
        (tmp_path / name / "finished.json").write_text(json.dumps({"epochs": 3, "folder": str(tmp_path / name)}))
        (tmp_path / name / "log.txt").write_text(name)
    return tmp_path


def test_runs_of_another_time_and_place_are_equal(runs):
    assert compare_runs(runs / "a", runs / "b") == []
    within = runs / "b" / "save" / "CKPT+3"
    within.mkdir()
    (within / "CKPT.yaml").write_text("unixtime: 3\n")
    (runs / "b" / ".training.abc.csv").write_text("")
    before = runs / "b" / "save" / "CKPT+1"
    before.mkdir()
    (before / "CKPT.yaml").write_text("epoch: 2\n")
    assert compare_runs(runs / "a", runs / "b") == []
    assert list_temporary(runs / "b") == [".training.abc.csv"]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("save/CKPT+2/model.ckpt", {"weight": torch.tensor([1.25, float("nan")])}, "epoch 3/model.ckpt differs"),
        ("save/CKPT+2/model.ckpt", {"weight": torch.ones(3)}, "model.ckpt differs at weight in its shape"),
        ("save/CKPT+2/model.ckpt", {}, "model.ckpt differs in its keys ['weight']"),
        ("save/CKPT+2/counter.ckpt", "4", "counter.ckpt differs: '3' and '4'"),
        ("save/CKPT+2/CKPT.yaml", "epoch: 3\nloss: 0.25\n", "CKPT.yaml differs at loss: '0.5' and '0.25'"),
        ("save/CKPT+2/CKPT.yaml", "epoch: 2\nloss: 0.5\n", "save/epoch 3/model.ckpt is missing"),
        ("training.csv", "epoch,loss,seconds\n1,0.75,1\n", "training.csv differs at 0 at loss: '0.5' and '0.75'"),
        ("training.csv", "epoch,loss,seconds\n", "training.csv differs in length: 1 and 0"),
        ("finished.json", "{", "finished.json differs"),
        ("more.wav", "RIFF", "more.wav is left over"),
    ],
)
def test_what_differs_is_named(runs, file, content, words):
    path = runs / "b" / file
    path.write_text(content) if isinstance(content, str) else torch.save(content, path)
    assert any(words in difference for difference in compare_runs(runs / "a", runs / "b"))
