"""Training a combination, and what came of it."""

from dataclasses import dataclass

import torch

TOLERANCE = 1e-4
"""The largest difference between two ways to compute the same, relative to the largest value."""


@dataclass(frozen=True)
class Outcome:
    """What a combination did."""

    parameters: int
    """Parameters that were trained."""
    losses: list[float]
    """The loss before each step, on one batch."""
    untrained: list[str]
    """Parameters that the training left as they were."""
    padding: float
    """The largest relative difference between an example in a padded batch and alone."""
    pieces: float | None
    """The same between pieces of a stream, or single steps, and the whole; None where nothing is causal."""
    loaded: float
    """The same between the outputs of the model that was exported and loaded and of the trained one; infinite if their
    weights differ."""

    def faults(self):
        """What is wrong, a sentence for each."""
        found = []
        if not self.losses[-1] < self.losses[0]:
            found.append(f"the loss went from {self.losses[0]:.4g} to {self.losses[-1]:.4g}")
        if self.untrained:
            found.append(f"not trained: {', '.join(self.untrained)}")
        for name in ("padding", "pieces", "loaded"):
            value = getattr(self, name)
            if value is not None and not value <= TOLERANCE:
                found.append(f"{name} differs by {value:.2g}")
        return found


@dataclass(frozen=True)
class Training:
    """A training of some steps on one batch."""

    parameters: int
    losses: list[float]
    untrained: list[str]


def train(parameters, compute_loss, steps):
    """Some steps on one batch.

    Arguments
    ---------
    parameters : iterable of (str, Parameter)
        What is trained, by name.
    compute_loss : callable
        Computes the loss.
    steps : int
        How many steps.
    """
    parameters = dict(parameters)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = compute_loss()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    untrained = [name for name, parameter in parameters.items() if torch.equal(parameter, before[name])]
    return Training(sum(parameter.numel() for parameter in parameters.values()), losses, untrained)
