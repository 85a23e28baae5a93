"""Datasets of mixtures and their sources, read from a manifest."""

from __future__ import annotations

import csv
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_mamba.dataio.audio import read_audio


def source_keys(num_spks: int) -> list[str]:
    """The keys ``s1``, ``s2``, ... of the sources.

    Arguments
    ---------
    num_spks : int
        Number of sources.

    Returns
    -------
    list of str
        The keys.

    Example
    -------
    >>> source_keys(2)
    ['s1', 's2']
    """
    return [f"s{number}" for number in range(1, num_spks + 1)]


def read_manifest(csv_path: str | os.PathLike) -> list[dict[str, str]]:
    """Read a manifest of mixtures as it stands.

    Arguments
    ---------
    csv_path : str or Path
        The CSV file, with the columns ``ID``, ``duration``, ``mix_wav``, ``s1_wav``, ``s2_wav``, ...

    Returns
    -------
    list of dict
        One mapping from column to text per mixture.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it lists no mixture, or lacks a column.

    Example
    -------
    >>> csv_path = getfixture("tmp_path") / "test.csv"
    >>> _ = csv_path.write_text("ID,duration,mix_wav,s1_wav\\na,1.0,mix.wav,s1.wav\\n")
    >>> read_manifest(csv_path)[0]["mix_wav"]
    'mix.wav'
    """
    if not Path(csv_path).is_file():
        raise FileNotFoundError(f"The manifest '{csv_path}' does not exist: prepare the data first.")
    with open(csv_path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    if not rows:
        raise ValueError(f"The manifest '{csv_path}' lists no mixture: prepare the data again.")
    missing = [column for column in ("ID", "duration", "mix_wav", "s1_wav") if column not in rows[0]]
    if missing:
        raise ValueError(f"The manifest '{csv_path}' lacks the column {missing[0]}: prepare the data again.")
    return rows


def _check_num_spks(csv_path: str | os.PathLike, row: dict[str, str], num_spks: int) -> None:
    found = sum(re.fullmatch(r"s\d+_wav", column or "") is not None for column in row)
    if found != num_spks:
        raise ValueError(
            f"num_spks is {num_spks}, but the manifest '{csv_path}' has mixtures of {found} speakers: set num_spks to "
            f"{found}, or prepare data for {num_spks} speakers."
        )


def _read_signals(sample_rate: int, name: str, *paths: str) -> Iterator[Tensor]:
    mixture = read_audio(paths[0], sample_rate)
    yield mixture
    for number, path in enumerate(paths[1:], start=1):
        source = read_audio(path, sample_rate)
        if len(source) != len(mixture):
            raise ValueError(
                f"In the example '{name}', source s{number} has {len(source)} samples, but the mixture has "
                f"{len(mixture)}: they must be equally long."
            )
        yield source


def separation_dataset(
    csv_path: str | os.PathLike, num_spks: int, sample_rate: int, data_root: str | os.PathLike | None = None
) -> DynamicItemDataset:
    """The dataset of a manifest.

    Arguments
    ---------
    csv_path : str or Path
        The manifest, as the preparations write it.
    num_spks : int
        Speakers per mixture.
    sample_rate : int
        The rate in Hz that all files must have.
    data_root : str or Path, optional
        What ``$data_root`` stands for in the manifest's paths.

    Returns
    -------
    DynamicItemDataset
        Its keys are ``id``, ``mix_sig``, ``s1_sig``, ``s2_sig``, ... (tensors (samples,)) and, on demand, the
        manifest's columns. Reading an example raises a ValueError that names it when a source is not as long as the
        mixture.

    Raises
    ------
    FileNotFoundError
        When the manifest does not exist.
    ValueError
        When the manifest has another number of speakers, lists nothing, or needs ``data_root``.

    Example
    -------
    >>> import torch
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.ones(80) / 2, sample_rate=8000)
    >>> _ = (folder / "test.csv").write_text("ID,duration,mix_wav,s1_wav\\na,0.01,$data_root/a.wav,$data_root/a.wav\\n")
    >>> dataset = separation_dataset(folder / "test.csv", num_spks=1, sample_rate=8000, data_root=folder)
    >>> dataset[0]["mix_sig"].shape
    torch.Size([80])
    """
    rows = read_manifest(csv_path)
    _check_num_spks(csv_path, rows[0], num_spks)
    if data_root is None and any("$data_root" in value for value in rows[0].values()):
        raise ValueError(f"The paths in the manifest '{csv_path}' begin with $data_root: set data_root to that folder.")
    dataset = DynamicItemDataset.from_csv(csv_path, replacements={"data_root": str(data_root)})
    names = ["mix", *source_keys(num_spks)]
    dataset.add_dynamic_item(
        functools.partial(_read_signals, sample_rate),
        takes=["id", *(f"{name}_wav" for name in names)],
        provides=[f"{name}_sig" for name in names],
    )
    dataset.set_output_keys(["id", *(f"{name}_sig" for name in names)])
    return dataset
