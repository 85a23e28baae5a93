"""The speakers of the embedded corpus: human-sounding voices of espeak-ng, varied in accent, pitch, pace and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speechbrain_mamba.dataio.manifests import SPLITS

ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
"""espeak-ng's accents of English; ``en`` is British."""

# Whispers, robots and voices that clip or tremble are left out, as judged by their settings, pitch and spectra, and so
# are most near-duplicates. No variant speaks in two splits.
LOW_VARIANTS = {
    "train": (
        "m1", "m3", "m4", "m5", "m7", "m8", "Mike", "victor", "Denis", "adam", "edward2", "max", "Alex", "kaukovalta",
        "Michael", "quincy", "Nguyen", "Henrique", "robert", "gustave",
    ),
    "valid": ("m2", "Gene", "travis"),
    "test": ("m6", "Reed", "boris", "pablo"),
}  # fmt: skip
HIGH_VARIANTS = {
    "train": ("f1", "f2", "f3", "Annie", "Alicia", "linda", "steph", "anika"),
    "valid": ("f5", "grandma", "aunty"),
    "test": ("f4", "belinda", "Andrea", "shelby"),
}


@dataclass(frozen=True)
class Speaker:
    """One speaker of the corpus, with arguments of :func:`~speechbrain_mamba.text.espeak.synthesize`."""

    id: str  # the number, which names the folder
    split: str
    high: bool
    accent: str
    variant: str
    pitch: int
    pitch_range: int
    rate: int
    # The rate in Hz at which the samples of espeak-ng, made for 22050 Hz, are played. It shifts pitch and formants
    # together: below 22050 the vocal tract sounds longer, above it shorter.
    played_rate: int


def _make_speaker(number: int, split: str, position: int, rng: np.random.Generator) -> Speaker:
    high = position % 2 == 1
    variants = (HIGH_VARIANTS if high else LOW_VARIANTS)[split]
    turn, index = divmod(position // 2, len(variants))
    # Speakers that share a variant have distinct pitches: each a third of the range, in turn.
    lowest, third = (22, 13) if high else (25, 17)
    return Speaker(
        id=str(number),
        split=split,
        high=high,
        accent=ACCENTS[rng.integers(len(ACCENTS))],
        variant=variants[index],
        pitch=int(lowest + third * ((turn + index) % 3) + rng.integers(third)),
        pitch_range=int(rng.integers(30, 90)),
        rate=int(rng.integers(140, 205)),
        # Multiples of 1000 have small ratios to the usual sample rates, which makes resampling fast.
        played_rate=int(rng.choice((20000, 21000, 22000, 23000, 24000))),
    )


def make_speakers(counts: Sequence[int], rng: np.random.Generator) -> list[Speaker]:
    """Draw the speakers of all splits, low and high voices in turn.

    Their numbers count from 100 for training, 200 for validation and 300 for test.

    Raises
    ------
    ValueError
        When a split is to have no speaker, or more than 100.

    Example
    -------
    >>> [speaker.id for speaker in make_speakers((2, 1, 1), np.random.default_rng(0))]
    ['100', '101', '200', '300']
    """
    if len(counts) != 3 or not all(1 <= count <= 100 for count in counts):
        raise ValueError(f"speakers are {counts}, but must be three counts in 1 to 100: for training, valid and test.")
    return [
        _make_speaker(100 * (which + 1) + position, split, position, rng)
        for which, (split, count) in enumerate(zip(SPLITS, counts))
        for position in range(count)
    ]
