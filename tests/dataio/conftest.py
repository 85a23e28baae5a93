"""Speech to be mixed."""

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.utterances import Utterance, scan_speakers


@pytest.fixture
def utterances(tmp_path, make_speech):
    return scan_speakers(make_speech(tmp_path / "speech"), 8000)


VOICES = {"anna": 2, "ben": 5, "carl": 11, "dora": 23}


@pytest.fixture
def voices(tmp_path):
    """Speech of constant power, so that each part of it has the same level; the time between changes of sign tells the
    speaker. Anna says more than the others."""
    found = []
    for speaker, period in VOICES.items():
        for index in range(4 if speaker == "anna" else 1):
            signal = 0.1 * (1 - 2 * (torch.arange(2000 + 300 * index) // period % 2))
            found.append(add_speech(tmp_path / "voices", speaker, signal, f"{index}.wav"))
    return found


def add_speech(folder, speaker, signal, name="0.wav", **options):
    path = folder / speaker / name
    write_audio(path, signal, 8000, **options)
    return Utterance(str(path), speaker, len(signal))
