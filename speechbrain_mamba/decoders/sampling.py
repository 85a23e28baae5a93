"""Drawing tokens from what a language model predicts."""

from __future__ import annotations

import torch
from torch import Tensor


class TokenSampler:
    """Samples tokens with temperature, top-k, top-p, and a look at what was drawn lately.

    Arguments
    ---------
    temperature : float
        Divides the logits; 0 takes the likeliest token.
    top_k : int
        Only the so many likeliest tokens are drawn; 0 for all.
    top_p : float
        Only the likeliest tokens that together have this probability are drawn; 1 for all.
    repetition_window : int
        Repetition-aware sampling (VALL-E 2, arXiv 2406.05370, section 4.2): where the token drawn makes up more than
        ``repetition_ratio`` of the last so many, it is drawn again from all tokens; 0 for never.
    repetition_ratio : float
        See there.
    seed : int, optional
        Of the sampler's own random numbers; without it torch's global ones are used.

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

    def __init__(self, temperature=1.0, top_k=0, top_p=1.0, repetition_window=0, repetition_ratio=0.1, seed=None):
        if temperature < 0 or top_k < 0 or not 0 < top_p <= 1 or repetition_window < 0:
            raise ValueError(
                f"temperature is {temperature}, top_k {top_k}, top_p {top_p} and repetition_window "
                f"{repetition_window}, but they must be at least 0, at least 0, in (0, 1] and at least 0."
            )
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.repetition_window, self.repetition_ratio, self.seed = repetition_window, repetition_ratio, seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def restart(self):
        """Let the random numbers begin anew from the seed."""
        self._generators.clear()

    def __call__(self, logits, history=None):
        """Draw one token per example.

        Arguments
        ---------
        logits : Tensor
            Logits (batch, tokens).
        history : Tensor, optional
            Tokens drawn so far, integers (batch, time), for repetition-aware sampling.

        Returns
        -------
        Tensor
            Tokens, integers (batch,).
        """
        if self.temperature == 0:
            return logits.argmax(-1)
        probabilities = (logits.float() / self.temperature).softmax(-1)
        tokens = self._draw(self._nucleus(probabilities))
        if self.repetition_window and history is not None and history.shape[1]:
            # drawn in any case, so that the random numbers of an example do not depend on the others
            again = self._draw(probabilities)
            recent = history[:, -self.repetition_window :]
            repeated = (recent == tokens[:, None]).float().mean(1) > self.repetition_ratio
            tokens = torch.where(repeated, again, tokens)
        return tokens

    def _draw(self, probabilities: Tensor) -> Tensor:
        device = probabilities.device
        generator = None
        if self.seed is not None:
            if device not in self._generators:
                self._generators[device] = torch.Generator(device).manual_seed(self.seed)
            generator = self._generators[device]
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]

    def _nucleus(self, probabilities: Tensor) -> Tensor:
        """Probabilities, not normalised, of which those of unlikely tokens are zero."""
        if self.top_k:
            least = probabilities.topk(min(self.top_k, probabilities.shape[-1]), -1).values[..., -1:]
            probabilities = probabilities.masked_fill(probabilities < least, 0)
        if self.top_p < 1:
            ordered, index = (probabilities / probabilities.sum(-1, keepdim=True)).sort(-1, descending=True)
            before = ordered.cumsum(-1) - ordered  # the token that reaches top_p is still in
            ordered = ordered.masked_fill(before >= self.top_p, 0)
            probabilities = torch.zeros_like(ordered).scatter(-1, index, ordered)
        return probabilities
