"""Options of searches that would decode nothing, or fail deep inside a search, told at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def _at_least_one(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_ACCEPTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("beam_size", "valid_beam_size", "test_beam_size", "topk", "valid_search_interval"),
        (_at_least_one, "an integer of at least 1"),
    ),
    **dict.fromkeys(("temperature", "test_temperature", "lm_temperature"), (lambda value: value > 0, "above 0")),
    **dict.fromkeys(("ctc_weight", "ctc_weight_decode"), (lambda value: 0 <= value <= 1, "from 0 to 1")),
    "lm_weight": (lambda value: value >= 0, "at least 0"),
    "min_decode_ratio": (lambda value: value >= 0, "at least 0"),
    "max_decode_ratio": (lambda value: value > 0, "above 0"),
    **dict.fromkeys(
        ("beam_prune_logp", "token_prune_min_logp"), (lambda value: value <= 0, "at most 0, as log-probabilities are")
    ),
    "blank_skip_threshold": (lambda value: 0 < value <= 1, "a probability above 0"),
}


def check_search_options(**options: Any) -> None:
    """Make sure that a search can find something.

    Arguments
    ---------
    **options
        Options of SpeechBrain's or our searches by name; those without a range of their own are not looked at.

    Raises
    ------
    ValueError
        When an option is out of range, or ``min_decode_ratio`` is above ``max_decode_ratio``.

    Example
    -------
    >>> check_search_options(beam_size=10, max_decode_ratio=1.0)
    >>> check_search_options(beam_size=0)
    Traceback (most recent call last):
    ValueError: beam_size is 0, but must be an integer of at least 1.
    """
    for name, value in options.items():
        is_accepted, words = _ACCEPTED.get(name, (None, ""))
        if is_accepted is None:
            continue
        try:
            accepted = is_accepted(value)
        except TypeError:
            accepted = False
        if not accepted:
            raise ValueError(f"{name} is {value!r}, but must be {words}.")
    lowest, highest = options.get("min_decode_ratio", 0), options.get("max_decode_ratio", math.inf)
    if lowest > highest:
        raise ValueError(
            f"min_decode_ratio is {lowest}, above max_decode_ratio, which is {highest}: no text is long enough and "
            "short enough."
        )


def check_decoding_steps(
    frames: Mapping[str, int], min_decode_ratio: float, max_decode_ratio: float, name: str = "utterances"
) -> None:
    """Make sure that a search has a step for each utterance.

    Arguments
    ---------
    frames : mapping of str to int
        Frames of the encoder by utterance.
    min_decode_ratio, max_decode_ratio : float
        Least and largest number of tokens per frame; both numbers of tokens round down.
    name : str
        What the error calls the utterances.

    Raises
    ------
    ValueError
        When an utterance is left without a step.

    Example
    -------
    >>> check_decoding_steps({"a": 20, "b": 30}, 0.0, 0.05)
    >>> check_decoding_steps({"a": 10, "b": 30}, 0.0, 0.05)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: max_decode_ratio is 0.05, which leaves no step to decode 1 of 2 utterances, such as 'a' of 10 frames...
    """
    without = [name for name, count in frames.items() if int(count * max_decode_ratio) < 1]
    if without:
        shortest = min(without, key=frames.__getitem__)
        needed = math.ceil(1000 / max(1, frames[shortest])) / 1000
        raise ValueError(
            f"max_decode_ratio is {max_decode_ratio}, which leaves no step to decode {len(without)} of {len(frames)} "
            f"{name}, such as '{shortest}' of {frames[shortest]} frames: set it to at least {needed}."
        )
    check_search_options(min_decode_ratio=min_decode_ratio, max_decode_ratio=max_decode_ratio)
