"""What is known of the separation of a recording beside its estimates."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

DOUBTFUL = 0.9
"""Junctions with a lower confidence are reported."""


@dataclass(frozen=True)
class Junction:
    """A place where two windows were stitched.

    Arguments
    ---------
    seconds : float
        Where it is: the middle of the cross-fade.
    confidence : float
        Probability that the speakers are not swapped there.
    cue : str
        What tells: ``overlap``, the waveforms that both windows have in common; ``voices``, where nobody speaks in the
        overlap or the windows disagree; ``silence``, where no speech before or after could be swapped.
    channel : int
        The channel of the recording.

    Example
    -------
    >>> print(Junction(74.0, 0.62, "voices"))
    1:14: 62 % (voices)
    """

    seconds: float
    confidence: float
    cue: str
    channel: int = 0

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return f"{clock}: {100 * self.confidence:.0f} % ({self.cue})"


@dataclass
class LongSeparation:
    """What is known of the separation of a recording.

    Arguments
    ---------
    sample_rate : int
        Samples per second of the estimates.
    samples : int
        Samples that were separated, per channel.
    windows : int
        Windows that they were separated in.
    junctions : list of Junction
        Where windows were stitched.
    notices : list of str
        Sentences for the user.
    estimates : Tensor, optional
        (channels, samples, speakers), unless they were written to files.

    Example
    -------
    >>> LongSeparation(8000, 160000, 2, [Junction(10.0, 0.7, "voices")]).doubtful[0].confidence
    0.7
    """

    sample_rate: int
    samples: int
    windows: int
    junctions: list[Junction] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    estimates: Tensor | None = None

    @property
    def doubtful(self) -> list[Junction]:
        """The junctions where the speakers may be swapped."""
        return [junction for junction in self.junctions if junction.confidence < DOUBTFUL]

    def doubts(self) -> list[str]:
        """A sentence that names the places where the speakers may be swapped, if there are any."""
        if not self.doubtful:
            return []
        places = ", ".join(str(junction) for junction in self.doubtful[:10])
        more = f" and {len(self.doubtful) - 10} more" if len(self.doubtful) > 10 else ""
        return [
            f"The speakers may be swapped at these places (with the probability that they are not): {places}{more}."
        ]
