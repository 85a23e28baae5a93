"""Draws tokens from the predictions of a language model."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 256
"""Random numbers of an example that are drawn at a time, for as many draws."""


class _ExampleNumbers:
    """Uniform random numbers of each example, which follow from its own seed and the number of the draw alone."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._numbers, self._next = torch.empty(0), 0

    def __len__(self) -> int:
        return len(self._generators)

    def draw(self, device: torch.device) -> Tensor:
        """The next number of each example, (batch, 1) in [0, 1)."""
        if self._next == len(self._numbers):  # a block at a time: a GPU is not to wait for each number
            rows = [torch.rand(_BLOCK, generator=one, dtype=torch.double) for one in self._generators]
            self._numbers, self._next = torch.stack(rows, 1)[..., None].to(device), 0
        self._next += 1
        return self._numbers[self._next - 1]


class TokenSampler:
    """Samples tokens with temperature, top-k and top-p, and avoids repetitions.

    Arguments
    ---------
    temperature : float
        Divides the logits; 0 takes the likeliest token.
    top_k : int
        Only this many of the likeliest tokens can be drawn; 0 for all.
    top_p : float
        Only the likeliest tokens that together have this probability can be drawn; 1 for all.
    repetition_window, repetition_ratio : int, float
        Repetition-aware sampling (VALL-E 2, arXiv 2406.05370, section 4.2): if the token drawn makes up more than
        ``repetition_ratio`` of ``repetition_window`` tokens before it, another one is drawn from all tokens; a window
        of 0 for never.
    seed : int, optional
        Seed of the sampler's own random numbers; without it torch's global ones are used.

    Raises
    ------
    ValueError
        For values out of range.

    Example
    -------
    >>> logits = torch.tensor([[0.0, 3.0, 1.0]])
    >>> TokenSampler(temperature=0)(logits)
    tensor([1])
    >>> TokenSampler(top_k=1)(logits)
    tensor([1])
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_window: int = 0,
        repetition_ratio: float = 0.1,
        seed: int | None = None,
    ) -> None:
        if temperature < 0 or top_k < 0 or not 0 < top_p <= 1 or repetition_window < 0:
            raise ValueError(
                f"temperature is {temperature}, top_k {top_k}, top_p {top_p} and repetition_window "
                f"{repetition_window}, but they must be at least 0, at least 0, in (0, 1] and at least 0."
            )
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.repetition_window, self.repetition_ratio, self.seed = repetition_window, repetition_ratio, seed
        self._generators: dict[torch.device, torch.Generator] = {}
        self._examples: _ExampleNumbers | None = None

    def for_examples(self, seeds: Sequence[int]) -> TokenSampler:
        """Make a sampler for one batch, whose examples have random numbers of their own.

        What is drawn for an example then follows from its seed and its logits, whatever else is in the batch, and
        neither torch's global random numbers nor those of this sampler are used.

        Arguments
        ---------
        seeds : sequence of int
            A seed for each example, from 0 to 2**63 - 1.

        Returns
        -------
        TokenSampler
            A sampler with the same settings, to be called once per step of the batch.

        Example
        -------
        >>> logits = torch.randn(1, 50).expand(3, 50)
        >>> tokens = TokenSampler().for_examples([7, 8, 7])(logits)
        >>> bool(tokens[0] == tokens[2]), bool(tokens[0] == TokenSampler().for_examples([7])(logits[:1]))
        (True, True)
        """
        sampler = copy.copy(self)
        sampler._generators, sampler._examples = {}, _ExampleNumbers(seeds)
        return sampler

    def restart(self) -> None:
        """Start the random numbers again from the seed."""
        self._generators.clear()

    def __call__(self, logits: Tensor, history: Tensor | None = None) -> Tensor:
        """Draw one token per example, integers (batch,), by logits (batch, tokens). ``history`` are the tokens drawn so
        far, integers (batch, time), for repetition-aware sampling.

        Raises a ValueError for an example whose logits have NaN, positive infinity, or no finite value.
        """
        broken = (~logits.amax(-1).isfinite()).nonzero()[:, 0].tolist()
        if broken:
            raise ValueError(
                f"The logits of {len(broken)} of {len(logits)} examples, such as number {broken[0]}, are not finite, "
                "so no token can be drawn: the model has diverged, or its precision is too low."
            )
        if self.temperature == 0:
            return logits.argmax(-1)
        probabilities = (logits.float() / self.temperature).softmax(-1)
        tokens = self._draw(self._nucleus(probabilities))
        if self.repetition_window and history is not None and history.shape[1]:
            # always drawn, so that the random numbers of an example do not depend on the others
            again = self._draw(probabilities)
            recent = history[:, -self.repetition_window :]
            repeated = (recent == tokens[:, None]).float().mean(1) > self.repetition_ratio
            tokens = torch.where(repeated, again, tokens)
        return tokens

    def _draw(self, probabilities: Tensor) -> Tensor:
        device = probabilities.device
        if self._examples is not None:
            if len(self._examples) != len(probabilities):
                raise ValueError(
                    f"There are {len(probabilities)} examples, but the sampler has seeds for {len(self._examples)}: "
                    "give each example one."
                )
            bounds = probabilities.double().cumsum(-1)
            chosen = torch.searchsorted(bounds, self._examples.draw(device) * bounds[:, -1:], right=True)
            # rounding may lead past the last token that can be drawn
            last = (bounds < bounds[:, -1:]).sum(-1, keepdim=True)
            return torch.minimum(chosen, last)[:, 0]
        generator = None
        if self.seed is not None:
            if device not in self._generators:
                self._generators[device] = torch.Generator(device).manual_seed(self.seed)
            generator = self._generators[device]
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]

    def _nucleus(self, probabilities: Tensor) -> Tensor:
        """Probabilities, not normalized, with zeros for unlikely tokens."""
        if self.top_k:
            least = probabilities.topk(min(self.top_k, probabilities.shape[-1]), -1).values[..., -1:]
            probabilities = probabilities.masked_fill(probabilities < least, 0)
        if self.top_p < 1:
            ordered, index = (probabilities / probabilities.sum(-1, keepdim=True)).sort(-1, descending=True)
            before = ordered.cumsum(-1) - ordered  # the token that reaches top_p is still in
            ordered = ordered.masked_fill(before >= self.top_p, 0)
            probabilities = torch.zeros_like(ordered).scatter(-1, index, ordered)
        return probabilities
