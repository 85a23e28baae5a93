"""Where the weights of a new run come from: exported folders, checkpoints, runs, models on the Hub and in the package.

Only weights and tables are read. The hyper-parameters of a source are never built, so that no code of it runs.
"""

from __future__ import annotations

import difflib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import speechbrain_mamba
from speechbrain_mamba.text.tokenizer import FILE_NAME
from speechbrain_mamba.training.published import equivalent_score, find_inside, find_tokenizer
from speechbrain_mamba.utils.checkpoint_files import find_fault
from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from speechbrain_mamba.utils.pretrained import fetch_pretrained, refuse_link_outside, refuse_missing_folder
from speechbrain_mamba.utils.weights import CHECKPOINT, SAFETENSORS

logger = logging.getLogger(__name__)

CHECKPOINT_META, SAVE, EXPORTS = "CKPT.yaml", "save", ("inference", "codec")
"""The meta file of a checkpoint; in a run's output folder the checkpoints, and what was exported of it."""


@dataclass(frozen=True)
class InitSource:
    """A source of weights that was found.

    Arguments
    ---------
    name : str
        What the user gave.
    description : str
        What it is, for messages.
    folders : tuple of Path
        Folders of files on this machine: the first one has the weights, the others have what belongs to them, such as
        the tokenizer of a run. Without any, files are fetched from the Hub.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "encoder.ckpt").write_text("")
    >>> find_init_source(folder).find_weights("encoder").name
    'encoder.ckpt'
    """

    name: str
    description: str
    folders: tuple[Path, ...] = ()

    def find_weights(self, module: str) -> Path | None:
        """Find the weights of a module, by its name; None if there are none."""
        for suffix in (SAFETENSORS, CHECKPOINT):
            path = _look(self.name, self.folders[:1], f"{module}{suffix}")
            if path is not None:
                return path
        return None

    def find_file(self, name: str) -> Path | None:
        """Find another file, such as a table of labels; None if there is none."""
        return _look(self.name, self.folders, name)

    def find_tokenizer(self) -> Path | None:
        """Find the file of a recognizer's tokenizer, under its name here or one of SpeechBrain's; None if there is
        none."""
        path = self.find_file(FILE_NAME)
        others = (find_tokenizer(folder) for folder in self.folders)
        path = path or next((other for other in others if other is not None), None)
        if path is not None and self.folders:
            refuse_link_outside(path.parent, path)
        return path


def _look(source: str, folders: tuple[Path, ...], name: str) -> Path | None:
    for folder in folders:
        if (folder / name).is_file():
            refuse_link_outside(folder, folder / name)
            return folder / name
    if folders:
        return None
    try:
        return fetch_pretrained(source, name)
    except FileNotFoundError:
        return None


def find_init_source(source: str | os.PathLike, best_by: str = "loss", option: str = "init_from") -> InitSource:
    """Find the source of a run's first weights.

    Arguments
    ---------
    source : str or Path
        An exported folder, the folder of a checkpoint, the output folder of a run or its folder of checkpoints, the
        name of a model that the package carries, or a Hub id.
    best_by : str
        The score, lower is better, by which the checkpoint of a run is chosen.
    option : str
        What the caller's user knows the source as, for messages.

    Raises
    ------
    FileNotFoundError
        When a run has no checkpoint, or there is no such source.
    ValueError
        When a checkpoint is damaged.
    """
    name, folder = str(source), Path(source)
    bundled = Path(speechbrain_mamba.__file__).parent / "inference" / "bundled_models" / name
    if name.replace("-", "_").isidentifier() and bundled.is_dir():
        if folder.exists():
            logger.warning("'%s' is the model of this package. What has that name here is './%s'.", name, name)
        return InitSource(name, f"the model '{name}' of this package", (bundled,))
    if folder.is_dir():
        if (folder / CHECKPOINT_META).exists():
            return open_checkpoint(name, folder)
        for place in (folder / SAVE, folder):
            if any(place.glob(f"*/{CHECKPOINT_META}")):
                return _best_checkpoint(name, place, best_by)
        if not any(file.suffix in (SAFETENSORS, CHECKPOINT) for file in folder.iterdir()):
            _refuse_folder(name, folder, option)
        return InitSource(name, f"the folder '{name}'", (folder,))
    if folder.exists():
        raise ValueError(
            f"{option} is '{name}', which is a file: give the folder of an exported model, of a run or of a "
            "checkpoint, or a Hub id."
        )
    try:
        refuse_missing_folder(name)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(name, [path.name for path in bundled.parent.glob("*")], 1)
        if near:
            raise FileNotFoundError(
                f"{option}: There is no model or folder '{name}'. Did you mean '{near[0]}'?"
            ) from error
        raise FileNotFoundError(
            f"{option}: {error} Give the folder of an exported model, of a run or of a checkpoint, a Hub id such as "
            "'name/model', or the name of a model that the package carries."
        ) from error
    return InitSource(name, f"the model '{name}' on the Hub")


def _best_checkpoint(name: str, folder: Path, best_by: str) -> InitSource:
    keeper = AtomicCheckpointer(folder)
    found = keeper.find_checkpoint(min_key=best_by)
    if found is None:  # others may have kept another score
        scores = [(equivalent_score(each.meta, best_by), each) for each in keeper.find_checkpoints()]
        ranked = sorted(((score, each) for score, each in scores if score is not None), key=lambda pair: pair[0])
        found = ranked[0][1] if ranked else None
    if found is None:
        raise FileNotFoundError(
            f"'{name}' has no whole checkpoint with the score '{best_by}', by which the best one is chosen: it is of "
            "another recipe, or no epoch was trained to its end. Give the folder of one checkpoint, or another source."
        )
    return open_checkpoint(name, Path(found.path))


def open_checkpoint(name: str, folder: Path) -> InitSource:
    """The source that a checkpoint is, with the folders of its run.

    Raises
    ------
    ValueError
        When it is damaged.
    """
    fault = find_fault(folder, thorough=True)
    if fault:
        raise ValueError(f"The checkpoint '{folder}' is damaged: {fault}. Give another one.")
    save = folder.resolve().parent
    return InitSource(
        name, f"the checkpoint '{folder}'", (folder, save, *(save.parent / one for one in EXPORTS), save.parent)
    )


def _refuse_folder(name: str, folder: Path, option: str) -> None:
    """Say what a folder without weights lacks, and which folder in it may be meant."""
    inner = [folder / one for one in (*EXPORTS, SAVE) if (folder / one).is_dir()] or find_inside(folder)
    hint = f" Did you mean '{inner[0]}'?" if inner else ""
    raise FileNotFoundError(
        f"{option} is '{name}', but this folder has neither weights (*{SAFETENSORS} or *{CHECKPOINT}) nor "
        f"checkpoints.{hint}"
    )
