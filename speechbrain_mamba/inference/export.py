"""Folders that SpeechBrain's ``from_hparams`` loads."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.hparams import select_hparams


@contextlib.contextmanager
def exported(
    folder, hparams_text: str, keys: Sequence[str], interface: str, modules: dict[str, nn.Module]
) -> Iterator[Path]:
    """Write a trained model to a folder, which appears when the context ends well.

    Arguments
    ---------
    folder : str or Path
        The folder; replaced if it exists.
    hparams_text : str
        HyperPyYAML of the training, references not resolved.
    keys : sequence of str
        What of it is needed; what these refer to comes along.
    interface : str
        HyperPyYAML that is added, with a ``pretrainer``.
    modules : dict of str to torch.nn.Module
        What is saved as ``NAME.ckpt``, bare or inside DistributedDataParallel.

    Yields
    ------
    Path
        The folder as yet, to put more files into.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "model"
    >>> with exported(folder, "size: 3", ["size"], "", {"linear": nn.Linear(3, 3)}) as unfinished:
    ...     _ = (unfinished / "more.txt").write_text("")
    >>> sorted(path.name for path in folder.iterdir())
    ['hyperparams.yaml', 'linear.ckpt', 'more.txt']
    """
    folder = Path(folder)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        text = select_hparams(hparams_text, keys) + interface
        (temporary / "hyperparams.yaml").write_text(text, encoding="utf-8")
        for name, module in modules.items():
            torch.save(getattr(module, "module", module).state_dict(), temporary / f"{name}.ckpt")
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
