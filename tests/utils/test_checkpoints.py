"""Checkpoints of a run that is killed while it saves or deletes them."""

import inspect
import shutil

import pytest
import torch
import yaml
from speechbrain.utils.checkpoints import Checkpointer, mark_as_loader, mark_as_saver, register_checkpoint_hooks

from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from tests.processes import process_group


@register_checkpoint_hooks
class Counter:
    """A recoverable that can be made to fail while it is saved."""

    def __init__(self, value):
        self.value, self.killed = value, False

    @mark_as_saver
    def save(self, path):
        """Save."""
        path.write_text(str(self.value))
        if self.killed:
            raise KeyboardInterrupt

    @mark_as_loader
    def load(self, path, end_of_epoch=False):
        """Load."""
        self.value = int(path.read_text())


def test_killed_while_saving(tmp_path):
    counter = Counter(1)
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": torch.nn.Linear(2, 2), "counter": counter})
    checkpointer.save_checkpoint()
    counter.value, counter.killed = 2, True
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save_checkpoint()
    assert len(list(tmp_path.iterdir())) == 2

    counter.killed = False
    checkpointer.recover_if_possible()
    assert counter.value == 1
    checkpointer.save_and_keep_only()
    assert len(list(tmp_path.iterdir())) == 1


def test_killed_while_deleting(tmp_path, monkeypatch):
    counter = Counter(1)
    checkpointer = AtomicCheckpointer(tmp_path, {"counter": counter})
    checkpointer.save_checkpoint(meta={"loss": 0.0})
    counter.value = 2

    def killed(path, *args, **kwargs):
        (path / "counter.ckpt").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save_and_keep_only(meta={"loss": 1.0})
    counter.value = 0
    checkpointer.recover_if_possible(min_key="loss")
    assert counter.value == 2
    checkpointer.save_checkpoint()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("end_of_epoch", [True, False])
def test_a_checkpoint_is_as_speechbrain_makes_it_and_lists_its_files(tmp_path, end_of_epoch):
    options = {"meta": {"loss": 0.25}, "end_of_epoch": end_of_epoch, "name": "mine"}
    own = AtomicCheckpointer(tmp_path / "own", {"counter": Counter(3), "layer": torch.nn.Linear(2, 2)})
    theirs = Checkpointer(tmp_path / "theirs", {"counter": Counter(3), "layer": torch.nn.Linear(2, 2)})
    saved, expected = own.save_checkpoint(**options), theirs.save_checkpoint(**options)
    assert saved.path.name == expected.path.name
    assert sorted(path.name for path in saved.path.iterdir()) == ["CKPT.yaml", "counter.ckpt", "layer.ckpt"]
    meta, plain = (yaml.safe_load((checkpoint.path / "CKPT.yaml").read_text()) for checkpoint in (saved, expected))
    assert meta.pop("files") == ["counter.ckpt", "layer.ckpt"]
    assert meta.keys() == plain.keys()
    assert {key: meta[key] for key in ("loss", "end-of-epoch")} == {"loss": 0.25, "end-of-epoch": end_of_epoch}
    assert own.find_checkpoint(min_key="loss").path == saved.path


def test_checkpoints_of_speechbrain_are_found_and_stay(tmp_path):
    Checkpointer(tmp_path, {"counter": Counter(3)}).save_checkpoint(meta={"loss": 0.5})
    (tmp_path / "train.csv").write_text("mine")
    counter = Counter(0)
    checkpointer = AtomicCheckpointer(tmp_path, {"counter": counter})
    checkpointer.save_checkpoint(meta={"loss": 1.0})
    checkpointer.recover_if_possible(min_key="loss")
    assert counter.value == 3
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("missing", ["counter", "layer"])
def test_a_folder_that_lacks_a_file_is_no_checkpoint(tmp_path, missing):
    counter = Counter(1)
    checkpointer = AtomicCheckpointer(tmp_path, {"counter": counter, "layer": torch.nn.Linear(2, 2)})
    checkpointer.save_checkpoint(meta={"loss": 2.0})
    counter.value = 2
    broken = checkpointer.save_checkpoint(meta={"loss": 1.0})
    (broken.path / f"{missing}.ckpt").unlink()
    checkpointer.recover_if_possible(min_key="loss")
    assert counter.value == 1
    checkpointer.save_checkpoint(meta={"loss": 3.0})
    assert sorted(checkpoint.meta["loss"] for checkpoint in checkpointer.list_checkpoints()) == [2, 3]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_main_process_alone_removes_and_names(tmp_path, monkeypatch):
    (tmp_path / "CKPT+half").mkdir()
    (tmp_path / "CKPT+other").mkdir()  # the main process has made it, and tells
    tell = lambda paths, src: paths.__setitem__(0, tmp_path / "CKPT+other")  # noqa: E731
    with process_group(tmp_path, rank=1), monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "broadcast_object_list", tell)
        AtomicCheckpointer(tmp_path, {"counter": Counter(1)}).save_checkpoint()
    assert {path.name for path in tmp_path.iterdir()} == {"CKPT+half", "CKPT+other"}
    assert not list(tmp_path.glob("*/CKPT.yaml"))


def test_the_processes_wait_until_the_checkpoint_is_whole(tmp_path, monkeypatch):
    checkpointer, found = AtomicCheckpointer(tmp_path / "save", {"counter": Counter(1)}), []
    with process_group(tmp_path, rank=0):
        barrier = torch.distributed.barrier
        monkeypatch.setattr(
            torch.distributed, "barrier", lambda *args: (found.append(len(checkpointer.list_checkpoints())), barrier())
        )
        checkpointer.save_checkpoint()
    assert found[-1] == 1


def test_checkpointers_share_no_sort_orders(tmp_path):
    """SpeechBrain's default list of them would grow with each save."""
    shared = inspect.signature(Checkpointer.save_and_keep_only).parameters["importance_keys"].default
    before = len(shared)
    checkpointer = AtomicCheckpointer(tmp_path, {"counter": Counter(1)})
    for error in (2.0, 1.0, 3.0):
        checkpointer.save_and_keep_only(meta={"error": error}, min_keys=["error"])
    assert len(shared) == before
    assert sorted(checkpoint.meta["error"] for checkpoint in checkpointer.list_checkpoints()) == [1, 3]
    checkpointer.save_and_keep_only(meta={"error": 4.0}, importance_keys=[lambda checkpoint: -checkpoint.meta["error"]])
    assert sorted(checkpoint.meta["error"] for checkpoint in checkpointer.list_checkpoints()) == [1, 4]
