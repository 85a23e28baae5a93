"""Mixtures written to disk, with their manifest."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.manifests import read_manifest, write_manifest
from speechbrain_mamba.dataio.mixing import MixtureSampler
from speechbrain_mamba.dataio.mixture_dataset import MIXTURE_COLUMNS, source_keys
from speechbrain_mamba.utils.parallel import parallel_map
from speechbrain_mamba.utils.stamps import Stamp

logger = logging.getLogger(__name__)


def _write_mixture(sampler: MixtureSampler, folder: Path, index: int) -> dict[str, Any]:
    mixture = sampler.draw(index)
    name = "_".join([f"{index:06d}", *mixture.speakers])
    # The sources are rounded before they are added, so that the 16-bit files add up exactly as well.
    sources = torch.round(mixture.sources * 32768).to(torch.int16)
    signals = {"mix": sources.sum(0, dtype=torch.int16), **dict(zip(source_keys(sampler.num_spks), sources))}
    row: dict[str, Any] = {"ID": name, "duration": len(mixture.mix) / sampler.sample_rate}
    for key, signal in signals.items():
        path = folder / key / f"{name}.wav"
        if not path.is_file():
            write_audio(path, signal, sampler.sample_rate)
        row[f"{key}_wav"] = str(path)
    return row


def manifest_files(csv_path: str | os.PathLike) -> Iterator[Path]:
    """A manifest that :func:`write_mixtures` wrote, and then, if it exists, all files that it names."""
    yield Path(csv_path)
    if Path(csv_path).is_file():
        for item in read_manifest(csv_path, columns=MIXTURE_COLUMNS).values():
            yield from (Path(value) for column, value in item.items() if column.endswith("_wav"))


def write_mixtures(sampler: MixtureSampler, count: int, folder: str | os.PathLike, csv_path: str | os.PathLike) -> None:
    """Write the first ``count`` mixtures of a sampler to disk, with their manifest.

    The files are 16-bit WAVs, and each mixture is exactly the sum of its sources. A list that was written with the same
    parameters is kept, and an interrupted one is completed.

    Arguments
    ---------
    sampler : MixtureSampler
        Draws the mixtures.
    count : int
        Number of mixtures.
    folder : str or Path
        Where the files go: ``mix/``, ``s1/``, ``s2/``, ... and the stamp ``mixtures.json`` with the parameters. The
        files of an earlier call with other parameters are removed.
    csv_path : str or Path
        The manifest, with the columns ``ID``, ``duration`` (seconds), ``mix_wav``, ``s1_wav``, ``s2_wav``, ...

    Raises
    ------
    ValueError
        When the folder holds files that this function did not write, or the count is below 1.

    Example
    -------
    >>> from speechbrain_mamba.dataio.utterances import Utterance
    >>> folder = getfixture("tmp_path")
    >>> for speaker in ("anna", "ben"):
    ...     write_audio(folder / f"{speaker}.wav", torch.randn(8000) / 10, sample_rate=8000)
    >>> utterances = [Utterance(str(folder / f"{speaker}.wav"), speaker, 8000) for speaker in ("anna", "ben")]
    >>> sampler = MixtureSampler(utterances, num_spks=2, sample_rate=8000, seconds=(0.5, 0.5))
    >>> write_mixtures(sampler, 1, folder / "test", folder / "test.csv")
    >>> (folder / "test.csv").read_text().splitlines()[0]
    'ID,duration,mix_wav,s1_wav,s2_wav'
    """
    if count < 1:
        raise ValueError(f"The number of mixtures is {count}, but must be at least 1.")
    root, manifest = Path(folder).absolute(), Path(csv_path)
    stamp = Stamp(root / "mixtures.json", {**sampler.parameters(), "count": count})
    stamp.check_folder()
    if stamp.is_done(manifest_files(manifest)):
        return
    if stamp.path.is_file() and not stamp.is_begun():
        logger.info("The mixtures in %s were made with other parameters: they are made again.", root)
        manifest.unlink(missing_ok=True)
        shutil.rmtree(root)
    stamp.begin()
    for leftover in root.glob("*/.*.wav"):  # of a process that was killed while it wrote
        leftover.unlink()
    write = functools.partial(_write_mixture, sampler, root)
    write_manifest(manifest, parallel_map(write, range(count), f"Writing the mixtures {root.name}", "mixture"))
    stamp.finish()
