"""Where the numbers of a run are logged."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.train_logger import FileTrainLogger, TensorboardLogger, TrainLogger, WandBLogger


class _NumbersLogger(TensorboardLogger):
    """TensorBoard draws numbers only."""

    def log_stats(self, stats_meta: Mapping, *args: Any, **kwargs: Any) -> None:
        numbers = {key: value for key, value in stats_meta.items() if isinstance(value, (int, float))}
        super().log_stats(numbers, *args, **kwargs)


def make_loggers(hparams: Mapping[str, Any]) -> list[TrainLogger]:
    """Make the loggers that the hyper-parameters ask for.

    A text file is always written. ``tensorboard`` and ``wandb`` are optional keys; their packages are not imported
    unless they are true. Instead of ``True``, ``wandb`` takes a mapping of options for ``wandb.init``.

    Arguments
    ---------
    hparams : mapping
        ``output_folder``, and ``train_logger`` or ``train_log``, the path of the text file.

    Returns
    -------
    list of TrainLogger
        SpeechBrain's loggers.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> loggers = make_loggers({"output_folder": folder, "train_log": folder / "train_log.txt", "tensorboard": False})
    >>> [type(logger).__name__ for logger in loggers]
    ['FileTrainLogger']
    """
    folder = Path(hparams["output_folder"])
    loggers: list[TrainLogger] = [hparams.get("train_logger") or FileTrainLogger(hparams["train_log"])]
    if hparams.get("tensorboard"):
        loggers.append(_NumbersLogger(folder / "tensorboard"))
    if hparams.get("wandb"):
        import wandb

        options = {"project": "speechbrain_mamba", "name": hparams.get("experiment_name"), "dir": str(folder)}
        options |= {"id": f"{zlib.crc32(str(folder.resolve()).encode()):08x}", "resume": "allow"}
        options |= hparams["wandb"] if isinstance(hparams["wandb"], Mapping) else {}
        loggers.append(WandBLogger(wandb.init, **options))
    return loggers
