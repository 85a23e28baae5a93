"""Checkpoints that survive kills, power cuts, full disks and damaged files."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    METAFNAME,
    PARAMFILE_EXT,
    Checkpoint,
    Checkpointer,
    ckpt_recency,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process

from speechbrain_mamba.utils._compat import CheckpointFolders
from speechbrain_mamba.utils.checkpoint_files import UNFINISHED, find_fault, seal
from speechbrain_mamba.utils.files import sync_path
from speechbrain_mamba.utils.main_process import do_on_main

logger = logging.getLogger(__name__)

DAMAGED = "DAMAGED+"
"""Begins the names of the folders of checkpoints that were set aside."""

_OTHER_MODEL = ("Error(s) in loading state_dict", "loaded state dict ")
"""How PyTorch begins to say that saved parameters, or the state of an optimizer, are of another model."""

_NO_PART = "but missing a load path for "
"""How SpeechBrain says that a checkpoint lacks a file."""

_SAVING, _DELETING = ".saving+", ".deleting+"


class AtomicCheckpointer(CheckpointFolders, Checkpointer):
    """SpeechBrain's ``Checkpointer`` with checkpoints that are complete or do not exist.

    SpeechBrain takes a folder for a checkpoint as soon as its meta file exists, and writes that file first: a run that
    is killed while it saves, or while it deletes an old checkpoint, cannot be resumed. Here a checkpoint gets its name
    when all of it is on the disk, and loses it before it is deleted; the next save removes what a killed run left
    behind, and nothing else. The meta file holds sizes and checksums, which are compared before a checkpoint is loaded.
    One that is damaged is renamed, and the next best is loaded in its place.

    However few checkpoints are kept, the newest one and the one before it always are.

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
    >>> checkpoint.meta["files"]["layer.ckpt"].keys()
    dict_keys(['bytes', 'crc32'])
    """

    # ---------------------------------------------------------------------------------------------------- saving

    def save_checkpoint(self, *args: Any, verbosity: int = logging.INFO, **kwargs: Any) -> Checkpoint | None:
        """Save a checkpoint; arguments and result as in SpeechBrain.

        Raises
        ------
        OSError
            When it cannot be written, for instance onto a full disk. The checkpoints before it are kept.
        """
        if if_main_process():
            self._remove_leftovers()
        try:
            saved = super().save_checkpoint(*args, verbosity=logging.DEBUG, **kwargs)
            ddp_barrier()  # other processes may save files too
            checkpoint = self._finish(saved) if if_main_process() else None
        except BaseException as error:
            if not if_main_process():
                raise
            self._remove_leftovers()
            if isinstance(error, (OSError, RuntimeError)):  # PyTorch raises the latter when the disk is full
                raise OSError(
                    f"No checkpoint could be saved in '{self.checkpoints_dir}': {error}. Those before it are kept. "
                    "Free some space if the disk is full, and give the same command again."
                ) from error
            raise
        if checkpoint is not None:
            logger.log(verbosity, "Saved a checkpoint in '%s'.", checkpoint.path)
        ddp_barrier()  # all processes have to see the same checkpoints: they agree on what to delete
        return checkpoint

    def save_and_keep_only(
        self,
        meta: Mapping[str, Any] | None = None,
        end_of_epoch: bool = True,
        name: str | None = None,
        num_to_keep: int = 1,
        keep_recent: bool = True,
        importance_keys: Iterable[Callable] = (),
        verbosity: int = logging.INFO,
        **which: Any,
    ) -> None:
        """Save a checkpoint and delete others; arguments as in SpeechBrain.

        With ``keep_recent`` the one before the newest one is kept too: it is what is left if the newest is damaged.
        """
        self.save_checkpoint(meta=meta or {}, end_of_epoch=end_of_epoch, name=name, verbosity=verbosity)
        keys = list(importance_keys)
        if keep_recent:
            before = [checkpoint.path for checkpoint in self.find_checkpoints(max_num_checkpoints=2)][1:]
            keys += [ckpt_recency, lambda checkpoint: checkpoint.path in before]
        self.delete_checkpoints(num_to_keep=num_to_keep, importance_keys=keys, verbosity=verbosity, **which)

    def delete_checkpoints(
        self,
        *,
        num_to_keep: int = 1,
        min_keys: Iterable[str] | None = None,
        max_keys: Iterable[str] | None = None,
        importance_keys: Iterable[Callable] = (ckpt_recency,),
        ckpt_predicate: Callable | None = None,
        verbosity: int = logging.INFO,
    ) -> None:
        """Delete the least important checkpoints; arguments as in SpeechBrain.

        A kill leaves no half of a checkpoint behind: it loses its name first.
        """
        if num_to_keep < 0:
            raise ValueError(f"num_to_keep is {num_to_keep}, but must be 0 or more.")
        orders: list[dict[str, Any]] = [{"min_key": key} for key in min_keys or ()]
        orders += [{"max_key": key} for key in max_keys or ()]
        orders += [{"importance_key": key} for key in importance_keys]
        ranked = [[c.path for c in self.find_checkpoints(ckpt_predicate=ckpt_predicate, **order)] for order in orders]
        kept = {path for paths in ranked for path in paths[:num_to_keep]}
        ddp_barrier()
        if if_main_process():
            for path in {path for paths in ranked for path in paths} - kept:
                self._delete(path)
                logger.log(verbosity, "Deleted the checkpoint in '%s'.", path)
        ddp_barrier()

    def folder_to_save(self, path: Path) -> Path:
        """A name under which nothing takes an unfinished checkpoint for a checkpoint."""
        return path.with_name(_SAVING + path.name)

    def write_meta(self, path: Path, meta: Mapping[str, Any], end_of_epoch: bool) -> dict[str, Any]:
        """Write the meta file under the name of an unfinished checkpoint."""
        return super().write_meta(path.with_name(UNFINISHED), meta, end_of_epoch)

    def _finish(self, saved: Checkpoint) -> Checkpoint:
        meta, folder = seal(saved.path, saved.meta), saved.path.with_name(saved.path.name.removeprefix(_SAVING))
        if folder.exists():  # a name of the user's choice
            self._delete(folder)
        os.rename(saved.path, folder)
        sync_path(self.checkpoints_dir)
        return Checkpoint(folder, meta, {name: folder / path.name for name, path in saved.paramfiles.items()})

    def _delete(self, folder: Path) -> None:
        doomed = folder.with_name(_DELETING + folder.name)
        os.rename(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove what a killed run left: checkpoints that it was saving or deleting, also of version 0.1."""
        for folder in self.checkpoints_dir.glob("*"):
            of_old_version = folder.name.startswith(CKPT_PREFIX) and (folder / UNFINISHED).is_file()
            if folder.name.startswith((_SAVING, _DELETING)) or (of_old_version and not (folder / METAFNAME).exists()):
                shutil.rmtree(folder, ignore_errors=True)

    # --------------------------------------------------------------------------------------------------- loading

    def list_folders(self) -> list[Path]:
        """List the folders of the checkpoints whose meta file is whole and whose files have the right sizes."""
        return [folder for folder in super().list_folders() if not find_fault(folder, thorough=False)]

    def recover_if_possible(
        self,
        importance_key: Callable | None = None,
        max_key: str | None = None,
        min_key: str | None = None,
        ckpt_predicate: Callable | None = None,
    ) -> Checkpoint | None:
        """Load a checkpoint that is whole, if there is one; arguments and result as in SpeechBrain.

        The main process chooses for all.

        Raises
        ------
        RuntimeError
            When there were checkpoints, all of which are damaged.
        """
        chosen = do_on_main(self._find_whole, importance_key, max_key, min_key, ckpt_predicate)
        if chosen is None:
            logger.info("There is no checkpoint to load in '%s' yet.", self.checkpoints_dir)
        else:
            self._load(chosen)
        return chosen

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint, unless it is damaged.

        Raises
        ------
        ValueError
            When a file differs from its checksum, which the message names, or the checkpoint is of another model.
        """
        fault = find_fault(checkpoint.path, thorough=True)
        if fault:
            raise ValueError(f"The checkpoint '{checkpoint.path}' is damaged: {fault}. Load another one.")
        self._load(checkpoint)

    def _load(self, checkpoint: Checkpoint) -> None:
        try:
            super().load_checkpoint(checkpoint)
        except (RuntimeError, ValueError) as error:
            _, missing, part = str(error).partition(_NO_PART)
            if missing:
                raise ValueError(
                    f"The checkpoint '{checkpoint.path}' has no {part.strip()}, so that no training resumes from it. "
                    "Test it with --test_only, or give it to --init_from of another --output_folder."
                ) from error
            if not str(error).startswith(_OTHER_MODEL):
                raise
            lines = str(error).splitlines()
            problem = (lines[1] if len(lines) > 1 else lines[0]).strip(" \t.")
            problem = problem if len(problem) <= 200 else f"{problem[:200]}..."
            raise ValueError(
                f"The checkpoint '{checkpoint.path}' does not fit the model or the optimizer of these settings "
                f"({problem}): give the settings that it was trained with, or another --output_folder."
            ) from error

    def check_all(self) -> None:
        """Compare all checkpoints with their checksums, and set aside those that are damaged, in the main process."""
        do_on_main(self._set_aside_damaged, True)

    def _find_whole(self, *order: Any) -> Checkpoint | None:
        self._remove_leftovers()
        self._set_aside_damaged(thorough=False)
        names = ("importance_key", "max_key", "min_key", "ckpt_predicate")
        while (checkpoint := self.find_checkpoint(**dict(zip(names, order)))) is not None:
            fault = find_fault(checkpoint.path, thorough=True)
            if not fault:
                return checkpoint
            self._set_aside(checkpoint.path, fault)
        damaged = sorted(folder.name for folder in self.checkpoints_dir.glob(f"{DAMAGED}*"))
        if damaged and not self.list_checkpoints():
            raise RuntimeError(
                f"No checkpoint in '{self.checkpoints_dir}' is whole, all are damaged: {', '.join(damaged)}. Copy a "
                f"whole one there from a backup, or remove the folders {DAMAGED}* to start again at epoch 1."
            )
        return None

    def _set_aside_damaged(self, thorough: bool) -> None:
        for folder in sorted(self.checkpoints_dir.glob(f"{CKPT_PREFIX}*")):
            if (folder / METAFNAME).exists() or any(folder.glob(f"*{PARAMFILE_EXT}")):  # others are not checkpoints
                fault = find_fault(folder, thorough)
                if fault:
                    self._set_aside(folder, fault)

    def _set_aside(self, folder: Path, fault: str) -> None:
        target, count = folder.with_name(DAMAGED + folder.name), 1
        while target.exists():
            count += 1
            target = folder.with_name(f"{DAMAGED}{folder.name}+{count}")
        os.rename(folder, target)
        sync_path(self.checkpoints_dir)
        logger.warning(
            "The checkpoint '%s' is damaged and is not used: %s. It was renamed to '%s'.", folder, fault, target.name
        )
