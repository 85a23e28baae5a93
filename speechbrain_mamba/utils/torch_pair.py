"""Which torchaudio fits which torch.

Only some pairs of their builds load together. SpeechBrain imports torchaudio, so a pair that does not fit shows up as
an error from deep inside torchaudio; :func:`check_torchaudio` puts one sentence in its place.
"""

from __future__ import annotations

import re
from importlib import metadata

SUPPORTED = '"torch>=2.8,<2.15" "torchaudio>=2.8,<2.12"'
"""What pyproject.toml asks for, as ``pip install`` takes it."""
OLDEST, NEWEST = (2, 8), (2, 14)
STABLE_ABI = (2, 11)
"""The last torchaudio. Built on torch's stable ABI, it serves this torch and those up to NEWEST."""


def _release(version: str) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def fitting_torchaudio(torch: str) -> str | None:
    """The torchaudio that fits a version of torch, as ``pip install`` takes it; None if this torch is not supported.

    Example
    -------
    >>> fitting_torchaudio("2.9.1"), fitting_torchaudio("2.13.0+cpu"), fitting_torchaudio("2.15.0")
    ('torchaudio==2.9.*', 'torchaudio==2.11.*', None)
    """
    release = _release(torch)
    if not OLDEST <= release <= NEWEST:
        return None
    major, minor = min(release, STABLE_ABI)
    return f"torchaudio=={major}.{minor}.*"


def misfit(torch: str | None, torchaudio: str | None) -> str | None:
    """Say in one sentence what to install in place of two versions that do not load together; None if they fit.

    A version of None is that of a package that is not installed. Builds from source may work although their versions
    do not fit.

    Example
    -------
    >>> misfit("2.13.0", "2.11.0")
    >>> print(misfit("2.9.1", "2.11.0"))
    torch 2.9.1 does not work with torchaudio 2.11.0: run pip install "torchaudio==2.9.*"
    """
    if torch is None:
        return f"torch is not installed: run pip install {SUPPORTED}"
    fitting = fitting_torchaudio(torch)
    if fitting is None:
        return f"torch {torch} is not supported, and no torchaudio is known to fit it: run pip install {SUPPORTED}"
    if torchaudio is None:
        return f'torchaudio is not installed: run pip install "{fitting}"'
    pair = f"torch {torch} does not work with torchaudio {torchaudio}"
    if fitting != "torchaudio=={}.{}.*".format(*_release(torchaudio)):
        return f'{pair}: run pip install "{fitting}"'
    if "+cpu" in torch and "+cpu" not in torchaudio:
        return (
            f"{pair}, which is built for CUDA: install torch without +cpu, or run pip install --force-reinstall "
            f'--no-deps "{fitting}" with the --index-url that this torch came from'
        )
    return None


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_torchaudio() -> None:
    """Make sure that torchaudio can be imported. Imports nothing if the installed versions fit.

    Raises
    ------
    ImportError
        When the installed versions do not fit and importing torchaudio fails. Says in one sentence what to install.
    """
    advice = misfit(_installed("torch"), _installed("torchaudio"))
    if advice is None:
        return
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise ImportError(f"{advice}.") from error
