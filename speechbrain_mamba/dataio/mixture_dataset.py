"""Datasets of mixtures and their sources, listed in a manifest."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator

from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.dataio.manifests import read_manifest
from speechbrain_mamba.dataio.tables import item_dataset

MIXTURE_COLUMNS = ("duration", "mix_wav", "s1_wav")
"""Columns that every manifest of mixtures has."""


def source_keys(num_spks: int) -> list[str]:
    """The keys of the sources: ``s1``, ``s2``, ..."""
    return [f"s{number}" for number in range(1, num_spks + 1)]


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
    """The dataset of a manifest of mixtures.

    Arguments
    ---------
    csv_path : str or Path
        The manifest, with the columns ``ID``, ``duration``, ``mix_wav``, ``s1_wav``, ``s2_wav``, ...
    num_spks : int
        Speakers per mixture.
    sample_rate : int
        The rate in Hz that all files must have.
    data_root : str or Path, optional
        The folder to put in place of ``$data_root`` in the manifest's paths.

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
        When the manifest has another number of speakers, lists nothing, lacks a column, or needs ``data_root``.

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
    items = read_manifest(csv_path, data_root, MIXTURE_COLUMNS)
    found = sum(re.fullmatch(r"s\d+_wav", column) is not None for column in next(iter(items.values())))
    if found != num_spks:
        raise ValueError(
            f"num_spks is {num_spks}, but the manifest '{csv_path}' has mixtures of {found} speakers: set num_spks to "
            f"{found}, or prepare data for {num_spks} speakers."
        )
    dataset = item_dataset(items)
    names = ["mix", *source_keys(num_spks)]
    keys = [f"{name}_sig" for name in names]
    dataset.add_dynamic_item(
        functools.partial(_read_signals, sample_rate), takes=["id", *(f"{name}_wav" for name in names)], provides=keys
    )
    dataset.set_output_keys(["id", *keys])
    return dataset
