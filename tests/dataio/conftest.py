"""Speech of the tests: noise bursts in a folder per speaker."""

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio


@pytest.fixture
def make_speech():
    """Write ``speaker/<n>.wav`` for some speakers; the seconds of file ``n`` are ``seconds[n]``."""

    def write(folder, speakers=("anna", "ben", "carl"), seconds=(0.4, 0.7), sample_rate=8000):
        for number, speaker in enumerate(speakers):
            for index, duration in enumerate(seconds):
                torch.manual_seed(100 * number + index)
                signal = 0.1 * torch.randn(round(duration * sample_rate))
                write_audio(folder / speaker / f"{index}.wav", signal, sample_rate)
        return folder

    return write
