"""Folders that SpeechBrain's ``from_hparams`` loads."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.weights import CHECKPOINT, SAFETENSORS, write_weights


@contextlib.contextmanager
def exported(folder: str | os.PathLike, text: str, modules: Mapping[str, nn.Module]) -> Iterator[Path]:
    """Write a trained model to a folder, which appears when the context ends without an error. Until then the context
    gives the unfinished folder, for more files.

    Arguments
    ---------
    folder : str or Path
        The folder; replaced if it exists.
    text : str
        HyperPyYAML of the model, with a ``pretrainer``.
    modules : dict of str to torch.nn.Module
        Each is saved as ``NAME.safetensors``, and as ``NAME.ckpt`` for SpeechBrain's classes, whether or not
        DistributedDataParallel wraps it.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "model"
    >>> with exported(folder, "size: 3", {"linear": nn.Linear(3, 3)}) as unfinished:
    ...     _ = (unfinished / "more.txt").write_text("")
    >>> sorted(path.name for path in folder.iterdir())
    ['hyperparams.yaml', 'linear.ckpt', 'linear.safetensors', 'more.txt']
    """
    target = Path(folder)
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "hyperparams.yaml").write_text(text, encoding="utf-8")
        for name, module in modules.items():
            state = getattr(module, "module", module).state_dict()
            for suffix in (SAFETENSORS, CHECKPOINT):
                write_weights(temporary / f"{name}{suffix}", state)
        yield temporary
        if target.exists():
            shutil.rmtree(target)
