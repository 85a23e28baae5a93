"""Stamps: a preparation is done, with these settings."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechbrain_mamba.utils.files import flush_disks, write_json

logger = logging.getLogger(__name__)


class Stamp:
    """The stamp of a preparation: a JSON file with its settings, and whether it is done.

    A preparation returns early when :meth:`is_done`, calls :meth:`begin` before it writes its first file and
    :meth:`finish` after the last. If it was killed in between, :meth:`is_begun` tells whether the files that it left
    can be completed.

    Arguments
    ---------
    path : str or Path
        The file, for instance ``prepared.json`` in the folder of the preparation.
    settings : mapping
        All that decides the outcome, as values for JSON.

    Raises
    ------
    TypeError
        When the settings cannot be written as JSON.

    Example
    -------
    >>> path = getfixture("tmp_path") / "prepared.json"
    >>> stamp = Stamp(path, {"sample_rate": 8000})
    >>> stamp.begin()
    >>> stamp.is_begun(), stamp.is_done()
    (True, False)
    >>> stamp.finish(hours=1.5)
    >>> stamp.is_done(), stamp.facts()
    (True, {'hours': 1.5})
    >>> Stamp(path, {"sample_rate": 16000}).differences()
    ['sample_rate is 8000, not 16000']
    """

    def __init__(self, path: str | os.PathLike, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))  # tuples become lists, as in the file

    def _read(self) -> dict[str, Any]:
        """The content of the file; nothing if there is no stamp in it."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def is_begun(self) -> bool:
        """Whether a preparation with the same settings was begun, and perhaps finished."""
        return self._read().get("settings") == self.settings

    def is_done(self, files: Iterable[str | os.PathLike] = ()) -> bool:
        """Whether a preparation with the same settings was finished, and none of its ``files`` is missing.

        If so, this is logged.
        """
        content = self._read()
        same = content.get("settings") == self.settings
        done = same and bool(content.get("done")) and all(Path(file).is_file() for file in files)
        if done:
            logger.info("Prepared already, with the same settings: '%s'.", self.path)
        return done

    def differences(self) -> list[str]:
        """Each setting that differs from that of the file, such as ``sample_rate is 8000, not 16000``."""
        found = self._read().get("settings")
        if not isinstance(found, dict):
            return ["it has no settings"]
        return [
            f"{name} is {found.get(name)!r}, not {self.settings.get(name)!r}"
            for name in {**self.settings, **found}
            if (name in found, found.get(name)) != (name in self.settings, self.settings.get(name))
        ]

    def facts(self) -> dict[str, Any]:
        """What :meth:`finish` was given, whatever the settings were."""
        return {name: value for name, value in self._read().items() if name not in ("settings", "done")}

    def begin(self) -> None:
        """Write the settings of a preparation that is not done yet. A stamp with other settings is replaced."""
        write_json(self.path, {"settings": self.settings, "done": False})

    def finish(self, **facts: Any) -> None:
        """Write that the preparation is done, with facts that the next call wants to know, as values for JSON.

        Its files are on the disk before: a power cut does not leave a stamp that promises more than there is.
        """
        flush_disks()
        write_json(self.path, {"settings": self.settings, "done": True, **facts})

    def check_folder(self) -> None:
        """Refuse a folder that holds files but no stamp: this preparation did not write them.

        Raises
        ------
        ValueError
            When the stamp's folder is a file, or is not empty and has no stamp.
        """
        folder = self.path.parent
        if folder.exists() and not self.path.is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"'{folder}' is not empty and was not written by this preparation, since it has no {self.path.name}: "
                "choose another folder, or remove it."
            )
