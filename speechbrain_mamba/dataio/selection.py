"""Which utterances a recognizer can learn from."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from speechbrain_mamba.dataio.tables import keep_items

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

logger = logging.getLogger(__name__)

_IDS_SHOWN = 10


def encoder_frames(seconds: float, sample_rate: int, hop: int, strides: tuple[int, ...] = (2, 2)) -> int:
    """Number of frames that a recognizer's encoder gets for some audio.

    The ``hop`` is that of the features in samples, and the ``strides``, which round up, those of the convolutional
    front end.

    Example
    -------
    >>> encoder_frames(1.0, sample_rate=16000, hop=160)
    26
    """
    frames = round(seconds * sample_rate) // hop + 1
    for stride in strides:
        frames = -(-frames // stride)
    return frames


def frames_for_ctc(tokens: Sequence[int]) -> int:
    """Number of frames that CTC needs for some tokens: one per token, and one between equal neighbors.

    Example
    -------
    >>> frames_for_ctc([3, 4, 4, 5])
    5
    """
    return len(tokens) + sum(first == second for first, second in itertools.pairwise(tokens))


def has_room(samples: int, tokens: Sequence[int], sample_rate: int, hop: int) -> bool:
    """Whether an encoder makes enough frames of N samples for CTC to learn some tokens. If not, CTC hides it by a
    loss of zero (``zero_infinity``).

    Example
    -------
    >>> has_room(3200, [3, 4, 4, 5, 6], sample_rate=16000, hop=160), has_room(3040, [3, 4, 4, 5, 6], 16000, 160)
    (True, False)
    """
    return encoder_frames(samples / sample_rate, sample_rate, hop) >= frames_for_ctc(tokens)


def reason_against(
    item: dict[str, Any],
    tokenizer: SentencePieceProcessor,
    frames: Callable[[dict[str, Any]], int] | None,
    least_seconds: float,
) -> str | None:
    """Why an utterance cannot be used, None if it can: for the arguments of :func:`select_usable`."""
    if item["duration"] < least_seconds:
        return f"less than the {1000 * least_seconds:.0f} ms of audio that are needed"
    if not item["wrd"].strip():
        return "an empty transcript"
    if frames is None:
        return None
    tokens = tokenizer.encode(item["wrd"])
    if tokenizer.unk_id() in tokens:
        return "characters that the tokenizer does not know"
    if frames(item) < frames_for_ctc(tokens):
        return "fewer frames than their transcript needs for CTC"
    return None


def select_usable(
    items: Mapping[str, dict[str, Any]],
    tokenizer: SentencePieceProcessor,
    name: str,
    frames: Callable[[dict[str, Any]], int] | None = None,
    least_seconds: float = 0.0,
) -> Mapping[str, dict[str, Any]]:
    """Leave out the utterances that a recognizer cannot learn from; a warning says how many, which and why.

    These are utterances with too little audio, with an empty transcript, and for training with characters that the
    tokenizer does not know, or with fewer frames than CTC needs for their transcript: one per token, and one between
    equal neighbors.

    Arguments
    ---------
    items : mapping
        Utterances, as returned by :func:`~speechbrain_mamba.dataio.manifests.read_manifest`.
    tokenizer : sentencepiece.SentencePieceProcessor
        The tokenizer.
    name : str
        What the warning calls the utterances.
    frames : callable, optional
        Returns the number of the encoder's frames for an utterance, for training. Without it, characters and lengths
        are not checked: in a test these are errors of the recognizer.
    least_seconds : float
        The shortest audio that a recognizer takes.

    Raises
    ------
    ValueError
        When none is usable.

    Example
    -------
    >>> class Letters:
    ...     def encode(self, text):
    ...         return [max(0, ord(letter) - ord("A") + 3) for letter in text]
    ...     def unk_id(self):
    ...         return 0
    >>> items = {"a": {"duration": 1.0, "wrd": "HELLO"}, "b": {"duration": 1.0, "wrd": ""}}
    >>> list(select_usable(items, Letters(), "utterances", frames=lambda item: 6))
    ['a']
    """
    left_out: dict[str, list[str]] = {}

    def is_usable(utterance: str, item: dict[str, Any]) -> bool:
        reason = reason_against(item, tokenizer, frames, least_seconds)
        if reason is not None:
            left_out.setdefault(reason, []).append(utterance)
        return reason is None

    usable = keep_items(items, is_usable)
    for reason, ids in left_out.items():
        more = f" and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else ""
        shown = ", ".join(ids[:_IDS_SHOWN])
        logger.warning("Left out %d of %d %s with %s: %s%s.", len(ids), len(items), name, reason, shown, more)
    if not usable:
        reasons = "; ".join(f"{len(ids)} with {reason}" for reason, ids in left_out.items())
        raise ValueError(f"None of the {len(items)} {name} can be used: {reasons}.")
    return usable
