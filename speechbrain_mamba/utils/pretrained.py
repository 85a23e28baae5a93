"""Files of pretrained models, in a folder or on the Hub."""

from __future__ import annotations

import os
from pathlib import Path

from speechbrain.utils.fetching import fetch


def fetch_pretrained(source: str | os.PathLike, file_name: str, collect_in: str | os.PathLike | None = None) -> Path:
    """Find a file of a pretrained model. A file on the Hub is downloaded unless it is on this machine already.

    Arguments
    ---------
    source : str or Path
        A folder, or the Hub id of a model.
    file_name : str
        The file, relative to the folder or model.
    collect_in : str or Path, optional
        Folder that gets a link to a file from the Hub; by default the file stays in the Hub's cache.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileNotFoundError
        If the folder or the model on the Hub has no such file, or neither exists.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "lm.ckpt").write_text("")
    >>> fetch_pretrained(folder, "lm.ckpt").name
    'lm.ckpt'
    """
    if Path(source).is_dir():
        file = Path(source) / file_name
        if not file.is_file():
            raise FileNotFoundError(f"The folder '{source}' has no {file_name}.")
        return file
    try:
        return Path(fetch(file_name, str(source), savedir=collect_in))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"'{source}' is not a folder, and the Hub gave no {file_name} of a model with this id: {error}"
        ) from error
