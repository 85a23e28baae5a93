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

    def without(self, other: _Profile) -> _Profile:
        rest = _Profile(*self.sums.shape)
        rest.sums, rest.counts = self.sums - other.sums, np.maximum(self.counts - other.counts, 0)
        return rest

    def likelihoods(self, other: _Profile, permutations: np.ndarray, model: VoiceModel, center: np.ndarray):
        """Log-likelihood of another profile for each permutation of its speakers, less that of the worst.

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
    >>> voices = [Voices(np.array([[1.0], [9.0]]), np.full((2, 1), 9)), Voices(np.array([[9.0], [1.0]]), np.ones((2, 1)))]
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
    turns, confidence = _turn_islands(islands, profiles, orders, scores, permutations, model)
    return _put_together(islands, orders, turns, sure, confidence)


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


def _turn_islands(islands, profiles, orders, scores, permutations, model):
    """The order of each island's speakers among those of all, and the confidence at the start of each."""
    total_sums = sum(profile.sums for profile in profiles).sum(0)
    total_counts = sum(profile.counts for profile in profiles).sum(0)
    center = total_sums / np.maximum(total_counts, 1e-9)
    positions = {tuple(order): i for i, order in enumerate(permutations)}

    def between(first: int, second: int, turns: list[np.ndarray]) -> np.ndarray:
        """What their overlap tells of the turns of the second of two neighbors, by permutation."""
        junction = islands[second][0] - 1
        before, after = orders[junction][turns[first]], orders[junction + 1]
        result = np.zeros(len(permutations))
        for i, turn in enumerate(permutations):
            step = np.empty_like(before)
            step[before] = after[turn]
            result[i] = scores[junction][positions[tuple(step)]]
        return result

    def turned(index: int, turn: np.ndarray) -> _Profile:
        profile = _Profile(*profiles[index].sums.shape)
        profile.sums, profile.counts = profiles[index].sums[turn], profiles[index].counts[turn]
        return profile

    turns = [np.arange(permutations.shape[1])]
    heard = turned(0, turns[0])
    for i in range(1, len(islands)):
        score = between(i - 1, i, turns) + heard.likelihoods(profiles[i], permutations, model, center)
        turns.append(permutations[int(score.argmax())])
        _accumulate(heard, turned(i, turns[i]))
    for _ in range(10):
        changed = False
        for i in range(1, len(islands)):
            score = _given_others(i, turns, heard.without(turned(i, turns[i])), profiles, between, permutations, model, center)
            best = permutations[int(score.argmax())]
            if not np.array_equal(best, turns[i]) and score.max() > score[positions[tuple(turns[i])]] + 1e-9:
                heard = heard.without(turned(i, turns[i]))
                turns[i], changed = best, True
                _accumulate(heard, turned(i, best))
        if not changed:
            break
    confidence = np.ones(len(islands))
    before = turned(0, turns[0])
    for i in range(1, len(islands)):
        # Either all that follows is swapped, or this island alone, or the one before alone.
        after, overlap = heard.without(before), between(i - 1, i, turns)
        own = positions[tuple(turns[i])]
        options = [before.likelihoods(_unturned(after, turns[i]), permutations, model, center)]
        options.append(heard.without(turned(i, turns[i])).likelihoods(profiles[i], permutations, model, center))
        confidence[i] = min(float(_softmax(overlap + option)[own]) for option in options)
        _accumulate(before, turned(i, turns[i]))
    return turns, confidence


def _given_others(i, turns, others, profiles, between, permutations, model, center):
    score = others.likelihoods(profiles[i], permutations, model, center) + between(i - 1, i, turns)
    if i + 1 < len(turns):
        following = []
        for turn in permutations:
            tried = [*turns[:i], turn, *turns[i + 1 :]]
            options = between(i, i + 1, tried)
            own = next(k for k, order in enumerate(permutations) if np.array_equal(order, turns[i + 1]))
            following.append(options[own])
        score = score + np.array(following)
    return score


def _accumulate(profile: _Profile, other: _Profile) -> None:
    profile.sums, profile.counts = profile.sums + other.sums, profile.counts + other.counts


def _unturned(profile: _Profile, turn: np.ndarray) -> _Profile:
    """The profile in the order of an island whose turn it has, so that this turn is the permutation that is sought."""
    result = _Profile(*profile.sums.shape)
    result.sums[turn], result.counts[turn] = profile.sums, profile.counts
    return result


def _put_together(islands, orders, turns, sure, confidence) -> SpeakerOrder:
    result, probabilities, cues = orders.copy(), np.ones(len(orders) - 1), []
    starts = {start: i for i, (start, _) in enumerate(islands)}
    for (start, end), turn in zip(islands, turns):
        result[start:end] = orders[start:end][:, turn]
    for w in range(1, len(orders)):
        if w in starts:
            probabilities[w - 1] = confidence[starts[w]]
            cues.append("voices")
        else:
            probabilities[w - 1] = sure[w - 1] if sure[w - 1] >= CERTAIN else 1.0
            cues.append("overlap" if sure[w - 1] >= CERTAIN else "silence")
    return SpeakerOrder(result, probabilities, cues)
