"""Random numbers that depend on the place in a run, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset


def seed_step(*place: int) -> None:
    """Seed what is random in a step, of PyTorch, Python and NumPy, by the step's place in the run.

    Arguments
    ---------
    *place : int
        Numbers that no other step has together, as the run's seed, epoch, batch and process.

    Example
    -------
    >>> seed_step(1234, 1, 7, 0)
    >>> first = torch.rand(())
    >>> seed_step(1234, 1, 7, 0)
    >>> bool(first == torch.rand(()))
    True
    """
    seed = hash(place) % 2**63
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def seeded(*place: int) -> Iterator[None]:
    """A context in which random numbers are those of :func:`seed_step`; afterwards they go on as if it had not been.

    Arguments
    ---------
    *place : int
        As for :func:`seed_step`. Generators of GPUs are left alone: examples are drawn on the CPU.
    """
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed = hash(place) % 2**63
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


class SeededDataset(Dataset):
    """A dataset whose examples are random in a way that depends on nothing but the epoch.

    Workers, their number, and batches skipped by a resumed run make no difference.

    Arguments
    ---------
    dataset : Dataset
        Examples that may draw from the random numbers of PyTorch, Python and NumPy; its ``set_epoch`` is called if it
        has one.
    seed : int
        Seed of the run.

    Example
    -------
    >>> class Noise(Dataset):
    ...     def __getitem__(self, index):
    ...         return float(torch.rand(()))
    >>> noise = SeededDataset(Noise(), seed=1)
    >>> noise.set_epoch(1)
    >>> first = noise[0]
    >>> noise.set_epoch(2)
    >>> second = noise[0]
    >>> noise.set_epoch(1)
    >>> first == noise[0], first == second
    (True, False)
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the examples of an epoch from now on."""
        self.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        with seeded(self.seed, self.epoch, index):
            return self.dataset[index]
