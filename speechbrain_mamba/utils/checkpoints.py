"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import os
import shutil

import yaml
from speechbrain.utils.checkpoints import CKPT_PREFIX, METAFNAME, PARAMFILE_EXT, Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process

_UNFINISHED = f".{METAFNAME}"


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's ``Checkpointer``, whose checkpoints are there whole or not at all.

    SpeechBrain takes a folder for a checkpoint as soon as its meta file exists, and writes that one first: a run that
    is killed while it saves, or while it deletes an old checkpoint, cannot be resumed. Here the meta file comes last
    and lists the other files; a folder that lacks one is no checkpoint. What a killed run left behind is removed at the
    next save.

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

    def save_checkpoint(self, *args, **kwargs):
        """Save a checkpoint; arguments and result as in SpeechBrain."""
        if if_main_process() and self.checkpoints_dir.is_dir():
            whole = self._list_checkpoint_dirs()
            for folder in self.checkpoints_dir.glob(f"{CKPT_PREFIX}*"):
                if folder not in whole:
                    shutil.rmtree(folder)
        checkpoint = super().save_checkpoint(*args, **kwargs)
        if if_main_process():
            os.replace(checkpoint.path / _UNFINISHED, checkpoint.path / METAFNAME)
        ddp_barrier()  # all processes have to see the same checkpoints: they agree on what to delete
        return checkpoint

    def _save_checkpoint_metafile(self, fpath, meta_to_include=None, end_of_epoch=True):
        meta = {**(meta_to_include or {}), "files": [name + PARAMFILE_EXT for name in self.recoverables]}
        return super()._save_checkpoint_metafile(fpath.with_name(_UNFINISHED), meta, end_of_epoch)

    def _list_checkpoint_dirs(self):
        return [folder for folder in super()._list_checkpoint_dirs() if _is_whole(folder)]


def _is_whole(folder):
    """Whether all files of a checkpoint are there; SpeechBrain's own checkpoints do not list them."""
    meta = yaml.safe_load((folder / METAFNAME).read_text(encoding="utf-8"))
    return all((folder / name).exists() for name in meta.get("files", []))
