"""Folders as the authors' recipes, which are SpeechBrain's, leave them and as they were published."""

import shutil
from pathlib import Path

import torch
from speechbrain.nnet.schedulers import ReduceLROnPlateau
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from torch import nn


def write_published(save, modules, scores, epochs=200, normalizer=None):
    """Write a checkpoint for each dict of ``scores`` with SpeechBrain's checkpointer, optimizer and schedule too.

    ``modules`` are those of one checkpoint, or a list with those of each. Returns the folders.
    """
    folders = []
    for number, meta in enumerate(scores):
        parts = modules[number] if isinstance(modules, list) else modules
        counter = EpochCounter(epochs)
        counter.current = epochs - len(scores) + 1 + number
        optimizer = torch.optim.Adam(nn.ModuleDict(parts).parameters(), lr=0.1)
        for parameter in nn.ModuleDict(parts).parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        scheduler = ReduceLROnPlateau(0.5, 2, dont_halve_until_epoch=85)
        scheduler([optimizer], counter.current, 3.0)
        recoverables = {**parts, "optimizer": optimizer, "lr_scheduler": scheduler, "counter": counter}
        if normalizer is not None:
            recoverables["normalizer"] = normalizer
        keeper = Checkpointer(save, recoverables)
        folders.append(Path(keeper.save_checkpoint(meta=meta, name=f"2024-06-0{number + 1}+00-00-00+00").path))
        (folders[-1] / "brain.ckpt").write_text("avg_train_loss: -20.5\noptimizer_step: 5\nstep: 5\n")
    return folders


def as_modules(states):
    """Modules whose state dicts are those given."""
    return {name: _Given(state) for name, state in states.items()}


class _Given(nn.Module):
    """A module with any parameters; it is never called."""

    def __init__(self, state):
        super().__init__()
        self.state = {name: value.clone() for name, value in state.items()}
        self.one = nn.Parameter(torch.zeros(1))

    def state_dict(self, *args, **kwargs):
        return self.state


def leave_weights_alone(folder, target):
    """Copy only the weights of a checkpoint."""
    target.mkdir(parents=True)
    for path in folder.glob("*.ckpt"):
        if path.stem in ("encoder", "masknet", "decoder", "model", "normalizer"):
            shutil.copy(path, target)
    return target
