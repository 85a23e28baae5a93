"""What goes wrong with the Hugging Face Hub, in a few words that say what to do."""

from __future__ import annotations

LOGIN = "log in with 'hf auth login', or set HF_TOKEN"


def hub_failures() -> tuple[type[Exception], ...]:
    """The errors that transfers from and to the Hub end with.

    Besides those of the operating system these are the errors of the library that speaks HTTP, which is another one in
    each major version of ``huggingface_hub``, and the base of its own.

    Example
    -------
    >>> any(issubclass(OSError, kind) for kind in hub_failures())
    True
    """
    from huggingface_hub.errors import HfHubHTTPError

    transport = [kind for kind in HfHubHTTPError.__mro__ if kind.__name__ in ("HTTPError", "RequestException")]
    return (OSError, ValueError, *transport)


def is_absence(error: BaseException) -> bool:
    """Whether an error says that something is not there, or not for everyone; otherwise a transfer failed on its way.

    Example
    -------
    >>> is_absence(FileNotFoundError("no such file")), is_absence(ConnectionResetError())
    (True, False)
    """
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    absences = (FileNotFoundError, ValueError, EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError)
    if isinstance(error, absences):
        return True
    # errors of the network have kinds of their own; of a file that was cut short huggingface_hub raises a plain one
    return type(error) is OSError and "onsistency check" not in str(error)


def explain_failure(error: BaseException, revision: str | None = None) -> str:
    """Say what an error of the Hub means, without a full stop.

    Arguments
    ---------
    error : BaseException
        What ``huggingface_hub`` raised.
    revision : str, optional
        The revision that was asked for.

    Example
    -------
    >>> explain_failure(ValueError("The id is too long."))
    'The id is too long'
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error.__cause__, HfHubHTTPError) and not isinstance(error, FileNotFoundError):
        error = error.__cause__  # SpeechBrain puts a sentence of its own over some
    if isinstance(error, GatedRepoError):
        return f"it is for those who agree to its terms: do so on its page, and {LOGIN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is none, or it is private: check the id, and if it is yours {LOGIN}"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision '{revision}'"
    if isinstance(error, LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE or error.__cause__ is None:
            return (
                "it is not in the cache, and the network is not used (HF_HUB_OFFLINE, or only local files are allowed)"
            )
        return f"it is not in the cache, and {constants.ENDPOINT} could not be reached"
    if isinstance(error, EntryNotFoundError):
        return "it has no such file"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HfHubHTTPError) and status in (401, 403):
        return f"it does not let you ({status}): {LOGIN}, with a token that may do this"
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
