"""The output of a frozen encoder for each recording, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechbrain_mamba.utils.files import atomic_path


class KeptEncodings:
    """A folder of encoder outputs, by the samples of the recording and what encodes them.

    Several processes and runs may use one folder at the same time. Outputs are rounded to half precision, also the
    first time, so that a resumed training gets the same ones.

    Arguments
    ---------
    folder : str or Path
        The folder, which need not exist.
    encoder : str
        What tells this encoder from others, such as :func:`fingerprint` of its weights.

    Example
    -------
    >>> kept = KeptEncodings(getfixture("tmp_path"), "an encoder")
    >>> encoded = []
    >>> def encode(wavs):
    ...     encoded.append(len(wavs))
    ...     return [wav.view(-1, 4) for wav in wavs]
    >>> wavs = [torch.ones(8), torch.zeros(12)]
    >>> [tuple(memory.shape) for memory in kept.get(wavs, encode)], encoded
    ([(2, 4), (3, 4)], [2])
    >>> [tuple(memory.shape) for memory in kept.get([wavs[1], torch.ones(4)], encode)], encoded
    ([(3, 4), (1, 4)], [2, 1])
    """

    def __init__(self, folder: str | os.PathLike, encoder: str) -> None:
        self.folder = Path(folder) / hashlib.sha256(encoder.encode()).hexdigest()[:16]

    def get(self, wavs: Sequence[Tensor], encode: Callable[[list[Tensor]], Sequence[Tensor]]) -> list[Tensor]:
        """The outputs (frames, channels) of some recordings.

        Arguments
        ---------
        wavs : sequence of Tensor
            The recordings (samples,).
        encode : callable
            Called with those that are not kept yet, if there are any; returns the output of each.
        """
        paths = [self._path(wav) for wav in wavs]
        found = [_read(path) for path in paths]
        missing = [i for i, memory in enumerate(found) if memory is None]
        if missing:
            for i, memory in zip(missing, encode([wavs[i] for i in missing])):
                rounded = memory.detach().cpu().half()
                with atomic_path(paths[i], durable=False) as temporary:
                    save_file({"memory": rounded.contiguous()}, temporary)
                found[i] = rounded
        return [memory.to(wav.device, torch.float32) for memory, wav in zip(found, wavs) if memory is not None]

    def _path(self, wav: Tensor) -> Path:
        name = hashlib.sha256(wav.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.safetensors"


def _read(path: Path) -> Tensor | None:
    try:
        return load_file(path)["memory"]
    except (FileNotFoundError, SafetensorError):  # of a disk that was full, or cut by a power failure
        return None


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A digest of weights by name.

    Example
    -------
    >>> fingerprint({"a": torch.zeros(2)}) == fingerprint({"a": torch.zeros(2)})
    True
    >>> fingerprint({"a": torch.zeros(2)}) == fingerprint({"b": torch.zeros(2)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
