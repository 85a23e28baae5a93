"""Recordings that are separated in windows, by a separator that knows the true sources."""

import itertools
import math

import numpy as np
import pytest
import torch

from speechbrain_mamba.inference import long_separation
from speechbrain_mamba.inference.long_separation import LongSeparator
from speechbrain_mamba.inference.separation_result import Junction
from tests.errors import relative_error

RATE = 8000
OPTIONS = {"stride": 8, "shortest": 16, "window": 2.0, "overlap": 0.5}


def voice(pitch, tilt, seconds, speaks=lambda t: True, seed=0):
    """Syllables of a harmonic voice where it ``speaks``; tilt shapes its spectrum."""
    rng = np.random.default_rng(seed)
    signal, now = np.zeros(round(seconds * RATE)), 0.05
    while now < seconds - 0.2:
        size = round(rng.uniform(0.1, 0.18) * RATE)
        if speaks(now) and speaks(now + 0.2):
            phase = 2 * np.pi * np.cumsum(pitch * np.exp(0.05 * rng.standard_normal()) * np.ones(size)) / RATE
            harmonics = range(1, int(3800 / pitch / 1.2))
            gains = [k**-tilt * rng.uniform(0.5, 1.5) for k in harmonics]
            syllable = sum(g * np.sin(k * phase + rng.uniform(0, 6)) for g, k in zip(gains, harmonics))
            begin = round(now * RATE)
            signal[begin : begin + size] += 0.1 * np.hanning(size) * syllable / np.std(syllable)
        now += size / RATE + 0.02
    return torch.from_numpy(signal).float()


VOICES = [(110, 0.5), (220, 1.5), (160, 3.0)]


def voices(seconds, *speaks, kinds=VOICES):
    """Sources (speakers, samples)."""
    return torch.stack([voice(*kinds[i], seconds, turn, seed=i) for i, turn in enumerate(speaks)])


def always(t):
    return True


class Oracle:
    """Gives the true sources of a window in any order and scale, with a little of each other's."""

    def __init__(self, sources, leak=0.05, scale=0.3, seed=0, swaps_within=False):
        self.sources, self.mix, self.rng = sources, sources.sum(0), np.random.default_rng(seed)
        self.leak, self.scale, self.swaps_within, self.calls = leak, scale, swaps_within, 0

    def start(self, mix):
        size = len(mix)
        for start in [*range(0, len(self.mix) - size, 12000), (len(self.mix) - size) // 8 * 8]:
            if torch.equal(self.mix[start : start + size], mix):
                return start
        raise AssertionError("not a window of the mixture")

    def __call__(self, mixtures):
        self.calls += 1
        found = []
        for mix in mixtures:
            start, n = self.start(mix), len(self.sources)
            mixing = torch.from_numpy(self.rng.uniform(0, self.leak, (n, n))).float().fill_diagonal_(1)
            gains = torch.from_numpy(np.exp(self.scale * self.rng.standard_normal(n))).float()
            estimates = (mixing @ self.sources[:, start : start + len(mix)]) * gains[:, None]
            estimates = estimates[self.rng.permutation(n).tolist()]
            if self.swaps_within and start == self.swaps_within:
                middle = len(mix) - RATE // 4  # of the overlap with the next window
                estimates = torch.cat([estimates[:, :middle], estimates[:, middle:].flip(0)], 1)
            found.append(estimates.T)
        return torch.stack(found)


def separate(sources, oracle=None, block=5000, **options):
    """Separate the mixture of some sources; the estimates (speakers, samples) in the order of the sources."""
    oracle = oracle or Oracle(sources)
    separator = LongSeparator(oracle, RATE, len(sources), **{**OPTIONS, **options})
    result, parts = separator(sources.sum(0)[None].split(block, 1))
    estimates = torch.cat(list(parts), 1)[0].T
    assert estimates.shape == sources.shape and result.samples == sources.shape[1]
    orders = itertools.permutations(range(len(sources)))
    best = min(orders, key=lambda order: (estimates[list(order)] - sources).square().sum().item())
    return result, estimates[list(best)]


def si_sdr(estimates, sources):
    scaled = sources * (estimates * sources).sum(-1, keepdim=True) / sources.square().sum(-1, keepdim=True)
    return 10 * torch.log10(scaled.square().sum(-1) / (estimates - scaled).square().sum(-1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("speakers", [2, 3])
def test_speakers_keep_their_order_and_level(speakers, seed):
    sources = voices(12.3, *[always] * speakers)
    result, estimates = separate(sources, Oracle(sources, seed=seed))
    assert result.windows == 8 and not result.doubtful and not result.notices
    assert all(junction.cue == "overlap" and junction.confidence > 0.98 for junction in result.junctions)
    assert [junction.seconds for junction in result.junctions] == [1.75, 3.25, 4.75, 6.25, 7.75, 9.25, 10.65]
    assert (si_sdr(estimates, sources) > 20).all()
    levels = 10 * torch.log10(estimates.square().sum(1) / sources.square().sum(1))
    assert (levels.abs() < 1).all()


def test_without_crosstalk_windows_cost_nothing():
    sources = voices(9.0, always, always)
    _, estimates = separate(sources, Oracle(sources, leak=0))
    assert (si_sdr(estimates, sources) > 45).all()


@pytest.mark.parametrize("seed", range(4))
def test_voices_tell_where_nobody_speaks_in_an_overlap(seed):
    def turn(t):
        return t % 6 < 4

    sources = voices(18.0, turn, turn)
    result, estimates = separate(sources, Oracle(sources, seed=seed))
    cues = [junction.cue for junction in result.junctions]
    assert cues.count("voices") >= 2 and "overlap" in cues and not result.doubtful
    assert (si_sdr(estimates, sources) > 15).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_voice_that_was_not_heard_for_long_is_known_again(seed):
    turns = (lambda t: t < 4 or 8 < t < 12 or t > 16), (lambda t: t < 4 or 13 < t < 16 or t > 18)
    sources = voices(20.0, *turns)
    result, estimates = separate(sources, Oracle(sources, seed=seed))
    assert not result.doubtful and (si_sdr(estimates, sources) > 15).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_second_speaker_may_begin_late_and_half_may_be_silent(seed):
    for turns in ((always, lambda t: t > 9), (lambda t: not 3 < t < 12, lambda t: not 3 < t < 12)):
        sources = voices(16.0, *turns)
        _, estimates = separate(sources, Oracle(sources, seed=seed))
        assert (si_sdr(estimates, sources) > 15).all()


def test_silence_before_and_after_is_no_doubt():
    sources = voices(14.0, lambda t: 5 < t < 9, lambda t: 5 < t < 9)
    result, estimates = separate(sources)
    assert not result.doubtful and (si_sdr(estimates, sources) > 15).all()
    assert {junction.cue for junction in result.junctions} == {"overlap", "silence"}
    assert not estimates[:, : 3 * RATE].any() and not estimates[:, 12 * RATE :].any()


def test_a_possible_swap_is_reported_with_its_place():
    """Two speakers with the same voice, and a pause: nothing can tell."""

    def turn(t):
        return not 4 < t < 8

    sources = voices(12.0, turn, turn, kinds=[VOICES[0]] * 2)
    result, _ = separate(sources)
    assert [junction.cue for junction in result.doubtful] == ["voices"]
    assert 7 < result.doubtful[0].seconds < 9 and 0.3 < result.doubtful[0].confidence < 0.9
    assert len(result.notices) == 1
    place = f"0:0{round(result.doubtful[0].seconds)}"
    assert f"may be swapped at these places (with the probability that they are not): {place}: " in result.notices[0]


def test_a_model_that_swaps_speakers_in_an_overlap_does_not_pass_for_sure():
    sources = voices(9.0, always, always, kinds=[VOICES[0]] * 2)
    result, _ = separate(sources, Oracle(sources, swaps_within=round(3.0 * RATE)))
    assert 4.75 in [junction.seconds for junction in result.doubtful]
    sure, _ = separate(sources)
    assert not sure.doubtful


def test_a_speaker_encoder_may_tell_voices_apart():
    """Both voices have one pitch; only the encoder knows the tone that marks the second."""

    def turn(t):
        return t % 6 < 4

    def encoder(wavs):
        tone = torch.cos(2 * math.pi * 3900 / RATE * torch.arange(wavs.shape[1]))
        marked = (wavs * tone).square().mean() > 0 and torch.fft.rfft(wavs).abs()[0]
        share = marked[round(0.96 * len(marked)) :].square().sum() / marked.square().sum()
        return torch.tensor([[1.0, 0.0] if share < 1e-3 else [0.0, 1.0]]).repeat(1, 40)

    sources = voices(12.0, turn, turn, kinds=[VOICES[0]] * 2)
    tone = 0.03 * torch.sin(2 * math.pi * 3900 / RATE * torch.arange(sources.shape[1]))
    sources[1] += tone * (sources[1].abs() > 0.01)
    for seed in range(3):
        result, estimates = separate(sources, Oracle(sources, seed=seed, leak=0.001), speaker_encoder=encoder)
        by_voices = [junction.confidence for junction in result.junctions if junction.cue == "voices"]
        assert by_voices and min(by_voices) > 0.9 and (si_sdr(estimates, sources) > 15).all()


# -------------------------------------------------------------------- windows


def filters(mix):
    """A linear separator that hears 5 samples around each, so that windows change nothing but their borders."""
    kernels = torch.tensor([[0.1, 0.2, 0.4, 0.0, 0.1], [0.0, 0.3, -0.4, 0.2, 0.1]])[:, None]
    return torch.nn.functional.conv1d(mix[:, None], kernels, padding=2).transpose(1, 2)


@pytest.mark.parametrize("hops", [0, 1, 2])
@pytest.mark.parametrize("more", [-1, 0, 1, 7, 8, 9, 4001])
def test_windows_and_the_whole_agree_at_any_length(hops, more):
    mix = torch.randn(1, 16000 + hops * 12000 + more)
    whole, parts = LongSeparator(filters, RATE, 2, **{**OPTIONS, "window": None})([mix])
    expected = torch.cat(list(parts), 1)
    found, parts = LongSeparator(filters, RATE, 2, **OPTIONS)(mix.split(3333, 1))
    estimates = torch.cat(list(parts), 1)
    assert whole.windows == 1 and found.windows == 1 + hops + (hops * 12000 + more > hops * 12000)
    if found.windows == 1:
        assert torch.equal(estimates, expected)
    assert si_sdr(estimates[0].T, expected[0].T).min() > 40


@pytest.mark.parametrize("options", [{"batch_size": 2}, {"batch_size": 5}, {"block": 100000}, {"block": 777}], ids=str)
def test_batches_and_blocks_change_nothing(options):
    sources = voices(9.7, always, always)
    result, expected = separate(sources, Oracle(sources))
    other, estimates = separate(sources, Oracle(sources), **options)
    assert relative_error(estimates, expected) < 1e-5 and other.junctions == result.junctions


def test_many_estimates_wait_in_a_file(monkeypatch, tmp_path):
    sources = voices(6.0, always, always)
    _, expected = separate(sources, Oracle(sources))
    monkeypatch.setattr(long_separation, "_IN_MEMORY", 1000)
    _, estimates = separate(sources, Oracle(sources), folder=tmp_path)
    assert torch.equal(estimates, expected) and not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        separate(sources, Oracle(sources), folder=tmp_path / "nowhere")


@pytest.mark.slow
def test_channels_have_one_order_of_speakers():
    """Each is separated on its own; that they hear the same speakers tells."""
    sources = voices(9.0, lambda t: t % 3 < 2, lambda t: t % 2 < 1.5)
    channels = [sources, sources * torch.tensor([[0.3], [1.5]]), sources.roll(40, 1)]
    for seed in range(2):
        oracles = [Oracle(channel, seed=10 * seed + i) for i, channel in enumerate(channels)]

        def run(mixtures, oracles=oracles):
            return torch.cat([oracle(mix[None]) for oracle, mix in zip(oracles, mixtures)])

        separator = LongSeparator(run, RATE, 2, **OPTIONS, batch_size=3)
        result, parts = separator(torch.stack([channel.sum(0) for channel in channels]).split(4000, 1))
        estimates = torch.cat(list(parts), 1).transpose(1, 2)
        errors = [
            [(part[order] - channel).square().sum().item() for order in ([0, 1], [1, 0])]
            for part, channel in zip(estimates, channels)
        ]
        assert len({int(np.argmin(error)) for error in errors}) == 1
        assert {junction.channel for junction in result.junctions} == {0, 1, 2}


def test_silence_is_not_separated():
    sources = voices(12.0, lambda t: t < 1, lambda t: t < 1)
    oracle = Oracle(sources)
    separate(sources, oracle)
    assert oracle.calls == 1


def test_progress_is_told():
    told, sources = [], voices(5.0, always, always)
    separator = LongSeparator(Oracle(sources), RATE, 2, **OPTIONS, progress=lambda *done: told.append(done))
    separator(sources.sum(0)[None].split(3000, 1), total=40000)
    assert told == [(2.0, 5.0), (3.5, 5.0), (5.0, 5.0)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overlap": 1.1}, "window is 2 s and the overlap 1.1 s: the overlap must be more than 0 and at most half"),
        ({"overlap": 0.0}, "the overlap 0 s"),
        ({"window": 0.0, "overlap": 0.0}, "The window is 0 s"),
        ({"window": -1.0}, "The window is -1 s"),
        ({"window": math.inf}, "The window is inf s"),
        ({"window": math.nan}, "The window is nan s"),
        ({"batch_size": 0}, "batch_size is 0, but must be a whole number of at least 1"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        LongSeparator(filters, RATE, 2, **{**OPTIONS, **options})


def test_short_recordings_are_refused():
    separator = LongSeparator(filters, RATE, 2, **OPTIONS)
    for blocks in ([], [torch.zeros(1, 0)], [torch.zeros(1, 15)]):
        with pytest.raises(ValueError, match="samples at 8000 Hz, but the separator needs at least 16"):
            separator(blocks)


def test_a_junction_is_told_with_its_time():
    assert str(Junction(3725.4, 0.655, "voices")) == "1:02:05: 66 % (voices)"
