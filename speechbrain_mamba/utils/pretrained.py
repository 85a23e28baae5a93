"""Files of pretrained models, from a folder or from the Hub."""

from __future__ import annotations

import os
from pathlib import Path

from speechbrain.utils.fetching import fetch


def fetch_pretrained(source: str | os.PathLike, file_name: str, collect_in: str | os.PathLike | None = None) -> Path:
    """Find a file of a pretrained model, and get it from the Hub where it is not on this machine.

    Arguments
    ---------
    source : str or Path
        A folder, or the Hub id of a model.
    file_name : str
        The file in it.
    collect_in : str or Path, optional
        Where a file from the Hub is kept.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileNotFoundError
        When the folder or the model on the Hub has no such file, or there is neither.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "lm.ckpt").write_text("")
    >>> fetch_pretrained(folder, "lm.ckpt").name
    'lm.ckpt'
    """
    if Path(source).is_dir():
        if not (Path(source) / file_name).is_file():
            raise FileNotFoundError(f"The folder '{source}' has no {file_name}.")
        return Path(source) / file_name
    try:
        return Path(fetch(file_name, str(source), savedir=collect_in))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"'{source}' is no folder, and no {file_name} of that id could be had from the Hub: {error}"
        ) from error
