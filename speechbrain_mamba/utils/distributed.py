"""Runs of several processes."""

from __future__ import annotations

import gc
import os
import socket
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn


def in_group() -> bool:
    """Whether this process is one of a group, as under torchrun."""
    return distributed.is_available() and distributed.is_initialized()


def count_processes() -> int:
    """The number of processes of a run.

    Example
    -------
    >>> count_processes()
    1
    """
    return distributed.get_world_size() if in_group() else 1


def process_rank() -> int:
    """The number of this process, from 0 for the main one."""
    return distributed.get_rank() if in_group() else 0


def any_process(flag: bool, device: str | torch.device) -> bool:
    """Whether a flag is set in any process; all of them have to ask.

    Arguments
    ---------
    flag : bool
        The flag of this process.
    device : str or torch.device
        Where the processes exchange tensors.

    Returns
    -------
    bool
        The same in all processes.

    Example
    -------
    >>> any_process(True, "cpu")
    True
    """
    return in_any_process([flag], device)[0]


def in_any_process(flags: Sequence[bool], device: str | torch.device) -> list[bool]:
    """Whether each of some flags is set in any process; all of them have to ask.

    Arguments
    ---------
    flags : sequence of bool
        The flags of this process.
    device : str or torch.device
        Where the processes exchange tensors.

    Returns
    -------
    list of bool
        The same in all processes.

    Example
    -------
    >>> in_any_process([True, False], "cpu")
    [True, False]
    """
    if not in_group():
        return list(flags)
    tensor = torch.tensor([float(flag) for flag in flags], device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return [bool(flag) for flag in tensor.tolist()]


def gather(value: Any) -> list[Any]:
    """The values of all processes, in their order; all of them have to ask.

    Arguments
    ---------
    value : object
        The value of this process, which is pickled. Tensors should be on the CPU.

    Example
    -------
    >>> gather("a")
    ['a']
    """
    if not in_group():
        return [value]
    values: list[Any] = [None] * count_processes()
    distributed.all_gather_object(values, value)
    return values


def merge(values: Iterable[Any]) -> Any:
    """Put totals of several processes together: numbers and tensors are added, lists joined, dictionaries merged.

    Arguments
    ---------
    values : iterable
        Totals, all of one kind: numbers, tensors, lists, or dictionaries of these, not all of which need a key.
        Integer tensors of one dimension may differ in length, as ``bincount`` makes them.

    Example
    -------
    >>> merge([{"words": 3, "ids": ["a"]}, {"words": 4, "ids": ["b"], "more": 1}])
    {'words': 7, 'ids': ['a', 'b'], 'more': 1}
    """
    first, *others = values
    if isinstance(first, dict):
        parts = [first, *others]
        keys = dict.fromkeys(key for part in parts for key in part)
        return {key: merge(part[key] for part in parts if key in part) for key in keys}
    for other in others:
        if isinstance(first, torch.Tensor) and first.shape != other.shape:
            longest = max(len(first), len(other))
            first, other = (nn.functional.pad(counts, (0, longest - len(counts))) for counts in (first, other))
        first = first + other
    return first


def get_total(owner: Any, name: str) -> Any:
    """The attribute of an object that a name with dots leads to, also through dictionaries."""
    for part in name.split("."):
        owner = owner[part] if isinstance(owner, dict) else getattr(owner, part)
    return owner


def set_total(owner: Any, name: str, value: Any) -> None:
    """Set what :func:`get_total` gets. A dictionary is filled again, so that it keeps its type."""
    path, _, last = name.rpartition(".")
    owner = get_total(owner, path) if path else owner
    old = owner.get(last) if isinstance(owner, dict) else getattr(owner, last, None)
    if isinstance(old, dict):
        old.clear()
        old.update(value)
    elif isinstance(owner, dict):
        owner[last] = value
    else:
        setattr(owner, last, value)


def merge_totals(owner: Any, names: Iterable[str]) -> None:
    """Put what each process has collected in some attributes together, in all of them.

    Arguments
    ---------
    owner : object
        The object in this process.
    names : iterable of str
        Its attributes, of a kind that :func:`merge` takes; dots lead into objects and dictionaries. An object that has
        the names of such attributes as ``collected`` stands for them.

    Example
    -------
    >>> class Counter:
    ...     counts = {"words": 3}
    >>> counter = Counter()
    >>> merge_totals(counter, ["counts"])
    >>> counter.counts
    {'words': 3}
    """
    if not in_group():
        return
    chosen = [full for name in names for full in _full_names(owner, name)]
    parts = gather({name: _to_cpu(get_total(owner, name)) for name in chosen})
    for name, value in merge(parts).items():
        set_total(owner, name, value)


def _full_names(owner: Any, name: str) -> list[str]:
    collected = getattr(get_total(owner, name), "collected", None)
    if collected is None:
        return [name]
    return [full for inner in collected for full in _full_names(owner, f"{name}.{inner}")]


def _to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(part) for key, part in value.items()}
    return value


def share_buffers(modules: Iterable[nn.Module]) -> None:
    """Give all processes the buffers of the main one, and let no forward pass do so until the next training step.

    ``DistributedDataParallel`` exchanges buffers in the first forward pass after a step. In an evaluation the processes
    may have different numbers of batches, or none, and would wait for each other for ever.

    Arguments
    ---------
    modules : iterable of torch.nn.Module
        Modules, of which those that are wrapped for several processes are treated.
    """
    for module in modules:
        if isinstance(module, nn.parallel.DistributedDataParallel):
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)
            module.require_forward_param_sync = False


def check_shared_folder(folder: str | os.PathLike, patience: float = 30.0) -> None:
    """Make sure that all processes see one folder; all of them have to ask.

    Arguments
    ---------
    folder : str or Path
        A folder that the main process can write to.
    patience : float
        Seconds that a new file may take until it is seen, as on network file systems.

    Raises
    ------
    RuntimeError
        In all processes, with the hosts of those that do not see it.
    """
    if not in_group():
        return
    (name, *_) = gather(f".seen_by_all_{uuid.uuid4().hex[:12]}")
    path, deadline = Path(folder) / name, time.monotonic() + patience
    if process_rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    distributed.barrier()
    while not (seen := path.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    found = gather((seen, socket.gethostname()))
    if process_rank() == 0:
        path.unlink(missing_ok=True)
    blind = sorted({f"{rank} ({host})" for rank, (sees, host) in enumerate(found) if not sees})
    if blind:
        raise RuntimeError(
            f"Processes {', '.join(blind)} do not see the files that the main process writes to '{folder}': give an "
            "output_folder on a file system that all nodes share, under the same path. The data may be local copies."
        )


def leave_processes() -> None:
    """Leave the processes that ``ddp_init_group`` of SpeechBrain joined under torchrun; for the end of a script.

    PyTorch asks for it: a process that exits without it may be aborted by threads that still wait for the others. These
    end with the last owner of the group, such as ``DistributedDataParallel``, which objects in cycles may hold: a
    thread that lets go of a tensor while Python ends aborts the process.

    Example
    -------
    >>> leave_processes()  # one process has nothing to leave
    """
    if in_group():
        distributed.destroy_process_group()
        gc.collect()
