"""Named normalizations of texts, without which error rates of words cannot be compared."""

from __future__ import annotations

from collections.abc import Callable

from speechbrain_mamba.evaluation.word_errors import normalize_words


def _as_it_is(text: str) -> str:
    return text


def _whisper(name: str) -> Callable[[], Callable[[str], str]]:
    def load() -> Callable[[str], str]:
        try:
            if name == "english":
                from whisper_normalizer.english import EnglishTextNormalizer as Normalizer
            else:
                from whisper_normalizer.basic import BasicTextNormalizer as Normalizer
        except ImportError as error:
            raise ImportError(
                f"The normalization whisper-{name} is that of the package whisper-normalizer, which is not installed: "
                'pip install "speechbrain_mamba[metrics]".'
            ) from error
        normalizer = Normalizer()
        return lambda text: normalizer(text).strip()

    return load


_LOADERS: dict[str, Callable[[], Callable[[str], str]]] = {
    "none": lambda: _as_it_is,
    "words": lambda: normalize_words,
    "whisper-basic": _whisper("basic"),
    "whisper-english": _whisper("english"),
}
NORMALIZATIONS = tuple(_LOADERS)
"""``none``; ``words``: upper case, no punctuation; ``whisper-basic`` and ``whisper-english``: those of Whisper's error
rates (Radford et al., arXiv 2212.04356, appendix C), the latter for English alone: numbers become digits, British
spelling American, contractions and titles whole words."""


def load_normalization(name: str) -> Callable[[str], str]:
    """Load a normalization by its name.

    Arguments
    ---------
    name : str
        One of ``NORMALIZATIONS``.

    Returns
    -------
    callable
        From a text to the normalized one, which is to be applied to both reference and hypothesis.

    Raises
    ------
    ValueError
        For another name.
    ImportError
        When the package of the normalization is missing.

    Example
    -------
    >>> load_normalization("words")("Don't stop -- it's ten.")
    "DON'T STOP IT'S TEN"
    >>> load_normalization("none")("Don't stop.")
    "Don't stop."
    """
    if name not in _LOADERS:
        raise ValueError(f"There is no text normalization '{name}': give one of {', '.join(NORMALIZATIONS)}.")
    return _LOADERS[name]()
