"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from speechbrain.utils.checkpoints import CKPT_PREFIX, METAFNAME, PARAMFILE_EXT, Checkpoint, Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process

from speechbrain_mamba.utils._compat import CheckpointFolders

_UNFINISHED = f".{METAFNAME}"


class AtomicCheckpointer(CheckpointFolders, Checkpointer):
    """SpeechBrain's ``Checkpointer`` with checkpoints that are complete or do not exist.

    SpeechBrain takes a folder for a checkpoint as soon as its meta file exists, and writes that file first: a run that
    is killed while it saves, or while it deletes an old checkpoint, cannot be resumed. Here the meta file comes last
    and lists the other files; a folder that lacks one is not a checkpoint. The next save removes what a killed run left
    behind.

    Arguments
    ---------
    *args, **kwargs
        As ``speechbrain.utils.checkpoints.Checkpointer``.

    Example
    -------
    >>> import torch
    >>> checkpointer = AtomicCheckpointer(getfixture("tmp_path"), {"layer": torch.nn.Linear(2, 2)})
    >>> checkpoint = checkpointer.save_checkpoint()
    >>> sorted(path.name for path in checkpoint.path.iterdir())
    ['CKPT.yaml', 'layer.ckpt']
    """

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> Checkpoint | None:
        """Save a checkpoint; arguments and result as in SpeechBrain."""
        if if_main_process() and self.checkpoints_dir.is_dir():
            whole = self.list_folders()
            for folder in self.checkpoints_dir.glob(f"{CKPT_PREFIX}*"):
                if folder not in whole:
                    shutil.rmtree(folder)
        checkpoint = super().save_checkpoint(*args, **kwargs)
        if if_main_process():
            os.replace(checkpoint.path / _UNFINISHED, checkpoint.path / METAFNAME)
        ddp_barrier()  # all processes have to see the same checkpoints: they agree on what to delete
        return checkpoint

    def save_and_keep_only(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint and delete others; arguments as in SpeechBrain.

        Each save of SpeechBrain's adds a sort order to a default argument that all its checkpointers share, and so
        takes longer than the one before. Here each has its own.
        """
        super().save_and_keep_only(*args, **{"importance_keys": [], **kwargs})

    def write_meta(self, path: Path, meta: Mapping[str, Any], end_of_epoch: bool) -> dict[str, Any]:
        """Write the meta file, with a list of the other files, under the name of an unfinished checkpoint."""
        files = [name + PARAMFILE_EXT for name in self.recoverables]
        return super().write_meta(path.with_name(_UNFINISHED), {**meta, "files": files}, end_of_epoch)

    def list_folders(self) -> list[Path]:
        """List the folders whose checkpoint is complete."""
        return [folder for folder in super().list_folders() if _is_whole(folder)]


def _is_whole(folder: Path) -> bool:
    """Whether all files of a checkpoint are there; SpeechBrain's own checkpoints do not list them."""
    meta = yaml.safe_load((folder / METAFNAME).read_text(encoding="utf-8"))
    return all((folder / name).exists() for name in meta.get("files", []))
