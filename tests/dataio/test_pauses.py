"""Windows of long recordings."""

import math

import pytest
import torch

from speechbrain_mamba.dataio.pauses import PauseCutter, find_pause, is_silent

RATE = 1000


def noise(seconds, pauses=(), level=0.1):
    """Noise with silence from some times (start, end) in seconds."""
    signal = level * torch.randn(round(seconds * RATE))
    for start, end in pauses:
        signal[round(start * RATE) : round(end * RATE)] *= 1e-3
    return signal


def cut(signal, block=700, **options):
    cutter = PauseCutter(RATE, **options)
    return [window for piece in signal.split(block) for window in cutter.push(piece)] + list(cutter.finish())


@pytest.mark.parametrize("block", [1, 333, 5000, 10**6])
def test_windows_hold_all_samples_whatever_the_blocks(block):
    signal = noise(17 if block == 1 else 60, pauses=[(4.6, 5.1), (12.0, 12.4), (31.0, 31.1)])
    windows = cut(signal, block, max_seconds=6.0, overlap_seconds=1.0)
    position = 0
    for window in windows:
        assert window.start == position - window.overlap and len(window.signal) <= 6 * RATE
        assert torch.equal(window.signal, signal[window.start : window.end])
        position = window.end
    assert position == len(signal)
    assert [window.overlap for window in windows[:2]] == [0, 0] and 4600 < windows[1].start < 5100
    assert {window.overlap for window in windows} == {0, 1000}  # there are not enough pauses


def test_a_recording_of_one_window_is_not_cut():
    assert [len(window.signal) for window in cut(noise(6.0, [(3.0, 4.0)]), max_seconds=6.0)] == [6000]
    assert [len(window.signal) for window in cut(noise(60.0), max_seconds=None)] == [60000]
    assert cut(torch.zeros(0)) == []


@pytest.mark.parametrize(
    "pause, found",
    [((4.0, 4.5), True), ((4.0, 4.15), False), ((1.0, 1.9), False), ((5.8, 6.0), False)],
    ids=["long enough", "too short", "too early", "at the end"],
)
def test_a_pause_is_long_and_amid_the_window(pause, found):
    assert (find_pause(noise(6.0, [pause]), RATE) is not None) == found


@pytest.mark.parametrize("level", [1e-3, 0.1, 3.0])
def test_a_pause_is_relative_to_the_speech(level):
    assert 4000 < find_pause(noise(6.0, [(4.0, 4.5)], level), RATE) < 4500
    softer = noise(6.0, level=level)
    softer[4000:4500] *= 0.3
    assert find_pause(softer, RATE) is None


def test_silence_is_below_a_level_for_all_of_the_time():
    assert is_silent(torch.zeros(0), RATE) and is_silent(torch.zeros(100), RATE)
    assert is_silent(torch.full((100,), 0.9e-4), RATE) and not is_silent(torch.full((100,), 1.1e-4), RATE)
    click = torch.zeros(1003)
    click[-1] = 0.01
    assert not is_silent(click, RATE)
    assert all(is_silent(window.signal, RATE) for window in cut(torch.zeros(30 * RATE)))


@pytest.mark.parametrize(
    "options", [{"max_seconds": 5.0}, {"max_seconds": 0}, {"max_seconds": math.inf}, {"overlap_seconds": 0.0}]
)
def test_windows_must_be_longer_than_what_they_share(options):
    with pytest.raises(ValueError, match=r"max_seconds is .*, three times what two windows share"):
        PauseCutter(RATE, **options)
