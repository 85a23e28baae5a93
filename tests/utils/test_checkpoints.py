"""Checkpoints of a run that is killed while it saves or deletes them."""

import shutil

import pytest
import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks

from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer


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
