"""Two recordings of digits that come with the package, by voices of the embedded corpus's test split."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parent
SAMPLE_RATE = 8000


@dataclass(frozen=True)
class Sample:
    """A recording, with the number of its speaker in the corpus of default settings, and what is said."""

    path: Path
    speaker: str
    text: str


SAMPLES = (
    Sample(FOLDER / "low.flac", "302", "three nine one five two eight zero"),
    Sample(FOLDER / "high.flac", "303", "seven zero eight four six one five"),
)
"""A low and a high voice. No recipe trains with voices of the test split."""


def mix_samples() -> tuple[Tensor, list[Tensor]]:
    """Mix the voices so that both end at the same time, the second 3 dB softer.

    Returns
    -------
    mixture : Tensor
        The mixture (samples,) at ``SAMPLE_RATE``.
    voices : list of Tensor
        The voices in it, which add up to it.

    Example
    -------
    >>> mixture, voices = mix_samples()
    >>> mixture.equal(voices[0] + voices[1])
    True
    """
    from torch.nn.functional import pad

    from speechbrain_mamba.dataio.audio import read_audio

    found = [read_audio(sample.path, SAMPLE_RATE) for sample in SAMPLES]
    longest, voices = max(map(len, found)), []
    for number, voice in enumerate(found):
        level = 0.05 * 10 ** (-3 * number / 20)
        voices.append(pad(voice * (level / voice.square().mean().sqrt()), (longest - len(voice), 0)))
    return voices[0] + voices[1], voices


def make_samples(folder: str | os.PathLike) -> list[Path]:
    """Speak the samples again, which takes espeak-ng, into a folder; its version decides about details.

    Example
    -------
    >>> import pytest, soundfile
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> paths = make_samples(getfixture("tmp_path"))
    >>> soundfile.info(paths[0]).samplerate
    8000
    """
    import numpy as np

    from speechbrain_mamba.corpora.mini.build import speak
    from speechbrain_mamba.corpora.mini.voices import make_speakers
    from speechbrain_mamba.dataio.audio import write_audio

    speakers = {speaker.id: speaker for speaker in make_speakers((40, 6, 8), np.random.default_rng(1234))}
    paths = []
    for sample in SAMPLES:
        signal = speak(sample.text, speakers[sample.speaker], SAMPLE_RATE, np.random.default_rng(0))
        paths.append(Path(folder, sample.path.name))
        write_audio(paths[-1], signal, SAMPLE_RATE)
    return paths
