"""The laws by which the speakers of a mixture and their levels are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

PEAK = 0.9
"""Of the loudest of a mixture and its sources, as in WSJ0-2mix."""


class LevelLaw(ABC):
    """How often a speaker is drawn, and how loud each source of a mixture is."""

    @abstractmethod
    def speaker_weights(self, utterances: Sequence[int]) -> list[float] | None:
        """The probability of each speaker, by the number of utterances of each; None draws all speakers alike."""

    @abstractmethod
    def amplitude(self, signal: Tensor) -> Tensor:
        """The amplitude of a signal (samples,) that the levels refer to: 0 dB is an amplitude of 1."""

    @abstractmethod
    def draw_levels(self, num_spks: int, rng: np.random.Generator) -> Tensor:
        """Draw the level of each source in dB, (num_spks,)."""

    @abstractmethod
    def common_gain(self, loudest: Tensor) -> Tensor:
        """The factor for all sources of a mixture, by the peak of the loudest of mixture and sources."""

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """What tells this law from others, as values for JSON."""


@dataclass(frozen=True)
class Wsj0MixLaw(LevelLaw):
    """As the mixtures of WSJ0-2mix were made (Hershey et al., "Deep clustering", 2016).

    All speakers are drawn alike. The first source is louder than the second by 0 to ``level_db``, half of it up and
    half of it down; others stay in between. All are scaled together, so that the loudest has a peak of 0.9.

    Arguments
    ---------
    level_db : float
        Largest level difference of the first two sources, of their RMS in dB.

    Example
    -------
    >>> first, second, third = Wsj0MixLaw().draw_levels(3, np.random.default_rng(0))
    >>> bool(0 < first - second < 5), float(third)
    (True, 0.0)
    """

    level_db: float = 5.0

    def speaker_weights(self, utterances: Sequence[int]) -> None:
        """All speakers alike."""
        return

    def amplitude(self, signal: Tensor) -> Tensor:
        """The RMS."""
        return signal.square().mean().sqrt()

    def draw_levels(self, num_spks: int, rng: np.random.Generator) -> Tensor:
        """The first one up and the second one down by half of the difference."""
        half = rng.uniform(0, self.level_db) / 2
        return torch.tensor([half, -half] + [0.0] * num_spks)[:num_spks]

    def common_gain(self, loudest: Tensor) -> Tensor:
        """To the peak."""
        return PEAK / loudest

    def parameters(self) -> dict[str, Any]:
        """The largest level difference."""
        return asdict(self)


@dataclass(frozen=True)
class PublishedLaw(LevelLaw):
    """As the published separators were trained on WSJ0-2mix with dynamic mixing.

    Speakers are drawn in proportion to their number of utterances. The level of the first source is normally
    distributed, and so is the difference of each other one to it; both are clipped. A level is that of the mean
    absolute amplitude, as in SpeechBrain's ``rescale``. Sources are scaled together to a peak of 0.9 only if the
    mixture or one of them would clip.

    Arguments
    ---------
    first_db : tuple of float
        Mean and standard deviation of the first source's level.
    difference_db : tuple of float
        Mean and standard deviation of the difference of the others to it.
    range_db : tuple of float
        Lowest and highest level.

    Example
    -------
    >>> PublishedLaw().speaker_weights([30, 10])
    [0.75, 0.25]
    """

    first_db: tuple[float, float] = (-27.43, 2.57)
    difference_db: tuple[float, float] = (-2.51, 2.66)
    range_db: tuple[float, float] = (-45.0, 0.0)

    def speaker_weights(self, utterances: Sequence[int]) -> list[float]:
        """In proportion to the utterances."""
        return [count / sum(utterances) for count in utterances]

    def amplitude(self, signal: Tensor) -> Tensor:
        """The mean absolute amplitude."""
        return signal.abs().mean()

    def draw_levels(self, num_spks: int, rng: np.random.Generator) -> Tensor:
        """The first one, and the others by it."""
        first = np.clip(rng.normal(*self.first_db), *self.range_db)
        others = np.clip(first + rng.normal(*self.difference_db, size=num_spks - 1), *self.range_db)
        return torch.tensor([first, *others], dtype=torch.float32)

    def common_gain(self, loudest: Tensor) -> Tensor:
        """To the peak, if something clips."""
        return torch.where(loudest > 1, PEAK / loudest, 1.0)

    def parameters(self) -> dict[str, Any]:
        """The name and the distributions."""
        return {"level_law": "published", **{key: list(value) for key, value in asdict(self).items()}}


LEVEL_LAWS: dict[str, type[LevelLaw]] = {"wsj0mix": Wsj0MixLaw, "published": PublishedLaw}
"""The laws by name."""


def find_level_law(name: str | None, corpus: str) -> LevelLaw:
    """The law of a name.

    Arguments
    ---------
    name : str, optional
        ``wsj0mix`` or ``published``. By default what the published separators had for the corpus ``wsj0mix``, and
        ``wsj0mix`` for all others: there, speakers with much speech would be most of what is heard.
    corpus : str
        The corpus.

    Raises
    ------
    ValueError
        When there is no such law.

    Example
    -------
    >>> find_level_law(None, "wsj0mix") == PublishedLaw(), find_level_law(None, "folder")
    (True, Wsj0MixLaw(level_db=5.0))
    """
    if name is None:
        name = "published" if corpus == "wsj0mix" else "wsj0mix"
    if name not in LEVEL_LAWS:
        raise ValueError(f"level_law is '{name}', but must be {' or '.join(LEVEL_LAWS)}, or null: by the corpus.")
    return LEVEL_LAWS[name]()
