"""Which estimate of a window is which speaker: windows are stitched by their overlaps and by voices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from speechbrain_mamba.inference.voice_cues import VoiceModel, Voices

SHARPNESS = 4.0
"""Log-likelihood per halving of the error of an overlap, in nats, roughly: what is not alike has that many chances."""

CERTAIN = 0.98
"""Windows are joined by their overlap alone from this probability on."""

MOST_FROM_VOICES = 8.0
"""Nats: voices are a weaker cue than a waveform in common, and the model of them is rough."""


class Overlap(NamedTuple):
    """What two windows have in common, in each of some parts of the overlap: products (parts, speakers, speakers) of
    the first window's estimates with the second's, their energies (parts, speakers) in both windows, and the energy of
    the mixture (parts,)."""

    products: np.ndarray
    first: np.ndarray
    second: np.ndarray
    mixture: np.ndarray


class SpeakerOrder(NamedTuple):
    """``orders`` (windows, speakers): the estimate of each window that is each speaker. ``confidence`` and ``cues``
    (windows - 1): the probability that the speakers are not swapped between two windows, and what tells: ``overlap``,
    ``voices``, or ``silence`` where there is nothing to swap."""

    orders: np.ndarray
    confidence: np.ndarray
    cues: list[str]


class _Profile:
    """What is known of each speaker's voice: sums and counts, (speakers, features)."""

    def __init__(self, speakers: int, features: int) -> None:
        self.sums = np.zeros((speakers, features))
        self.counts = np.zeros((speakers, features))

    def add(self, voices: Voices, order: Sequence[int]) -> None:
        index = list(order)
        self.sums += voices.means[index] * voices.counts[index]
        self.counts += voices.counts[index]

    def merge(self, other: _Profile) -> None:
        self.sums, self.counts = self.sums + other.sums, self.counts + other.counts

    def turned(self, turn: np.ndarray) -> _Profile:
        result = _Profile(*self.sums.shape)
        result.sums, result.counts = self.sums[turn], self.counts[turn]
        return result

    def without(self, other: _Profile) -> _Profile:
        rest = _Profile(*self.sums.shape)
        rest.sums, rest.counts = self.sums - other.sums, np.maximum(self.counts - other.counts, 0)
        return rest

    def likelihoods(
        self, other: _Profile, permutations: np.ndarray, model: VoiceModel, center: np.ndarray
    ) -> np.ndarray:
        """Log-likelihood of another profile for each permutation of its speakers, less that of the best.

        A voice's mean is drawn from N(center, between), its frames from N(mean, within): the features of a speaker
        given those heard before are normally distributed, and those of one not heard before too, but more widely.
        """
        within, between = model.within, model.between
        known = between * self.counts / (between * self.counts + within)  # (speakers, features), 0 to 1
        mean = center + known * (self.sums / np.maximum(self.counts, 1e-9) - center)
        seen = other.counts > 0
        values = np.where(seen, other.sums / np.maximum(other.counts, 1e-9), 0)
        noise = within / np.maximum(other.counts, 1e-9)
        result = np.zeros(len(permutations))
        for speaker in range(len(mean)):
            variance = between * (1 - known[speaker]) + noise  # (other's speakers, features)
            terms = -0.5 * ((values - mean[speaker]) ** 2 / variance + np.log(variance))
            result += np.where(seen, terms, 0).sum(1)[permutations[:, speaker]]
        result = model.temper * (result - result.max())
        return np.maximum(result, -MOST_FROM_VOICES)


def order_speakers(
    overlaps: Sequence[Overlap],
    voices: Sequence[Voices],
    silent: Sequence[bool],
    model: VoiceModel,
    floor: float,
) -> SpeakerOrder:
    """Find the speakers in all windows.

    Windows whose overlap tells are joined first, to islands. Then each island, from the first to the last, gets the
    order that its voices and what its overlaps tell make most probable given all islands before it; and then again,
    given all others, until none changes.

    Arguments
    ---------
    overlaps : sequence of Overlap
        Of each window with the next one.
    voices : sequence of Voices
        Of the estimates of each window.
    silent : sequence of bool
        Whether nobody speaks in a window.
    model : VoiceModel
        How the features of voices vary.
    floor : float
        The mean square of a mixture that counts as silence, which tells nothing; in the units of the energies.

    Returns
    -------
    SpeakerOrder
        The order of each window, the first one's estimates being the speakers in the order that they come.

    Example
    -------
    >>> pitches, frames = np.array([[1.0], [9.0]]), np.full((2, 1), 9)
    >>> voices = [Voices(pitches, frames), Voices(pitches[::-1], frames)]
    >>> silent = Overlap(np.zeros((1, 2, 2)), np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1))
    >>> model = VoiceModel(within=np.ones(1), between=np.full(1, 20.0), temper=1.0)
    >>> found = order_speakers([silent], voices, [False, False], model, floor=1e-6)
    >>> found.orders.tolist(), bool(found.confidence[0] > 0.99), found.cues
    ([[0, 1], [1, 0]], True, ['voices'])
    """
    speakers = voices[0].means.shape[0]
    permutations = np.array(list(itertools.permutations(range(speakers))))
    scores = [_overlap_scores(overlap, permutations, floor) for overlap in overlaps]
    relative, sure = [], []
    for score in scores:
        probability = _softmax(score)
        relative.append(permutations[int(probability.argmax())])
        sure.append(float(probability.max()))
    islands = _find_islands(sure, silent)
    orders = np.tile(np.arange(speakers), (len(voices), 1))  # within its island, for now
    for start, end in islands:
        for w in range(start + 1, end):
            orders[w] = relative[w - 1][orders[w - 1]] if sure[w - 1] >= CERTAIN else orders[w - 1]
    features = model.within.shape[0]
    profiles = []
    for start, end in islands:
        profile = _Profile(speakers, features)
        for w in range(start, end):
            if not silent[w] and voices[w].means.shape[1] == features:
                profile.add(voices[w], orders[w])
        profiles.append(profile)
    found = _Islands(islands, orders, profiles, scores, permutations, model)
    found.turn_each()
    found.turn_again()
    return found.result(sure)


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def _overlap_scores(overlap: Overlap, permutations: np.ndarray, floor: float) -> np.ndarray:
    """Log-likelihoods of the permutations: estimates i of the first window go on as permutation[i] of the second."""
    first, second, mixture = (np.asarray(part, dtype=float) for part in overlap[1:])
    active = np.maximum(mixture - floor, 0) / np.maximum(mixture, 1e-30)  # what is not noise, in each part
    weights = active * active
    energy = (weights[:, None] * (first + second) / 2).sum()
    if energy <= 0:
        return np.zeros(len(permutations))
    index = np.arange(first.shape[1])
    matches = np.stack([overlap.products[:, index, order].sum(-1) for order in permutations], -1)  # (parts, orders)
    errors = 1 - (weights[:, None] * matches).sum(0) / energy
    scores = -SHARPNESS * np.log(np.maximum(errors, 0) + 0.02)
    scores = scores * float((weights * mixture).sum() / max((weights * mixture).sum() + 0.1 * floor, 1e-30))
    return scores * _agreement(matches * weights[:, None], energy)


def _agreement(matches: np.ndarray, energy: float) -> float:
    """1 if no part of the overlap prefers another order by much than the whole, 0 if one does: a model that swaps
    speakers within a window leaves an overlap that tells nothing."""
    best = int(matches.sum(0).argmax())
    objection = (matches.max(1) - matches[:, best]).max() / energy
    return float(np.clip(1 - 8 * objection, 0, 1))


def _find_islands(sure: list[float], silent: Sequence[bool]) -> list[tuple[int, int]]:
    """Ranges of windows that belong together: joined by their overlap, or silent after one that is not."""
    islands: list[tuple[int, int]] = []
    start = 0
    for w in range(1, len(silent)):
        speech_before = not all(silent[start:w])
        if sure[w - 1] < CERTAIN and not silent[w] and speech_before:
            islands.append((start, w))
            start = w
    return [*islands, (start, len(silent))]


class _Islands:
    """Ranges of windows whose speakers have one order, and the turn of each: the permutation that brings this order to
    that of all. Overlaps and voices of all others tell which one."""

    def __init__(
        self,
        ranges: list[tuple[int, int]],
        orders: np.ndarray,
        profiles: list[_Profile],
        scores: list[np.ndarray],
        permutations: np.ndarray,
        model: VoiceModel,
    ) -> None:
        self.ranges, self.orders, self.profiles, self.scores = ranges, orders, profiles, scores
        self.permutations, self.model = permutations, model
        self.positions = {tuple(order): i for i, order in enumerate(permutations.tolist())}
        sums, counts = (sum(getattr(profile, name) for profile in profiles).sum(0) for name in ("sums", "counts"))
        self.center = sums / np.maximum(counts, 1e-9)
        self.turns = [permutations[0]]
        self.heard = _Profile(*profiles[0].sums.shape)
        self.heard.merge(profiles[0])

    def _position(self, order: np.ndarray) -> int:
        return self.positions[tuple(order.tolist())]

    def _overlap(self, i: int, before: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """What the overlap of an island with the one before, whose turn is given, tells of some turns of its own."""
        junction = self.ranges[i][0] - 1
        first, second = self.orders[junction][before], self.orders[junction + 1]
        result = np.zeros(len(turns))
        for k, turn in enumerate(turns):
            step = np.empty_like(first)
            step[first] = second[turn]  # how estimates of the first window go on
            result[k] = self.scores[junction][self._position(step)]
        return result

    def _voices(self, known: _Profile, island: _Profile) -> np.ndarray:
        return known.likelihoods(island, self.permutations, self.model, self.center)

    def turn_each(self) -> None:
        """Turn one after the other, given those before."""
        for i in range(1, len(self.ranges)):
            score = self._overlap(i, self.turns[i - 1], self.permutations) + self._voices(self.heard, self.profiles[i])
            self.turns.append(self.permutations[int(score.argmax())])
            self.heard.merge(self.profiles[i].turned(self.turns[i]))

    def turn_again(self, rounds: int = 10) -> None:
        """Turn each given all others, until none changes."""
        for _ in range(rounds):
            changed = False
            for i in range(1, len(self.ranges)):
                others = self.heard.without(self.profiles[i].turned(self.turns[i]))
                score = self._overlap(i, self.turns[i - 1], self.permutations) + self._voices(others, self.profiles[i])
                if i + 1 < len(self.ranges):
                    following = self.turns[i + 1][None]
                    score += [self._overlap(i + 1, turn, following)[0] for turn in self.permutations]
                best = self.permutations[int(score.argmax())]
                if score.max() > score[self._position(self.turns[i])] + 1e-9:
                    self.heard, self.turns[i], changed = others, best, True
                    self.heard.merge(self.profiles[i].turned(best))
            if not changed:
                return

    def confidence(self) -> list[float]:
        """The probability that the turn of each island is right, seen from the one before: that neither it alone nor
        all that follows is swapped."""
        result, before = [1.0], _Profile(*self.heard.sums.shape)
        before.merge(self.profiles[0])
        for i in range(1, len(self.ranges)):
            turn, own = self.turns[i], self.profiles[i].turned(self.turns[i])
            overlap = self._overlap(i, self.turns[i - 1], self.permutations)
            alone = self._voices(self.heard.without(own), self.profiles[i])
            following = self._voices(before, self.heard.without(before).turned(np.argsort(turn)))
            probabilities = [_softmax(overlap + voices)[self._position(turn)] for voices in (alone, following)]
            result.append(float(min(probabilities)))
            before.merge(own)
        return result

    def result(self, sure: list[float]) -> SpeakerOrder:
        """The order of each window; ``sure`` are the probabilities by overlaps alone."""
        orders, confidence, cues = self.orders.copy(), np.ones(len(sure)), []
        for (start, end), turn in zip(self.ranges, self.turns):
            orders[start:end] = self.orders[start:end][:, turn]
        of_islands = {start: value for (start, _), value in zip(self.ranges, self.confidence())}
        for w, probability in enumerate(sure, start=1):
            if w in of_islands:
                confidence[w - 1] = of_islands[w]
                cues.append("voices")
            else:
                confidence[w - 1] = probability if probability >= CERTAIN else 1.0
                cues.append("overlap" if probability >= CERTAIN else "silence")
        return SpeakerOrder(orders, confidence, cues)
