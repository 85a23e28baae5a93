"""Whether the Hugging Face Hub can be reached, known in seconds.

``huggingface_hub`` itself asks six times for a file that is not in its cache, which takes 23 s without a network.
"""

from __future__ import annotations

import time
from pathlib import Path

from speechbrain_mamba.utils.hub_errors import hub_failures

_SECONDS = 3.0
"""How long an answer may take."""
_PAUSE = 1.0
"""Seconds before the Hub is asked a second time, in case of a short failure."""
_reached: set[str] = set()
"""Addresses that have answered this process."""


def refuse_unreachable_hub(
    repository: str, file_name: str, revision: str | None = None, cache: str | Path | None = None
) -> None:
    """Refuse to ask for a file that is not on this machine while the Hub does not answer.

    An answer of any kind will do, and is asked for once by a process.

    Arguments
    ---------
    repository : str
        The Hub id of the model.
    file_name : str
        The file.
    revision : str, optional
        Its revision.
    cache : str or Path, optional
        The folder of the Hub's cache, if it is not the usual one.

    Raises
    ------
    huggingface_hub.errors.LocalEntryNotFoundError
        As ``hf_hub_download`` would raise later.
    """
    from huggingface_hub import constants, get_session, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError

    address = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE or address in _reached:
        return
    if isinstance(try_to_load_from_cache(repository, file_name, cache_dir=cache, revision=revision), str):
        return
    for pause in (_PAUSE, None):
        try:
            get_session().head(address, timeout=_SECONDS)
        except hub_failures() as error:
            if pause is None:
                raise LocalEntryNotFoundError(f"{address} could not be reached.") from error
            time.sleep(pause)
        else:
            _reached.add(address)
            return
