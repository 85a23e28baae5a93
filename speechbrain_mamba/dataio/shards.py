"""Training data in WebDataset shards: streams of batches that can be resumed at any batch.

The shards of an epoch are shuffled by (seed, epoch) and dealt out to the workers of all processes. Each worker reads
its shards from front to back, again and again, and makes batches of similar length from a buffer. What it makes depends
on the seed, the epoch, the worker and nothing else.
"""

from __future__ import annotations

import io
import json
import logging
import random
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import LoopedLoader
from speechbrain.dataio.iterators import dynamic_bucketed_batch, indices_around_random_pivot
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from speechbrain_mamba.dataio.audio import UnreadableAudioError, read_audio
from speechbrain_mamba.dataio.process_batches import TrainingBatches
from speechbrain_mamba.utils.distributed import count_processes, gather, process_rank

logger = logging.getLogger(__name__)


class UnusableExampleError(ValueError):
    """An example that is left out and counted; its argument is the reason."""


class ShardDataset(IterableDataset):
    """Batches of the examples in shards, without end.

    Arguments
    ---------
    shards : str or sequence of str
        Paths, URLs (``https://...``) or commands (``pipe:aws s3 cp s3://... -``) of tar files, as the package
        ``webdataset`` opens them; ``{000..127}`` stands for numbers. Their members are ``NAME.json``, with ``id`` and
        a length, and ``NAME.wav``, ``NAME.flac`` or ``NAME.npy``.
    decode : callable
        From the mapping in the JSON file, and a function of no arguments that reads the other file as a tensor, to an
        example. It raises :class:`UnusableExampleError` for one to leave out.
    max_batch_length : float
        The length of a batch, with its padding, in the unit of ``length_key``.
    max_batch_ex : int, optional
        Examples in a batch.
    buffer_size : int
        Examples, not decoded, that a worker holds to choose similar lengths from.
    sample_rate : int, optional
        The rate in Hz that all sounds must have.
    length_key : str
        The length of an example in the JSON file: ``duration`` in seconds, or another number.
    seed : int
        Seed of the run.
    collate : callable
        From a list of examples to a batch.
    seeding : callable
        From numbers to a context in which the random numbers of an example depend on them only.

    Raises
    ------
    ModuleNotFoundError
        When webdataset is not installed.
    FileNotFoundError
        When a shard is a path at which there is nothing.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        decode: Callable[[dict[str, Any], Callable[[], torch.Tensor]], dict[str, Any]],
        max_batch_length: float,
        sample_rate: int | None = None,
        max_batch_ex: int | None = None,
        buffer_size: int = 1000,
        seed: int = 0,
        collate: Callable[[list[dict[str, Any]]], Any] = PaddedBatch,
        seeding: Callable[..., Any] | None = None,
        length_key: str = "duration",
    ) -> None:
        self.shards = list_shards(shards)
        self.decode, self.collate, self.sample_rate = decode, collate, sample_rate
        self.max_batch_length, self.max_batch_ex = max_batch_length, max_batch_ex
        self.buffer_size, self.seed, self.seeding, self.length_key = buffer_size, seed, seeding, length_key
        self.epoch, self.consumed = 0, [0]
        """Batches of each worker of this process that are trained on already in this epoch."""
        self.next_worker = 0

    def __iter__(self) -> Iterator[tuple[tuple[int, int], Any, dict[str, int]]]:
        """Batches of a worker, each with the worker's number and how many it has used, and what was left out so far."""
        info = get_worker_info()
        workers = 1 if info is None else info.num_workers
        worker = self.next_worker if info is None else (info.id + self.next_worker) % workers
        used, left_out = 0, Counter[str]()
        for names in self._batches(worker, workers):
            used += 1
            if used <= self.consumed[worker]:
                continue
            examples = [example for raw in names if (example := self._decode(raw, left_out)) is not None]
            if examples:
                yield (worker, used), self.collate(examples), dict(left_out)

    def _batches(self, worker: int, workers: int) -> Iterator[list[dict[str, Any]]]:
        """The batches of a worker in this epoch, not decoded."""
        part, parts = process_rank() * workers + worker, count_processes() * workers
        if len(self.shards) < parts:
            raise ValueError(
                f"There are {len(self.shards)} shards for {count_processes()} processes with {workers} workers each, "
                "but each worker needs one: write smaller shards, or set num_workers to less."
            )
        draw = random.Random(f"{self.seed} {self.epoch} {part}")
        choose = partial(
            indices_around_random_pivot,
            target_batch_numel=self.max_batch_length,
            max_batch_numel=self.max_batch_length,
            max_batch_size=self.max_batch_ex,
            randint_generator=draw.randint,
        )
        samples = self._samples(part, parts)
        return dynamic_bucketed_batch(
            samples, "length", None, buffersize=self.buffer_size, collate_fn=list, sampler_fn=choose
        )

    def _samples(self, part: int, parts: int) -> Iterator[dict[str, Any]]:
        """The examples of a worker's shards, again and again: each round shuffles and deals them out again."""
        turn = 0
        while True:
            shards = list(self.shards)
            random.Random(f"{self.seed} {self.epoch} {turn}").shuffle(shards)
            found = 0
            for shard in shards[part::parts]:
                for sample in read_shard(shard):
                    found += 1
                    length = sample["facts"].get(self.length_key)
                    if not isinstance(length, (int, float)):
                        name = sample["facts"]["id"]
                        raise ValueError(f"The example '{name}' of the shard '{shard}' has no '{self.length_key}'.")
                    yield {**sample, "length": length}
            if not found:
                raise ValueError(f"The shards {', '.join(shards[part::parts][:3])} have no examples.")
            turn += 1

    def _decode(self, raw: dict[str, Any], left_out: Counter[str]) -> dict[str, Any] | None:
        facts = raw["facts"]
        place = (self.seed, self.epoch, raw["shard"], facts["id"])
        try:
            if self.seeding is None:
                return self.decode(facts, partial(self._read, raw))
            with self.seeding(int.from_bytes(random.Random(repr(place)).randbytes(7), "little")):
                return self.decode(facts, partial(self._read, raw))
        except (UnreadableAudioError, UnusableExampleError) as error:
            reason = getattr(error, "reason", None) or str(error)
            left_out[reason] += 1
            logger.warning("Left out '%s' of the shard '%s': %s", facts["id"], raw["shard"], reason)
            return None

    def _read(self, raw: dict[str, Any]) -> torch.Tensor:
        if raw["suffix"] == ".npy":
            return torch.from_numpy(np.load(io.BytesIO(raw["data"]), allow_pickle=False).astype(np.int64))
        with tempfile.NamedTemporaryFile(suffix=raw["suffix"]) as file:  # audio files are checked as files
            file.write(raw["data"])
            file.flush()
            try:
                return read_audio(file.name, self.sample_rate)
            except UnreadableAudioError:
                raise
            except ValueError as error:
                name = f"{raw['facts']['id']}{raw['suffix']} in {raw['shard']}"
                raise ValueError(str(error).replace(file.name, name)) from error


def list_shards(shards: str | Sequence[str]) -> list[str]:
    """All shards that paths, URLs or commands with numbers in braces stand for; local ones have to be there.

    Example
    -------
    >>> list_shards("https://example.org/train-{00..02}.tar")
    ['https://example.org/train-00.tar', 'https://example.org/train-01.tar', 'https://example.org/train-02.tar']
    """
    try:
        from braceexpand import braceexpand  # comes with webdataset
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'Shards need the package webdataset, not installed here: pip install "speechbrain_mamba[shards]"'
        ) from error
    given = [shards] if isinstance(shards, str) else list(shards)
    found = [str(name) for entry in given for name in braceexpand(str(entry))]
    for name in found:
        if not _is_remote(name) and not Path(name).is_file():
            raise FileNotFoundError(
                f"The shard '{name}' does not exist: give paths, URLs or pipe: commands of tar files."
            )
    if not found:
        raise ValueError("No shard is given: give paths, URLs or pipe: commands of tar files.")
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise ValueError(f"The shard '{twice[0]}' is given twice.")
    return found


def _is_remote(name: str) -> bool:
    return name.startswith("pipe:") or "://" in name


def read_shard(shard: str) -> Iterator[dict[str, Any]]:
    """The examples of a shard as they are: ``facts`` from the JSON file, the ``data`` and ``suffix`` of the other file,
    and the ``shard``.

    Raises
    ------
    ValueError
        When the shard cannot be read to its end, or an example lacks its facts; the message names the shard.
    """
    import webdataset

    facts: dict[str, Any] | None = None
    sound: tuple[str, bytes] | None = None
    stem = None
    try:
        with webdataset.gopen(shard) as source:
            stream: Any = _Stream(source)
            tar = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115  # the stream is closed, which is all there is
            for member in tar:
                if not member.isfile():
                    continue
                name, _, suffix = member.name.rpartition(".")
                data = tar.extractfile(member).read()  # type: ignore[union-attr]  # it is a file
                tar.members = []  # type: ignore[attr-defined]  # they would all be kept
                if name != stem:
                    if stem is not None:
                        yield _example(shard, stem, facts, sound)
                    stem, facts, sound = name, None, None
                if suffix == "json":
                    facts = json.loads(data)
                else:
                    sound = f".{suffix}", data
            if stem is not None:
                yield _example(shard, stem, facts, sound)
            stream.finish()
    except (tarfile.TarError, OSError, EOFError, json.JSONDecodeError) as error:
        raise ValueError(
            f"The shard '{shard}' cannot be read to its end ({error}): write or download it again."
        ) from error


class _Stream:
    """A stream that knows its last bytes: those of a whole tar file are zero, and tarfile takes a cut one for whole."""

    def __init__(self, source: Any) -> None:
        self.source, self.last = source, b""

    def read(self, size: int) -> bytes:
        data = self.source.read(size)
        self.last = (self.last + data[-1024:])[-1024:]
        return data

    def finish(self) -> None:
        """Read what is left, since a command whose output is not read to the end fails, and check the end."""
        while self.read(2**20):
            pass
        if self.last != bytes(1024):
            raise tarfile.ReadError("its end is missing")


def _example(shard: str, stem: str, facts: Any, sound: tuple[str, bytes] | None) -> dict[str, Any]:
    if not isinstance(facts, Mapping) or "id" not in facts or sound is None:
        raise ValueError(
            f"The example '{stem}' of the shard '{shard}' must have a .json file with its id, and a .wav, .flac or .npy"
            " file: write the shards with prepare_shards.py."
        )
    return {"facts": dict(facts), "data": sound[1], "suffix": sound[0], "shard": shard}


@register_checkpoint_hooks
class ShardBatches(TrainingBatches):
    """The place in an epoch of shards. It holds for the same numbers of processes and workers only.

    Arguments
    ---------
    dataset : ShardDataset
        The data, which is told where to go on.
    batches_per_epoch : int
        Batches of each process in an epoch.
    accumulation, workers : int
        Batches that a process accumulates for a step, and workers of its loader.
    """

    def __init__(self, dataset: ShardDataset, batches_per_epoch: int, accumulation: int = 1, workers: int = 0) -> None:
        super().__init__(range(batches_per_epoch * count_processes()), accumulation)
        self.dataset, self.workers = dataset, max(1, workers)
        dataset.consumed = [0] * self.workers

    def set_epoch(self, epoch: int) -> None:
        """Choose the batches of an epoch."""
        if not self._resumed:
            self.dataset.consumed = [0] * self.workers
        super().set_epoch(epoch)
        self.dataset.epoch = epoch

    def begin(self) -> int:
        """Tell the dataset which worker is next. Returns the batches that this process has trained on."""
        self._resumed = False
        done = self.position // count_processes()
        self.dataset.next_worker = done % self.workers
        return done

    @mark_as_saver
    def save(self, path: Path) -> None:
        """Save the place in the epoch: the batches that each worker of each process has used.

        All processes have to call it, except after the last batch, when what the others have used is of no use.
        """
        is_over = self.position >= len(self.batches)
        parts = [self.dataset.consumed] * count_processes() if is_over else gather(self.dataset.consumed)
        if process_rank() == 0:
            facts = {"batches": self.position, "processes": count_processes(), "accumulation": self.accumulation}
            Path(path).write_text(yaml.safe_dump({**facts, "consumed": parts}), encoding="utf-8")

    @mark_as_loader
    def load(self, path: Path, end_of_epoch: bool) -> None:
        """Load the place of a checkpoint within an epoch; ValueError if it is of other processes or workers."""
        facts = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        consumed = facts.get("consumed") if isinstance(facts, dict) else None
        if not end_of_epoch:
            if consumed is None or (len(consumed), len(consumed[0])) != (count_processes(), self.workers):
                before = f"{len(consumed)} processes with {len(consumed[0])} workers each" if consumed else "no shards"
                raise ValueError(
                    f"The run was stopped within an epoch that {before} read, but now there are {count_processes()} "
                    f"with {self.workers}: shards are dealt out to workers, so resume with the same numbers. They can "
                    "be changed after an epoch."
                )
            self.dataset.consumed = list(consumed[process_rank()])
            self.position, self._resumed = facts["batches"], True


class ShardLoader(LoopedLoader):
    """Loads ``batches_per_epoch`` batches in each epoch, from where a checkpoint was saved in the first one.

    A resumed epoch reads its shards again from the beginning, without decoding what was used: it costs the reading.

    Arguments
    ---------
    dataset : ShardDataset
        The data.
    batches : ShardBatches
        The place in the epoch.
    **options
        Those of ``DataLoader``, without batch size and collation.
    """

    def __init__(self, dataset: ShardDataset, batches: ShardBatches, **options: Any) -> None:
        super().__init__(DataLoader(dataset, batch_size=None, **options), len(batches))
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        dataset = self.batches.dataset
        done = self.batches.begin()
        self.left_out: dict[int, dict[str, int]] = {}
        stream = iter(self.loader)  # workers get the dataset as it is now
        for _ in range(done, self.epoch_length):
            (worker, used), batch, left_out = next(stream)
            dataset.consumed[worker] = used
            self.left_out[worker] = left_out
            yield batch
        totals = sum((Counter(part) for part in self.left_out.values()), Counter())
        if totals:
            listed = ", ".join(f"{count} with {reason}" for reason, count in totals.items())
            logger.warning("Epoch %d: examples of the shards that were left out: %s.", dataset.epoch, listed)
