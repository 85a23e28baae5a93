"""The batches of one process among several: in training each process takes turns, in evaluation each has a share."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from speechbrain.dataio.sampler import ReproducibleRandomSampler
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from torch.utils.data import BatchSampler, Dataset, Sampler, SequentialSampler

from speechbrain_mamba.utils.distributed import count_processes, process_rank

logger = logging.getLogger(__name__)


def batches_of_options(dataset: Dataset, options: dict[str, Any]) -> Any:
    """Take the options of a loader that decide on its batches out of a dictionary, and make the sampler they ask for.

    Arguments
    ---------
    dataset : Dataset
        The data of the loader.
    options : dict
        Options of a ``DataLoader``: ``batch_sampler``; or ``batch_size``, ``drop_last``, and ``sampler`` or
        ``shuffle``. They are removed.

    Returns
    -------
    Sampler
        Batches of all processes. Shuffled ones have the order that SpeechBrain's ``Brain`` gives them.

    Example
    -------
    >>> options = {"batch_size": 2, "num_workers": 1}
    >>> list(batches_of_options([5, 6, 7], options)), options
    ([[0, 1], [2]], {'num_workers': 1})
    """
    batch_sampler, sampler = options.pop("batch_sampler", None), options.pop("sampler", None)
    size, shuffle = options.pop("batch_size", 1), options.pop("shuffle", False)
    drop_last = options.pop("drop_last", False)
    if batch_sampler is not None:
        return batch_sampler
    if sampler is None and shuffle:
        sampler = ReproducibleRandomSampler(dataset, seed=int(os.environ.get("SB_GLOBAL_SEED", 563375142)))
    return BatchSampler(SequentialSampler(dataset) if sampler is None else sampler, size, drop_last)  # type: ignore[arg-type]


@register_checkpoint_hooks
class TrainingBatches(Sampler[list[int]]):
    """The training batches of one process, in an order that the number of processes does not change.

    All processes together take the batches of one process: with N of them, process ``r`` takes batches ``r``,
    ``r + N``, ``r + 2 N``, ... of each epoch. N processes that accumulate A batches per step make the steps of one
    process that accumulates N A. All have equally many; fewer than N last batches are left out.

    A checkpoint within an epoch holds the number of batches that all processes have trained on. A resumed epoch begins
    with the next one, whatever the number of processes is now.

    Arguments
    ---------
    batches : Sampler
        The batches of all processes; its ``set_epoch``, or that of its ``sampler``, is called if it has one.
    accumulation : int
        Batches that each process accumulates for a step, to compare with an earlier run.

    Example
    -------
    >>> batches = TrainingBatches([[0, 1], [2, 3], [4]])
    >>> batches.advance()  # the number of a batch that is trained on
    1
    >>> list(batches)
    [[2, 3], [4]]
    >>> batches.set_epoch(2)
    >>> list(batches)
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, batches: Any, accumulation: int = 1) -> None:
        self.batches, self.accumulation = batches, accumulation
        self.position = 0
        """Batches of this epoch that all processes have trained on."""
        self._resumed = False

    def set_epoch(self, epoch: int) -> None:
        """Choose the batches of an epoch."""
        own: Any = self.batches if hasattr(self.batches, "set_epoch") else getattr(self.batches, "sampler", None)
        if hasattr(own, "set_epoch"):
            own.set_epoch(epoch)
        if not self._resumed:
            self.position = 0

    def advance(self) -> int:
        """Count a batch of each process as trained. Returns the number of this process's batch, from 1."""
        number = self.position + process_rank() + 1
        self.position += count_processes()
        return number

    def __len__(self) -> int:
        """Batches of this process in a whole epoch."""
        return len(self.batches) // count_processes()

    def __iter__(self) -> Iterator[list[int]]:
        first, self._resumed = self.position, False
        every = self.batches if hasattr(self.batches, "__getitem__") else list(self.batches)
        n = count_processes()
        rounds = max(0, len(every) - first) // n
        return (every[first + n * number + process_rank()] for number in range(rounds))

    @mark_as_saver
    def save(self, path: Path) -> None:
        """Save the place in the epoch, in the main process."""
        if process_rank() == 0:
            facts = {"batches": self.position, "processes": count_processes(), "accumulation": self.accumulation}
            Path(path).write_text(yaml.safe_dump(facts), encoding="utf-8")

    @mark_as_loader
    def load(self, path: Path, end_of_epoch: bool) -> None:
        """Load the place of a checkpoint within an epoch; a warning if steps have another size now."""
        facts = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(facts, dict):  # written by version 0.1, or for SpeechBrain's own loader
            batches = facts * count_processes() if isinstance(facts, int) else 0
            facts = {"batches": batches, "processes": count_processes()}
        if not end_of_epoch:
            self.position, self._resumed = facts["batches"], True
        before = facts["processes"] * facts.get("accumulation", self.accumulation)
        now = count_processes() * self.accumulation
        if before != now:
            logger.warning(
                "Processes times grad_accumulation_factor was %d in this run, and is %d now: each batch is still used "
                "once, but the steps and learning rates are no longer those of the earlier run. Set "
                "grad_accumulation_factor so that the product stays the same.",
                before,
                now,
            )


class EvaluationShare(Sampler[list[int]]):
    """The batches that one process evaluates: process 0 has the first ones, and so on, so that results put together in
    the order of the processes are in the order of one process. Each batch is evaluated by exactly one.

    Arguments
    ---------
    batches : iterable of list of int
        The batches of all processes. They are read once, so that each validation has the same ones in the same order.

    Example
    -------
    >>> share = EvaluationShare([[0, 1], [2]])
    >>> list(share), share.first_example
    ([[0, 1], [2]], 0)
    """

    def __init__(self, batches: Any) -> None:
        every: Sequence[list[int]] = list(batches)
        bounds = [len(every) * (process_rank() + i) // count_processes() for i in (0, 1)]
        self.batches = every[slice(*bounds)]
        self.first_example = sum(map(len, itertools.islice(every, bounds[0])))
        """Examples that processes before this one have."""

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
