"""Files of pretrained models, in a folder or on the Hub."""

from __future__ import annotations

import dataclasses
import difflib
import filecmp
import os
import re
from pathlib import Path
from typing import Any

from speechbrain.utils.fetching import FetchConfig, LocalStrategy, fetch, link_with_strategy

from speechbrain_mamba.utils.hub_connection import refuse_unreachable_hub
from speechbrain_mamba.utils.hub_errors import explain_failure, hub_failures, is_absence

_CONFIG = FetchConfig(token=None)  # type: ignore[arg-type]  # the saved one, which SpeechBrain does not use by default


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
    ValueError
        When the file is a link out of its folder.

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
        refuse_link_outside(Path(source), file)
        return file
    refuse_missing_folder(source)
    try:
        return _fetch(str(source), file_name, _CONFIG, savedir=collect_in)
    except hub_failures() as error:
        raise _nothing_on_the_hub(str(source), file_name, error) from error


class ModelFiles:
    """The files of one pretrained model: those of a folder, or those of one version of a model on the Hub.

    Files are read where they are, in the folder or in the Hub's cache. A link in a folder must stay in the folder, or
    lead into the Hub's cache.

    Arguments
    ---------
    source : str or Path
        A folder, or the Hub id of a model.
    savedir : str or Path, optional
        A folder that gets a link to each file, or a copy of it.
    local_strategy : speechbrain.utils.fetching.LocalStrategy
        Whether ``savedir`` gets links or copies.
    fetch_config : speechbrain.utils.fetching.FetchConfig
        Revision, token and cache of the Hub. By default the token is that of ``hf auth login`` or ``HF_TOKEN``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "lm.ckpt").write_text("")
    >>> ModelFiles(folder).find("lm.safetensors", "lm.ckpt").name
    'lm.ckpt'
    """

    def __init__(
        self,
        source: str | os.PathLike,
        savedir: str | os.PathLike | None = None,
        local_strategy: LocalStrategy = LocalStrategy.SYMLINK,
        fetch_config: FetchConfig | None = None,
    ) -> None:
        self.source, self.savedir, self.local_strategy = os.fspath(source), savedir, local_strategy
        self.folder = Path(source) if Path(source).is_dir() else None
        self.fetch_config = _CONFIG if fetch_config is None else fetch_config

    def find(self, *names: str) -> Path:
        """Find the first file of some names that the model has.

        Raises
        ------
        FileNotFoundError
            When the model has none of them, or there is no such model.
        ValueError
            When a link leads out of the folder, or another file has the name in ``savedir``.
        """
        problem: Exception | None = None
        for name in names:
            try:
                path = self._find(name)
            except FileNotFoundError as error:
                problem = problem or error
                continue
            self._keep(path, name)
            return path
        assert problem is not None
        raise problem

    def has(self, name: str) -> bool:
        """Whether the model has a file."""
        try:
            self._find(name)
        except FileNotFoundError:
            return False
        return True

    def _find(self, name: str) -> Path:
        if self.folder is not None:
            return fetch_pretrained(self.folder, name)
        refuse_missing_folder(self.source)
        skip = self.local_strategy == LocalStrategy.COPY_SKIP_CACHE and self.savedir is not None
        options = {"savedir": self.savedir, "local_strategy": self.local_strategy} if skip else {}
        try:
            path = _fetch(self.source, name, self.fetch_config, **options)
        except hub_failures() as error:
            raise _nothing_on_the_hub(self.source, name, error, self.fetch_config.revision) from error
        if path.parent.parent.name == "snapshots":  # all other files come from the same version
            self.fetch_config = dataclasses.replace(self.fetch_config, revision=path.parent.name)
        return path

    def _keep(self, path: Path, name: str) -> None:
        """Link or copy a file to ``savedir``."""
        if self.savedir is None or self.local_strategy == LocalStrategy.NO_LINK:
            return
        kept = Path(self.savedir) / name
        if kept.exists() and (kept.samefile(path) or filecmp.cmp(kept, path, shallow=False)):
            return
        if kept.exists() and not kept.is_symlink() and not self.fetch_config.overwrite:
            raise ValueError(
                f"savedir '{self.savedir}' has another {name} than '{self.source}': give each model its own savedir."
            )
        kept.parent.mkdir(parents=True, exist_ok=True)
        link_with_strategy(path, kept, self.local_strategy)


def _fetch(source: str, name: str, config: FetchConfig, **options: Any) -> Path:
    """Let SpeechBrain find a file of a model on the Hub; say at once if it is not here and there is no network."""
    savedir = options.get("savedir")
    is_kept = savedir is not None and (Path(savedir) / name).exists()
    if config.allow_network and not is_kept:
        refuse_unreachable_hub(source, name, config.revision, config.huggingface_cache_dir)
    return Path(fetch(name, source, fetch_config=config, **options))


def refuse_link_outside(folder: Path, path: Path) -> None:
    """Refuse a file of a folder that is a link out of it, unless into the Hub's cache, where such links are usual."""
    target, home = path.resolve(), folder.resolve()
    cached = any(part.startswith("models--") for part in target.parts)
    if not target.is_relative_to(home) and not cached:
        raise ValueError(
            f"'{path}' is a link out of its folder, to '{target}': a model's files must be in its folder. Replace the "
            "link by a copy if you trust it."
        )


_HUB_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)")
_HUB_ID = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*(?<![.-])", re.ASCII)


def refuse_missing_folder(source: str | os.PathLike) -> None:
    """Refuse what is neither a folder nor has the form of a Hub id, ``name/model``.

    Raises
    ------
    FileNotFoundError
        Says what there is of the path, and near names.
    NotADirectoryError
        When it is a file.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "separator").mkdir()
    >>> refuse_missing_folder(folder / "seperator")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: There is no folder '...seperator'. Did you mean '...separator'?
    """
    name, path = os.fspath(source), Path(source)
    if path.is_dir():
        return
    if path.exists():
        near = f" Did you mean '{path.parent}'?" if any(path.parent.glob("*.yaml")) else ""
        raise NotADirectoryError(f"'{name}' is a file, but a model is a folder.{near}")
    address = _HUB_ADDRESS.match(name)
    if address:
        raise FileNotFoundError(f"'{name}' is an address: give the id of the model, '{address[1]}'.")
    if not _HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"There is no folder '{name}'.{_near_folders(path)}")


def _near_folders(path: Path) -> str:
    """A sentence about what is there in place of a folder that is not; empty if nothing is known."""
    above = next((parent for parent in path.parents if parent.is_dir()), Path())
    parts = path.parts[len(above.parts) :]
    try:
        there = sorted(entry.name for entry in above.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return ""
    close = difflib.get_close_matches(parts[0], there, 1) if parts else []
    if close:
        near = above.joinpath(close[0], *parts[1:])
        return f" Did you mean '{near if near.is_dir() else above / close[0]}'?"
    return f" '{above}' holds no '{parts[0]}'." if len(parts) > 1 and above != Path() else ""


def _nothing_on_the_hub(source: str, name: str, error: Exception, revision: str | None = None) -> OSError:
    """The error of a file that the Hub did not give; another kind if it was lost on its way."""
    near = _near_folders(Path(source)) if Path(source).parent.is_dir() else ""
    said = explain_failure(error, revision)
    if not is_absence(error):
        return ConnectionError(
            f"{name} of the model '{source}' did not come from the Hub: {said}. Give the same command again: what has "
            "come is kept."
        )
    return FileNotFoundError(
        f"'{source}' is not a folder, and the Hub gave no {name} of a model with this id: {said}.{near}"
    )
