"""Random changes of voices, rooms and microphones, for mixtures that are drawn on the fly.

A separator that was trained on few voices and microphones learns these, not voices and microphones in general. Each
source is therefore played at a random speed, cut up and put together again, put into a room, heard through a random
frequency response, and given noise and silence. All of it is drawn from the generator of the mixture, so that a mixture
stays a pure function of (seed, epoch, index).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torchaudio.functional
from torch import Tensor

_KNOTS = 9  # of a random frequency response
_LOWEST = 60.0  # Hz; the first knot
_SLOPE = 24.0  # dB per octave beyond the corner of a band
_DEEPEST = -60.0  # dB; what a band leaves of the frequencies outside
_FADE = 0.005  # seconds; without it, cuts would click


@dataclass(frozen=True)
class MixtureAugmentation:
    """Random changes of the sources of a mixture, and noise over it.

    Everything is drawn for each source on its own. A probability of 0 switches a change off.

    Arguments
    ---------
    speeds : tuple of int
        Slowest and fastest speed in percent. Pitch and formants change with it, as if another person spoke.
    splice : float
        Probability of cutting a source into pieces of ``splice_seconds`` and joining them in another order, each up to
        ``splice_db`` louder or softer, as in strings of words that were recorded one by one.
    splice_seconds : tuple of float
        Shortest and longest piece.
    splice_db : float
        Largest change of a piece's level, up or down.
    pause : float
        Probability of a pause at the beginning or the end of a source.
    pause_share : float
        Longest pause, as a share of the source.
    room : float
        Probability of reverberation: noise with an exponential decay.
    room_seconds : tuple of float
        Shortest and longest time in which the reverberation decays by 60 dB.
    room_db : tuple of float
        Lowest and highest level of the direct sound over the reverberation.
    response : float
        Probability of a random frequency response, as of another microphone or place before it.
    response_db : float
        Standard deviation of its gains, at frequencies a bit less than an octave apart.
    band : float
        Probability of a limited band: of a high-pass, a low-pass or both, as of telephones and cheap microphones.
    band_low, band_high : tuple of float
        Lowest and highest corner frequency in Hz of the high-pass and the low-pass.
    noise : float
        Probability of noise in a source, as of its microphone, which belongs to the source.
    noise_db : tuple of float
        Lowest and highest level of the source over its noise.
    mixture_noise : float
        Probability of noise over the mixture, which belongs to no source.
    mixture_noise_db : tuple of float
        Lowest and highest level of the mixture over this noise.

    Raises
    ------
    ValueError
        When a probability is not in 0 to 1, or a range does not go up.

    Example
    -------
    >>> augmentation = MixtureAugmentation(speeds=(80, 120), response=1.0)
    >>> rng = np.random.default_rng(0)
    >>> speed = augmentation.draw_speed(rng)
    >>> augmentation.change_source(torch.randn(9600), 8000, speed, 8000, rng).shape
    torch.Size([8000])
    """

    speeds: tuple[int, int] = (100, 100)
    splice: float = 0.0
    splice_seconds: tuple[float, float] = (0.25, 0.8)
    splice_db: float = 4.0
    pause: float = 0.0
    pause_share: float = 0.4
    room: float = 0.0
    room_seconds: tuple[float, float] = (0.1, 0.5)
    room_db: tuple[float, float] = (0.0, 20.0)
    response: float = 0.0
    response_db: float = 5.0
    band: float = 0.0
    band_low: tuple[float, float] = (50.0, 400.0)
    band_high: tuple[float, float] = (1800.0, 4000.0)
    noise: float = 0.0
    noise_db: tuple[float, float] = (10.0, 45.0)
    mixture_noise: float = 0.0
    mixture_noise_db: tuple[float, float] = (10.0, 40.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, tuple):
                object.__setattr__(self, field.name, tuple(value))
                if len(value) != 2 or value[0] > value[1]:
                    raise ValueError(f"{field.name} is {value}, but must be a lowest and a highest value.")
            elif not field.name.endswith("_db") and not 0 <= value <= 1:
                raise ValueError(f"{field.name} is {value}, but must be a share in 0 to 1.")
        if self.speeds[0] < 1 or min(self.splice_seconds[0], self.room_seconds[0], self.band_low[0]) <= 0:
            raise ValueError("speeds, splice_seconds, room_seconds and band_low must be above 0.")

    def parameters(self) -> dict[str, Any]:
        """All settings, as values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def draw_speed(self, rng: np.random.Generator) -> int:
        """Draw the speed of a source in percent."""
        return int(rng.integers(self.speeds[0], self.speeds[1] + 1))

    def change_source(
        self, signal: Tensor, sample_rate: int, speed: int, samples: int, rng: np.random.Generator
    ) -> Tensor:
        """Change a source.

        Arguments
        ---------
        signal : Tensor
            Speech, (at least samples * speed / 100,).
        sample_rate : int
            Its samples per second.
        speed : int
            Its speed in percent, of :meth:`draw_speed`.
        samples : int
            Samples of the result.
        rng : numpy.random.Generator
            The source of all draws.

        Returns
        -------
        Tensor
            The changed source (samples,).
        """
        if speed != 100:
            signal = torchaudio.functional.resample(signal, speed, 100)
        signal = signal[:samples]
        if rng.random() < self.splice:
            signal = splice(signal, sample_rate, self.splice_seconds, self.splice_db, rng)
        if rng.random() < self.pause:
            signal = self._pause(signal, sample_rate, rng)
        if rng.random() < self.room:
            seconds, level = rng.uniform(*self.room_seconds), rng.uniform(*self.room_db)
            signal = reverberate(signal, sample_rate, seconds, level, rng)
        signal = self._filter(signal, sample_rate, rng)
        if rng.random() < self.noise:
            signal = signal + noise_below(signal, rng.uniform(*self.noise_db), rng)
        return signal

    def draw_mixture_noise(self, mixture: Tensor, rng: np.random.Generator) -> Tensor | None:
        """Draw the noise over a mixture (samples,), or None."""
        if rng.random() < self.mixture_noise:
            return noise_below(mixture, rng.uniform(*self.mixture_noise_db), rng)
        return None

    def _pause(self, signal: Tensor, sample_rate: int, rng: np.random.Generator) -> Tensor:
        length = int(rng.uniform(0, self.pause_share) * len(signal))
        kept = _fade(signal[: len(signal) - length], sample_rate)
        silence = signal.new_zeros(length)
        return torch.cat([silence, kept] if rng.random() < 0.5 else [kept, silence])

    def _filter(self, signal: Tensor, sample_rate: int, rng: np.random.Generator) -> Tensor:
        """Apply a random frequency response without a shift of time."""
        frequencies = np.fft.rfftfreq(2 * len(signal), 1 / sample_rate)
        gains = np.zeros(len(frequencies))
        octaves = np.log2(np.maximum(frequencies, _LOWEST))
        if rng.random() < self.response:
            knots = np.linspace(np.log2(_LOWEST), np.log2(sample_rate / 2), _KNOTS)
            gains += np.interp(octaves, knots, rng.normal(0, self.response_db, _KNOTS))
        if rng.random() < self.band:
            low, high, which = rng.uniform(*self.band_low), rng.uniform(*self.band_high), rng.integers(3)
            if which != 0:
                gains -= _SLOPE * np.maximum(0, np.log2(low) - octaves)
            if which != 1:
                gains -= _SLOPE * np.maximum(0, octaves - np.log2(high))
        if not gains.any():
            return signal
        factors = torch.from_numpy(10 ** (np.maximum(gains, _DEEPEST) / 20)).float()
        spectrum = torch.fft.rfft(signal, 2 * len(signal)) * factors
        return torch.fft.irfft(spectrum, 2 * len(signal))[: len(signal)]


def _fade(signal: Tensor, sample_rate: int) -> Tensor:
    """Fade a signal in and out."""
    length = min(round(_FADE * sample_rate), len(signal) // 2)
    if not length:
        return signal
    signal, ramp = signal.clone(), torch.linspace(0, 1, length + 1)[1:]
    signal[:length] *= ramp
    signal[-length:] *= ramp.flip(0)
    return signal


def splice(
    signal: Tensor, sample_rate: int, seconds: tuple[float, float], level_db: float, rng: np.random.Generator
) -> Tensor:
    """Cut a signal into pieces and join them in another order, each at a level of its own.

    Arguments
    ---------
    signal : Tensor
        The signal (samples,).
    sample_rate : int
        Its samples per second.
    seconds : tuple of float
        Shortest and longest piece; the last one is what remains.
    level_db : float
        Largest change of a piece's level, up or down.
    rng : numpy.random.Generator
        The source of all draws.

    Example
    -------
    >>> splice(torch.ones(8000), 8000, (0.2, 0.3), 6.0, np.random.default_rng(0)).shape
    torch.Size([8000])
    """
    pieces, start = [], 0
    while start < len(signal):
        end = start + max(1, round(rng.uniform(*seconds) * sample_rate))
        gain = 10 ** (rng.uniform(-level_db, level_db) / 20)
        pieces.append(_fade(signal[start:end], sample_rate) * gain)
        start = end
    return torch.cat([pieces[index] for index in rng.permutation(len(pieces))])


def reverberate(signal: Tensor, sample_rate: int, seconds: float, direct_db: float, rng: np.random.Generator) -> Tensor:
    """Add reverberation: the signal convolved with noise that decays exponentially.

    Arguments
    ---------
    signal : Tensor
        The signal (samples,).
    sample_rate : int
        Its samples per second.
    seconds : float
        The time in which the reverberation decays by 60 dB.
    direct_db : float
        Energy of the direct sound over that of the reverberation in the room's response.
    rng : numpy.random.Generator
        The source of all draws.

    Example
    -------
    >>> click = torch.zeros(4000)
    >>> click[0] = 1
    >>> heard = reverberate(click, 8000, seconds=0.3, direct_db=6.0, rng=np.random.default_rng(0))
    >>> round(float(10 * torch.log10(heard[0] ** 2 / heard[1:].square().sum())))
    6
    """
    length = max(2, round(seconds * sample_rate))
    decay = 10 ** (-3 * np.arange(1, length) / length)
    tail = rng.standard_normal(length - 1) * decay
    tail *= 10 ** (-direct_db / 20) / np.linalg.norm(tail)
    response = torch.from_numpy(np.concatenate([[1.0], tail])).float()
    size = len(signal) + length
    spectrum = torch.fft.rfft(signal, size) * torch.fft.rfft(response, size)
    return torch.fft.irfft(spectrum, size)[: len(signal)]


def noise_below(signal: Tensor, level_db: float, rng: np.random.Generator) -> Tensor:
    """Stationary noise of a random color, at a level below that of a signal.

    Arguments
    ---------
    signal : Tensor
        The signal (samples,).
    level_db : float
        The level of the signal over the noise, of the RMS.
    rng : numpy.random.Generator
        The source of all draws. The power of the noise falls by 0 to 9 dB per octave.

    Example
    -------
    >>> noise = noise_below(torch.ones(8000), 20.0, np.random.default_rng(0))
    >>> round(float(noise.square().mean().sqrt()), 4)
    0.1
    """
    white = torch.from_numpy(rng.standard_normal(len(signal))).float()
    spectrum = torch.fft.rfft(white)
    # The lowest bins are as loud as those of 1/64 of the band: a slope has no end at 0 Hz.
    position = torch.arange(len(spectrum)).clamp(min=max(1, len(spectrum) // 64))
    noise = torch.fft.irfft(spectrum * position ** -(rng.uniform(0, 3) / 2), len(signal))
    level = signal.square().mean().sqrt() * 10 ** (-level_db / 20)
    return noise * (level / noise.square().mean().sqrt())


class SpeechAugmentation:
    """The changes of :class:`MixtureAugmentation` for single signals, in place of a recognizer's ``speed_perturb``.

    The draws come from torch's generator, whose state a resumed run restores.

    Arguments
    ---------
    augmentation : MixtureAugmentation
        The changes; noise over mixtures is none of them. ``splice`` would change the order of words.
    sample_rate : int
        Samples per second of the signals.

    Raises
    ------
    ValueError
        When the augmentation splices.

    Example
    -------
    >>> augment = SpeechAugmentation(MixtureAugmentation(speeds=(50, 50), noise=1.0), sample_rate=8000)
    >>> augment(torch.randn(1, 8000)).shape
    torch.Size([1, 16000])
    """

    def __init__(self, augmentation: MixtureAugmentation, sample_rate: int) -> None:
        if augmentation.splice:
            raise ValueError("splice would change the order of the words of a transcript: set it to 0.")
        self.augmentation, self.sample_rate = augmentation, sample_rate
        self.speeds = list(augmentation.speeds)
        """Slowest and fastest speed in percent."""

    def __call__(self, signals: Tensor) -> Tensor:
        """Change signals (batch, samples), all at one speed; returns (batch, other samples)."""
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        speed = self.augmentation.draw_speed(rng)
        samples = max(1, signals.shape[1] * 100 // speed)
        change = self.augmentation.change_source
        return torch.stack([change(signal, self.sample_rate, speed, samples, rng) for signal in signals])
