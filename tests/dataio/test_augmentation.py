"""Random changes of voices, rooms and microphones."""

import json
import math

import numpy as np
import pytest
import torch

from speechbrain_mamba.dataio.augmentation import (
    MixtureAugmentation,
    SpeechAugmentation,
    noise_below,
    reverberate,
    splice,
)

RATE = 8000
ALL = {"speeds": (80, 120), "splice": 1, "pause": 1, "room": 1, "response": 1, "band": 1, "noise": 1}


def changed(signal, seed=0, speed=100, samples=None, **options):
    augmentation = MixtureAugmentation(**options)
    samples = len(signal) if samples is None else samples
    return augmentation.change_source(signal, RATE, speed, samples, np.random.default_rng(seed))


def level_db(signal):
    return 10 * math.log10(float(signal.square().mean()))


def tone(frequency, samples=RATE):
    return torch.sin(2 * torch.pi * frequency * torch.arange(samples) / RATE)


def pitch(signal):
    return int(torch.fft.rfft(signal).abs().argmax()) * RATE / len(signal)


def test_the_same_draws_make_the_same_source_and_others_another():
    signal = torch.randn(1200)
    first = changed(signal, 3, samples=1000, **ALL)
    assert first.shape == (1000,) and first.isfinite().all()
    assert torch.equal(changed(signal, 3, samples=1000, **ALL), first)
    assert not torch.allclose(changed(signal, 4, samples=1000, **ALL), first)


def test_by_default_nothing_is_changed():
    signal = torch.randn(500)
    assert torch.equal(changed(signal), signal)
    rng = np.random.default_rng(0)
    assert MixtureAugmentation().draw_speed(rng) == 100
    assert MixtureAugmentation().draw_mixture_noise(signal, rng) is None


@pytest.mark.parametrize("name", ["splice", "pause", "room", "response", "band", "noise"])
def test_each_change_changes_the_source_as_often_as_it_should(name):
    signal = torch.randn(800)
    counts = {
        chance: sum(not torch.equal(changed(signal, seed, **{name: chance}), signal) for seed in range(80))
        for chance in (0.0, 0.3, 1.0)
    }
    assert counts[0.0] == 0 and counts[1.0] == 80
    assert 12 <= counts[0.3] <= 38


@pytest.mark.parametrize("speed", [80, 125])
def test_speed_shifts_the_pitch(speed):
    heard = changed(tone(1000, RATE * speed // 100), speed=speed, samples=RATE)
    assert len(heard) == RATE
    assert pitch(heard) == pytest.approx(10 * speed, abs=2)


def test_speeds_are_drawn_evenly_with_both_ends():
    rng = np.random.default_rng(0)
    speeds = [MixtureAugmentation(speeds=(98, 102)).draw_speed(rng) for _ in range(300)]
    assert set(speeds) == {98, 99, 100, 101, 102}
    assert min(map(speeds.count, set(speeds))) > 35


def test_splicing_keeps_all_pieces_at_levels_in_the_range():
    signal = torch.repeat_interleave(torch.arange(1.0, 41), 200)  # 25 ms each
    heard = splice(signal, RATE, (0.1, 0.2), 6.0, np.random.default_rng(1))
    assert heard.shape == signal.shape and not torch.allclose(heard, signal)
    gains = set()
    quiet = splice(torch.ones(RATE), RATE, (0.1, 0.2), 6.0, np.random.default_rng(1))
    runs, counts = torch.unique_consecutive(quiet, return_counts=True)
    for value, count in zip(runs.tolist(), counts.tolist()):
        if count > 400:  # the middle of a piece, between its fades
            gains.add(round(20 * math.log10(value), 3))
    assert 5 <= len(gains) <= 10
    assert -6 <= min(gains) < 0 < max(gains) <= 6
    assert float(splice(torch.ones(RATE), RATE, (0.1, 0.2), 0.0, np.random.default_rng(1)).max()) == 1


def test_a_pause_is_at_either_end_and_not_longer_than_its_share():
    places, lengths = set(), []
    for seed in range(60):
        heard = changed(torch.ones(1000), seed, pause=1, pause_share=0.3)
        first, last = (int(index) for index in torch.nonzero(heard)[[0, -1], 0])
        places.add((first > 0, last < 999))
        lengths.append(1000 - (last - first + 1))
    assert {(True, False), (False, True)} <= places
    assert (True, True) not in places
    assert max(lengths) <= 301 and max(lengths) > 200


def test_reverberation_decays_by_60_db_in_its_time():
    click = torch.zeros(RATE)
    click[0] = 1.0
    heard = reverberate(click, RATE, seconds=0.5, direct_db=0.0, rng=np.random.default_rng(0))
    assert float(heard[0]) == pytest.approx(1, abs=1e-4)
    early, late = heard[1:201], heard[2001:2201]  # a quarter of a second apart: 30 dB
    assert level_db(early) - level_db(late) == pytest.approx(30, abs=3)
    assert heard[4001:].abs().max() < 1e-4
    assert level_db(heard[1:]) + 10 * math.log10(RATE - 1) == pytest.approx(0, abs=0.1)


def test_a_response_has_gains_of_the_given_spread():
    click = torch.zeros(2048)
    click[1024] = 1.0
    gains = []
    for seed in range(40):
        spectrum = torch.fft.rfft(changed(click, seed, response=1, response_db=6.0)).abs()
        gains += [20 * math.log10(float(spectrum[int(f * 2048 / RATE)])) for f in (60.0, 3900.0)]
    assert sum(gains) / len(gains) == pytest.approx(0, abs=2)
    assert (sum(gain**2 for gain in gains) / len(gains)) ** 0.5 == pytest.approx(6, abs=1.5)


def test_a_band_takes_away_what_is_outside():
    low, middle, high = tone(40), tone(1000), tone(3800)
    band = {"band": 1, "band_low": (300, 300), "band_high": (2000, 2000)}
    kinds = set()
    for seed in range(30):
        attenuation = [level_db(t) - level_db(changed(t, seed, **band)) for t in (low, middle, high)]
        assert attenuation[1] == pytest.approx(0, abs=0.1)
        kinds.add((attenuation[0] > 20, attenuation[2] > 10))
        assert all(abs(value) < 1 or value > 10 for value in attenuation)
    assert kinds == {(True, False), (False, True), (True, True)}


def test_a_response_does_not_shift_the_signal_in_time():
    click = torch.zeros(1000)
    click[500] = 1.0
    heard = changed(click, response=1, band=1)
    assert int(heard.abs().argmax()) == 500


@pytest.mark.parametrize("level", [0.0, 20.0])
def test_noise_has_its_level_and_many_colors(level):
    signal, slopes = torch.full((RATE,), 0.1), []
    for seed in range(20):
        noise = noise_below(signal, level, np.random.default_rng(seed))
        assert level_db(noise) == pytest.approx(-20 - level, abs=0.01)
        power = torch.fft.rfft(noise).abs().square()
        slopes.append(10 * math.log10(float(power[400:800].mean() / power[1600:3200].mean())))  # two octaves
    assert min(slopes) > -1 and max(slopes) < 20
    assert max(slopes) - min(slopes) > 8
    silent = noise_below(torch.zeros(100), 20.0, np.random.default_rng(0))
    assert not silent.any()


def test_noise_is_below_the_source_by_a_level_in_the_range():
    levels = []
    for seed in range(40):
        signal = torch.ones(1000)
        noise = changed(signal, seed, noise=1, noise_db=(10, 30)) - signal
        levels.append(-level_db(noise))
    assert min(levels) + 0.1 >= 10 and max(levels) <= 30.1
    assert max(levels) - min(levels) > 12


def test_parameters_are_json():
    parameters = MixtureAugmentation(speeds=[90, 110], splice=0.5).parameters()
    assert json.loads(json.dumps(parameters)) == parameters
    assert parameters["speeds"] == [90, 110] and parameters["splice"] == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splice": 1.5}, "splice is 1.5, but must be a share in 0 to 1"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"pause_share": 2}, "pause_share is 2"),
        ({"speeds": (110, 90)}, r"speeds is \(110, 90\), but must be a lowest and a highest value"),
        ({"noise_db": (1, 2, 3)}, "noise_db"),
        ({"speeds": (0, 90)}, "must be above 0"),
        ({"room_seconds": (0, 1)}, "must be above 0"),
        ({"band_low": (0, 1)}, "must be above 0"),
        ({"splice_seconds": (0, 1)}, "must be above 0"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MixtureAugmentation(**options)


class TestSpeechAugmentation:
    def test_it_changes_signals_by_the_generator_of_torch(self):
        augment = SpeechAugmentation(MixtureAugmentation(speeds=(80, 120), noise=1.0), RATE)
        signal = torch.randn(1, 1000)
        torch.manual_seed(5)
        first, second = augment(signal), augment(signal)
        torch.manual_seed(5)
        assert torch.equal(augment(signal), first)
        assert first.shape != second.shape or not torch.equal(first, second)

    def test_the_length_follows_the_speed(self):
        lengths = {SpeechAugmentation(MixtureAugmentation(speeds=(s, s)), RATE)(torch.randn(2, 1000)).shape
                   for s in (80, 100, 125)}  # fmt: skip
        assert lengths == {(2, 1250), (2, 1000), (2, 800)}

    def test_the_fastest_speed_can_be_asked(self):
        assert max(SpeechAugmentation(MixtureAugmentation(speeds=(80, 120)), RATE).speeds) == 120

    def test_words_keep_their_order(self):
        with pytest.raises(ValueError, match="would change the order of the words"):
            SpeechAugmentation(MixtureAugmentation(splice=0.1), RATE)
