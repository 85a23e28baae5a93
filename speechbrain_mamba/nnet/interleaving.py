"""Targets read between the frames of a memory, each at its place in time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.ops import mask_frames


class Interleaved(nn.Module):
    """A causal mixer over memory and targets in the order of time, as in ELLA-V (arXiv 2401.07333), where each phoneme
    precedes its own codes.

    Each target comes after the frames of the memory that belong before it, as CTC or durations say: the mixer needs to
    carry the frames nearby only, not all of the memory. This is the project's order of prompts (text and speech of the
    prompt, text and speech after it), carried on to each target.

    Arguments
    ---------
    mixer : torch.nn.Module
        A causal mixer.

    Example
    -------
    >>> from speechbrain_mamba.nnet.mamba import Mamba
    >>> layer = Interleaved(Mamba(8))
    >>> places = torch.tensor([[2, 2, 9], [1, 5, 6]])  # of the memory, 2 frames come before the first target, ...
    >>> state = layer.consume(torch.randn(2, 10, 8), torch.tensor([10, 6]), places)
    >>> layer(torch.randn(2, 3, 8), state=state).shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer: Any = mixer

    def consume(self, memory: Tensor, lengths: Tensor | None = None, places: Tensor | None = None) -> dict[str, Any]:
        """Take the memory, which is read piece by piece with the targets.

        Arguments
        ---------
        memory : Tensor
            Memory (batch, memory time, d_model); values past the lengths may be anything.
        lengths : Tensor, optional
            Valid frames, integers (batch,).
        places : Tensor
            How many frames of the memory come before each target, integers (batch, targets) that do not decrease.
            Further targets come after all of the memory.

        Returns
        -------
        dict
            The state before the first target.

        Raises
        ------
        ValueError
            Without places.
        """
        if places is None:
            raise ValueError("Interleaved targets need their places in the memory: give places, of CTC or durations.")
        batch, time = memory.shape[:2]
        if lengths is None:
            lengths = torch.full((batch,), time, device=memory.device)
        lengths = lengths.long()  # SpeechBrain's searches have shorter integers
        memory = mask_frames(memory, lengths)
        if places.shape[1]:
            places = torch.minimum(places.clamp(min=0), lengths[:, None]).cummax(1).values
        start = torch.zeros_like(lengths)
        return {
            "mixer": self.mixer.init_state(batch, memory.device, product_dtype(memory)),
            "memory": memory,
            "lengths": lengths,
            "places": places,
            "heard": start,
            "read": start,
        }

    def _before(self, state: dict[str, Any], targets: int) -> Tensor:
        """How many frames of the memory come before the next targets, integers (batch, targets)."""
        places, known = state["places"], state["places"].shape[1]
        index = state["heard"][:, None] + torch.arange(targets, device=places.device)
        if not known:
            return state["lengths"][:, None].expand(index.shape)
        return torch.where(index < known, places.gather(1, index.clamp(max=known - 1)), state["lengths"][:, None])

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: Any = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Any]]:
        """Run over targets.

        Arguments
        ---------
        x : Tensor
            Targets (batch, time, d_model).
        lengths : Tensor, optional
            Valid targets, integers (batch,); those past them give zeros.
        state : dict
            State returned by :meth:`consume` or an earlier call.
        return_state : bool
            Whether to return the state after each example's last valid target too.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state.
        """
        batch, targets = x.shape[:2]
        if not targets:
            return (x, state) if return_state else x
        x = mask_frames(x, lengths)
        if lengths is None:
            lengths = torch.full((batch,), targets, device=x.device)
        before, memory = self._before(state, targets), state["memory"]
        none = lengths == 0
        last = before.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
        last = torch.where(none, state["read"], last)
        steps, frames = torch.arange(targets, device=x.device), torch.arange(memory.shape[1], device=x.device)
        # a target comes after the frames before it that are not read yet, and after the targets before it
        at = before - state["read"][:, None] + steps
        # a frame comes after the targets that have no need of it
        earlier = torch.searchsorted(before, frames.expand(batch, -1).contiguous(), right=True)
        frame_at = frames - state["read"][:, None] + torch.minimum(earlier, lengths[:, None])
        wanted = (frames >= state["read"][:, None]) & (frames < last[:, None])
        total = last - state["read"] + lengths
        time = int(total.max())
        whole = x.new_zeros(batch, time + 1, x.shape[2])  # what is not wanted goes to the extra frame
        at_or_out = at.masked_fill(steps >= lengths[:, None], time)
        whole = whole.scatter(1, _expand(at_or_out, x), x)
        whole = whole.scatter(1, _expand(frame_at.masked_fill(~wanted, time), memory), memory.to(x.dtype))
        y, mixer = self.mixer(whole[:, :-1], total, state=state["mixer"], return_state=True)
        y = mask_frames(y.gather(1, _expand(at_or_out.clamp(max=max(time - 1, 0)), y)), lengths)
        after = {**state, "mixer": mixer, "heard": state["heard"] + lengths, "read": last}
        return (y, after) if return_state else y

    def step(self, x_t: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Run over one target, (batch, d_model), and the frames of the memory before it. Returns the output and the
        state after it; the given one is not changed."""
        y, after = self(x_t[:, None], state=state, return_state=True)
        return y[:, 0], after


def product_dtype(x: Tensor) -> torch.dtype:
    """The type of matrix products with a tensor: that of autocast where it is on, so that states have it too."""
    device = x.device.type
    cast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if cast else x.dtype


def places_of_tokens(tokens: Tensor, blank: int, lengths: Tensor) -> Tensor:
    """Where the targets of a decoder belong, as the likeliest path of CTC says.

    The decoder's first input, the beginning of the sentence, has to predict the first token: it comes right before the
    frame at which the second token begins; and so on. Targets past the last one come after all frames.

    Arguments
    ---------
    tokens : Tensor
        The likeliest token, or the blank, of each frame, integers (batch, time).
    blank : int
        The blank.
    lengths : Tensor
        Valid frames, integers (batch,).

    Returns
    -------
    Tensor
        How many frames come before each target, integers (batch, the most tokens of an example).

    Example
    -------
    >>> places_of_tokens(torch.tensor([[0, 7, 7, 0, 5, 0, 5, 0]]), blank=0, lengths=torch.tensor([8]))
    tensor([[4, 6, 8]])
    """
    (batch, time), lengths = tokens.shape, lengths.long()
    tokens = tokens.masked_fill(torch.arange(time, device=tokens.device) >= lengths[:, None], blank)
    before = torch.cat([tokens.new_full((batch, 1), blank), tokens[:, :-1]], 1)
    begins = (tokens != blank) & (tokens != before)
    count = begins.cumsum(1)
    most = int(count.max()) if time else 0
    places = lengths[:, None].expand(-1, most + 1).contiguous()
    # the (k + 1)-th beginning is the place of target k; the first one is no target's, and goes to the extra column
    index = torch.where(begins & (count > 1), count - 2, most)
    frames = torch.arange(time, device=tokens.device).expand(batch, -1)
    return places.scatter(1, index, frames)[:, :most].contiguous()


def _expand(index: Tensor, values: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, values.shape[2])
