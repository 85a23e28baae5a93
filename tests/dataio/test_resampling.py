"""Resampling in blocks against torchaudio's of the whole."""

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba.dataio import resampling
from speechbrain_mamba.dataio.resampling import StreamingResampler, resample

RATES = st.one_of(st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]), st.integers(1, 60))


def in_blocks(signal, from_rate, to_rate, sizes):
    """Resample a signal that is cut into blocks of some sizes in turn."""
    resampler, parts, start, turn = StreamingResampler(from_rate, to_rate), [], 0, 0
    while start < signal.shape[-1]:
        size = sizes[turn % len(sizes)]
        parts.append(resampler.push(signal[..., start : start + size]))
        start, turn = start + size, turn + 1
    return torch.cat([*parts, resampler.finish()], -1)


@settings(deadline=None, max_examples=30)
@given(RATES, RATES, st.integers(1, 900), st.lists(st.integers(1, 400), min_size=1, max_size=4), st.integers(0, 2**30))
def test_blocks_make_what_torchaudio_makes_of_the_whole(from_rate, to_rate, length, sizes, seed):
    signal = torch.randn(2, length, generator=torch.Generator().manual_seed(seed))
    whole = torchaudio.functional.resample(
        signal.double(), from_rate, to_rate
    )  # in float32 its filters are off by 1e-5
    made = in_blocks(signal, from_rate, to_rate, sizes)
    assert made.dtype == torch.float32 and made.shape == whole.shape
    assert (made - whole).abs().max() < 5e-6


@pytest.mark.parametrize(("low", "high"), [(8000, 44100), (8000, 8000), (16000, 44101), (8000, 999983)])
def test_there_and_back_has_at_least_as_many_samples_and_the_same_sound(low, high):
    length = 3 * high // 10 + 1
    signal = torch.sin(torch.arange(length) * (2 * torch.pi * 440 / high))[None]
    back = resample(resample(signal, high, low), low, high)
    assert length <= back.shape[1] < length + high / low + 1
    inner = slice(high // 50, length - high // 50)
    assert (back[:, :length] - signal)[:, inner].abs().max() < 0.01


def test_weights_that_are_not_kept_are_the_same(monkeypatch):
    signal = torch.randn(1, 3000)
    kept = resample(signal, 16000, 11025)
    monkeypatch.setattr(resampling, "_TABLE", 0)
    assert torch.equal(kept, resample(signal, 16000, 11025))


def test_the_memory_does_not_grow_with_the_length():
    resampler = StreamingResampler(44100, 8000)
    for _ in range(50):
        resampler.push(torch.zeros(2, 5000))
        assert resampler._kept.shape[1] < 600


def test_silence_stays_silent_and_equal_rates_pass_through():
    assert not resample(torch.zeros(1, 999), 44100, 16000).any()
    signal = torch.randn(3, 7)
    assert torch.equal(resample(signal, 16000, 16000), signal)


def test_wrong_rates_and_no_signal_are_told():
    for rates in ((0, 8000), (8000, -1), (8000, 0.5)):
        with pytest.raises(ValueError, match="must be whole and positive"):
            StreamingResampler(*rates)
    with pytest.raises(RuntimeError, match="no block came before"):
        StreamingResampler(8000, 16000).finish()
