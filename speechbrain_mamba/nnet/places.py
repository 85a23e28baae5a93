"""Learned places: how far each frame of a memory and each target has come, and what a distance of places looks like.

Frames advance by learned amounts; keys and queries are rotated by their place at fixed frequencies, so that their
product depends on the distance of the two. A reader can so follow the memory in order beside looking for content, as
location-based attention does (Graves, arXiv 1308.0850, section 5). The rotation is that of RoFormer (arXiv 2104.09864).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.nnet.mamba import draw_step_bias
from speechbrain_mamba.ops import mask_frames


class PlaceAdvance(nn.Linear):
    """How far frames advance: the sum over time of the softplus of a linear map.

    Arguments
    ---------
    d_model : int
        Channels of the frames.
    paces : int, optional
        Number of places of a frame, such as one for each head: at first each has its own pace, between 0.1 and 1 per
        frame. Without, there is one place, which every frame advances by 1 at first.

    Example
    -------
    >>> advance = PlaceAdvance(8)
    >>> places, last = advance(torch.randn(2, 3, 8), torch.zeros(2, 1))
    >>> places[0, :, 0], last.shape
    (tensor([1., 2., 3.], grad_fn=<SelectBackward0>), torch.Size([2, 1]))
    """

    def __init__(self, d_model: int, paces: int | None = None) -> None:
        self.paces = paces
        super().__init__(d_model, paces or 1)

    def reset_parameters(self) -> None:
        """Draw the weights again."""
        super().reset_parameters()
        with torch.no_grad():
            if self.paces is None:
                self.weight.zero_()
                self.bias.fill_(math.log(math.expm1(1.0)))
            else:
                self.bias.copy_(draw_step_bias(self.paces, 0.1, 1.0, 1e-4))

    def forward(self, x: Tensor, before: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Go on from places.

        Arguments
        ---------
        x : Tensor
            Frames (batch, time, d_model).
        before : Tensor
            The places reached before (batch, paces), of the type that places are to have.
        lengths : Tensor, optional
            Valid frames, integers (batch,); later ones advance by nothing.

        Returns
        -------
        places : Tensor
            The places of the frames (batch, time, paces).
        last : Tensor
            Those of each example's last valid frame (batch, paces).
        """
        amounts = mask_frames(F.softplus(super().forward(x).to(before.dtype)), lengths)
        places = before[:, None] + amounts.cumsum(1)
        return places, places[:, -1] if x.shape[1] else before


def place_frequencies(width: int) -> Tensor:
    """The frequencies at which the pairs of ``width`` channels turn, in radians per place, (width // 2,): from one that
    tells neighbors apart to one that turns once in 2000 places.

    Example
    -------
    >>> place_frequencies(4)
    tensor([3.1416, 0.0031])
    """
    return math.pi * 1000 ** -torch.linspace(0, 1, width // 2)


def rotate_to_places(x: Tensor, places: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate the pairs of channels of (..., width) by places (...), channel i with channel i + width // 2.

    Example
    -------
    >>> keys = torch.ones(5, 4)
    >>> turned = rotate_to_places(keys, torch.arange(5.0), place_frequencies(4))
    >>> torch.allclose(turned[1] @ turned[3], turned[2] @ turned[4])  # the distance counts
    True
    """
    angles = places[..., None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
