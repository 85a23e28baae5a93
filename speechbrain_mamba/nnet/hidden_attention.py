"""Targets that read a memory out of a state: the hidden attention of a state space model as cross-attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.nnet.mamba import draw_step_bias
from speechbrain_mamba.nnet.mamba2 import GatedRMSNorm
from speechbrain_mamba.nnet.places import PlaceAdvance, place_frequencies, rotate_to_places
from speechbrain_mamba.ops import causal_conv1d, mask_frames


class HiddenAttention(nn.Module):
    r"""Cross-attention hidden in a scan: keys and values from the memory, queries from the targets (CrossMamba, arXiv
    2409.04803).

    With x, B and the step :math:`\Delta` from the memory, of M frames, and C from the targets, for each head

    .. math::

        H = \sum_{j \le M} \exp\Bigl(A \sum_{j < k \le M} \Delta_k\Bigr) \Delta_j\, x_j B_j^\top, \qquad y_t = H C_t

    the scan of Mamba-2 (arXiv 2405.21060), whose state after the last frame of the memory each target reads. The memory
    is consumed once, in linear time, and a target costs the same whatever the memory's length.

    With ``positions`` memory and targets have places (:mod:`~speechbrain_mamba.nnet.places`): each frame of the memory
    and each target advances by a learned amount, and pairs of states of B and C are rotated by their place, so that
    :math:`C_t \cdot B_j` depends on the distance of target t from frame j. A target's place is a sum over the targets
    before, which a step carries on. This addition is ours.

    Arguments
    ---------
    d_model : int
        Channels of memory and targets.
    d_state : int
        States per inner channel, even: the more, the more frames of the memory are told apart.
    expand : float
        Inner channels per channel of ``d_model``.
    headdim : int
        Channels of a head, which divide the inner channels.
    d_conv : int
        Width of the causal convolution over the memory.
    positions : bool
        Whether memory and targets have places.

    Raises
    ------
    ValueError
        For sizes that do not fit.

    Example
    -------
    >>> layer = HiddenAttention(8, d_state=16, headdim=8)
    >>> state = layer.consume(torch.randn(2, 10, 8), torch.tensor([10, 6]))
    >>> targets = torch.randn(2, 3, 8)
    >>> y = layer(targets, state=state)
    >>> first, state = layer.step(targets[:, 0], state)
    >>> torch.allclose(first, y[:, 0], atol=1e-5)
    True
    """

    frequencies: Tensor

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        expand: float = 1,
        headdim: int = 16,
        d_conv: int = 4,
        positions: bool = True,
    ) -> None:
        super().__init__()
        self.d_inner = int(expand * d_model)
        if self.d_inner % headdim:
            raise ValueError(
                f"HiddenAttention: {self.d_inner} inner channels do not divide into heads of headdim = {headdim}."
            )
        if d_state < 2 or d_state % 2:
            raise ValueError(f"HiddenAttention: d_state is {d_state}, but must be an even number of at least 2.")
        self.d_model, self.d_state, self.headdim, self.positions = d_model, d_state, headdim, positions
        self.nheads = self.d_inner // headdim
        self.conv_dim = self.d_inner + d_state
        self.memory_proj = nn.Linear(d_model, self.conv_dim + self.nheads, bias=False)  # x, B and the step
        self.conv1d = nn.Conv1d(self.conv_dim, self.conv_dim, d_conv, groups=self.conv_dim)
        self.target_proj = nn.Linear(d_model, self.d_inner + self.nheads * d_state)  # the gate, and C of each head
        self.A_log = nn.Parameter(torch.empty(self.nheads))
        self.dt_bias = nn.Parameter(torch.empty(self.nheads))
        self.memory_advance = PlaceAdvance(d_model) if positions else None
        self.target_advance = PlaceAdvance(d_model, self.nheads) if positions else None
        self.register_buffer("frequencies", place_frequencies(d_state), persistent=False)
        self.norm = GatedRMSNorm(self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the layer's own parameters, and what of its projections differs from their own initialization."""
        with torch.no_grad():
            self.A_log.uniform_(1, 16).log_()
            self.dt_bias.copy_(draw_step_bias(self.nheads, 0.001, 0.1, 1e-4))
            if self.memory_advance is None or self.target_advance is None:
                return
            self.memory_advance.reset_parameters()
            self.target_advance.reset_parameters()
            # B and C have a part that does not depend on content, by which places alone are compared
            assert self.conv1d.bias is not None
            self.conv1d.bias[self.d_inner :].fill_(1.0)
            self.target_proj.bias[self.d_inner :].fill_(1.0)

    def init_state(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """The state before any memory: zeros.

        Returns
        -------
        dict of str to Tensor
            ``conv`` (batch, channels, d_conv - 1), ``ssm`` (batch, heads, headdim, d_state), and the places reached,
            ``memory_place`` (batch, 1) and ``target_place`` (batch, heads).
        """
        weight = self.out_proj.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        wide = torch.promote_types(dtype, torch.float32)
        return {
            "conv": torch.zeros(batch_size, self.conv_dim, self.conv1d.kernel_size[0] - 1, device=device, dtype=dtype),
            "ssm": torch.zeros(batch_size, self.nheads, self.headdim, self.d_state, device=device, dtype=wide),
            "memory_place": torch.zeros(batch_size, 1, device=device, dtype=wide),
            "target_place": torch.zeros(batch_size, self.nheads, device=device, dtype=wide),
        }

    def consume(
        self, memory: Tensor, lengths: Tensor | None = None, state: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Read a memory, or more of it.

        Arguments
        ---------
        memory : Tensor
            Memory (batch, memory time, d_model); values past the lengths may be anything.
        lengths : Tensor, optional
            Valid frames, integers (batch,).
        state : dict, optional
            State returned by an earlier call, to go on from.

        Returns
        -------
        dict of str to Tensor
            The state before the next target, as :meth:`init_state` describes.
        """
        memory = mask_frames(memory, lengths)
        inputs, delta = self.memory_proj(memory).split([self.conv_dim, self.nheads], -1)
        if state is None:
            state = self.init_state(memory.shape[0], memory.device, inputs.dtype)
        if not memory.shape[1]:
            return state
        convolved, conv = causal_conv1d(
            inputs, self.conv1d.weight.squeeze(1), self.conv1d.bias, "silu", lengths=lengths,
            initial_state=state["conv"], return_final_state=True,
        )  # fmt: skip
        wide = state["ssm"].dtype
        x, B = convolved.to(wide).split([self.d_inner, self.d_state], -1)
        place = state["memory_place"]
        if self.memory_advance is not None:
            places, place = self.memory_advance(memory, place, lengths)
            B = rotate_to_places(B, places[..., 0], self.frequencies)
        with torch.autocast(memory.device.type, enabled=False):
            steps = mask_frames(F.softplus(delta.to(wide) + self.dt_bias.to(wide)), lengths)
            A = -torch.exp(self.A_log.to(wide))
            passed = steps.cumsum(1)
            weights = torch.exp(A * (passed[:, -1:] - passed)) * steps
            written = (x.unflatten(-1, (self.nheads, -1)) * weights[..., None]).permute(0, 2, 3, 1)
            ssm = torch.exp(A * passed[:, -1])[..., None, None] * state["ssm"] + written @ B[:, None]
        return {**state, "conv": conv, "ssm": ssm, "memory_place": place}

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: Any = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
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
        x = mask_frames(x, lengths)
        y, place = self._read(x, state, lengths)
        y = mask_frames(y, lengths)
        return (y, {**state, "target_place": place}) if return_state else y

    def step(self, x_t: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Run over one target, (batch, d_model). Returns the output and the state after it; the given one is not
        changed."""
        y, place = self._read(x_t[:, None], state, None)
        return y[:, 0], {**state, "target_place": place}

    def _read(self, x: Tensor, state: dict[str, Tensor], lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output for targets (batch, time, d_model), and the places after them (batch, heads)."""
        gate, queries = self.target_proj(x).split([self.d_inner, self.nheads * self.d_state], -1)
        ssm, place = state["ssm"], state["target_place"]
        C = queries.to(ssm.dtype).unflatten(-1, (self.nheads, self.d_state))
        if self.target_advance is not None:
            places, place = self.target_advance(x, place, lengths)
            C = rotate_to_places(C, places, self.frequencies)
        with torch.autocast(x.device.type, enabled=False):
            y = (C.transpose(1, 2) @ ssm.transpose(2, 3)).transpose(1, 2).flatten(2)
        return self.out_proj(self.norm(y.to(gate.dtype), gate)), place
