"""A synthetic stand-in for synthesis and recognition: strings of phonemes, each spoken as a run of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from speechbrain_mamba.dataio.prompted_batch import Padded

TOKENS_PER_PHONEME = 3
"""One that begins a phoneme, and two of which the others are drawn, as a codec's tokens vary within a phoneme."""


@dataclass(frozen=True)
class CopyingTask:
    """Phonemes drawn uniformly, each lasting a drawn number of frames.

    Arguments
    ---------
    n_phonemes : int
        Number of phonemes.
    durations : tuple of int
        The least and the most frames of a phoneme.
    """

    n_phonemes: int = 24
    durations: tuple[int, int] = (2, 4)

    @property
    def end(self) -> int:
        """The token after the last frame; one more begins a string."""
        return TOKENS_PER_PHONEME * self.n_phonemes

    def draw(self, count: int, phonemes: tuple[int, int], generator: torch.Generator) -> tuple[Padded, Padded, Tensor]:
        """Draw strings of a number of phonemes in a range. Returns the phonemes (count, phonemes), the tokens (count,
        frames + 1) with the end, and how many phonemes come before each target, (count, frames + 1): those up to the
        one that it begins or goes on with."""
        lengths = torch.randint(phonemes[0], phonemes[1] + 1, (count,), generator=generator)
        said = torch.randint(self.n_phonemes, (count, int(lengths.max())), generator=generator)
        low, high = self.durations
        lasting = torch.randint(low, high + 1, said.shape, generator=generator)
        lasting = lasting.masked_fill(torch.arange(said.shape[1]) >= lengths[:, None], 0)
        ends = lasting.cumsum(1)
        frames = ends[:, -1]
        steps = torch.arange(int(frames.max()) + 1).expand(count, -1).contiguous()
        at = torch.searchsorted(ends, steps, right=True)  # which phoneme each frame belongs to
        inside = at.clamp(max=said.shape[1] - 1)
        begins = steps == (ends - lasting).gather(1, inside)
        varied = 1 + torch.randint(TOKENS_PER_PHONEME - 1, steps.shape, generator=generator)
        tokens = TOKENS_PER_PHONEME * said.gather(1, inside) + varied.masked_fill(begins, 0)
        tokens = tokens.masked_fill(steps >= frames[:, None], self.end)
        return Padded(said, lengths), Padded(tokens, frames + 1), torch.minimum(at + 1, lengths[:, None])

    def heard(self, tokens: list[int]) -> list[int]:
        """The phonemes in some tokens: one begins with its first token, or where the phoneme changes."""
        found: list[int] = []
        for token in tokens:
            if token >= self.end:
                break
            phoneme, part = divmod(token, TOKENS_PER_PHONEME)
            if not part or not found or found[-1] != phoneme:
                found.append(phoneme)
        return found
