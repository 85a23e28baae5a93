"""Residual blocks around Mamba layers or other mixers, and stacks of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechbrain_mamba.nnet.fused_step import residual_step
from speechbrain_mamba.nnet.mamba import MambaState
from speechbrain_mamba.nnet.mamba_layer import BidirectionalLayer
from speechbrain_mamba.nnet.mixers import bidirectional_form, plan_mixers
from speechbrain_mamba.nnet.pieces import find_groups, find_pieces, join_pieces, lengths_in
from speechbrain_mamba.ops import mask_frames
from speechbrain_mamba.ops.checks import check_lengths


class MambaBlock(nn.Module):
    """A pre-norm residual block: ``x + mixer(norm(x))``.

    Arguments
    ---------
    mixer : torch.nn.Module
        The layer inside, such as :class:`~speechbrain_mamba.nnet.mamba.Mamba`.
    norm : torch.nn.Module
        Normalization over the last axis.

    Example
    -------
    >>> from speechbrain_mamba.nnet.mamba import Mamba
    >>> block = MambaBlock(Mamba(8), nn.RMSNorm(8))
    >>> block(torch.randn(2, 10, 8)).shape
    torch.Size([2, 10, 8])
    """

    mixer: Any  # a module with the methods of Mamba

    def __init__(self, mixer: nn.Module, norm: nn.Module):
        super().__init__()
        self.mixer = mixer
        self.norm = norm

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: Any = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, Any]:
        """Run the block over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model), whose frames past the length are finite.
        lengths : Tensor, optional
            Valid frames per example, integers (batch,).
        state, return_state
            As in :meth:`Mamba.forward() <speechbrain_mamba.nnet.mamba.Mamba.forward>`, for mixers that have a state.

        Returns
        -------
        Tensor
            Output like ``x``; and with ``return_state`` the state.
        """
        if state is None and not return_state:
            return x + self.mixer(self.norm(x), lengths).to(x.dtype)
        y, state = self.mixer(self.norm(x), lengths, state=state, return_state=True)
        y = x + y.to(x.dtype)
        return (y, state) if return_state else y

    def update_(self, x: Tensor, pieces: Sequence[slice], lengths: Tensor | None = None) -> None:
        """Run the block in place, for inference: over pieces of frames if the mixer can.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model), which becomes the output.
        pieces : sequence of slice
            Consecutive frames.
        lengths : Tensor, optional
            Valid frames per example, integers (batch,).
        """
        if not hasattr(self.mixer, "outputs"):
            x += self.mixer(self.norm(x), lengths)
            return
        for piece, y in self.mixer.outputs(lambda piece: self.norm(x[:, piece]), pieces, lengths):
            x[:, piece] += y

    def absorb_norm(self) -> None:
        """Leave the normalization to the mixer's input projection, if that was reduced: called when a model's weights
        were."""
        if isinstance(self.mixer, BidirectionalLayer) and self.mixer.take_norm(self.norm):
            self.norm = nn.Identity()

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run the block over one frame, (batch, d_model)."""
        return residual_step(x_t, state, self.norm, self.mixer)


class MambaBlocksSequential(nn.Module):
    """A stack of Mamba blocks with a final normalization: the mask network of Mamba-TasNet, and the intra and inter
    models of DPMamba inside SpeechBrain's ``Dual_Path_Model`` (arXiv 2407.09732).

    Its module path is public: exported models and users' YAML files name it.

    Arguments
    ---------
    n_mamba : int
        Number of blocks.
    bidirectional : bool or str
        Whether a frame sees later ones; otherwise the stack is causal and has a state. A string is the form of layers
        that see both ways, see :func:`~speechbrain_mamba.nnet.mixers.build_mixer`; True means ``inner``, as published.
    d_model : int
        Channels of input and output.
    d_state : int
        States per inner channel.
    expand : int
        Inner channels per channel of ``d_model``.
    d_conv : int
        Width of the convolution, in frames.
    dt_rank : int or str
        Rank of the projection to the scan's step; ``auto`` is ceil(d_model / 16).
    conv_bias : bool
        Whether the convolution has a bias.
    bias : bool
        Whether the input and output projections have one.
    rms_norm : bool
        RMSNorm if true, else LayerNorm.
    norm_epsilon : float
        Added to the mean square (or variance) by the normalizations.
    residual_in_fp32 : bool
        Whether the sum of the residuals is kept in float32 (float64 for float64 inputs) even if the input has a
        shorter type.
    mixer : str
        ``mamba``, ``mamba2`` or ``attention``. Other mixers than Mamba get the inner width with which they have as many
        parameters as Mamba with the arguments above, see :func:`~speechbrain_mamba.nnet.mixers.plan_mixers`.
    attention_layers : list of int, str or None
        Layers whose mixer is replaced by attention, see :func:`~speechbrain_mamba.nnet.mixers.attention_layers`.
    attention_window : int, optional
        The frames that attention sees. All by default.
    mixer_config : dict, optional
        Options of each kind of mixers, such as ``{"mamba2": {"d_state": 128}}``.

    Raises
    ------
    ValueError
        For unknown choices, see :func:`~speechbrain_mamba.nnet.mixers.plan_mixers`.

    Example
    -------
    >>> stack = MambaBlocksSequential(n_mamba=2, bidirectional=True, d_model=8)
    >>> stack(torch.randn(2, 10, 8), lengths=torch.tensor([10, 4])).shape
    torch.Size([2, 10, 8])
    """

    layers: Any  # nn.ModuleList of MambaBlock

    def __init__(
        self,
        n_mamba: int,
        bidirectional: bool | str,
        d_model: int,
        d_state: int = 16,
        expand: float = 2,
        d_conv: int = 4,
        dt_rank: int | Literal["auto"] = "auto",
        conv_bias: bool = True,
        bias: bool = False,
        rms_norm: bool = True,
        norm_epsilon: float = 1e-5,
        residual_in_fp32: bool = True,
        mixer: str = "mamba",
        attention_layers: Sequence[int] | str | None = None,
        attention_window: int | None = None,
        mixer_config: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        mamba_config: dict[str, Any] = {
            "d_state": d_state, "expand": expand, "d_conv": d_conv, "dt_rank": dt_rank, "conv_bias": conv_bias,
            "bias": bias,
        }  # fmt: skip
        self._settings: dict[str, Any] = {
            "n_mamba": n_mamba, "bidirectional": bidirectional, "d_model": d_model, **mamba_config,
            "rms_norm": rms_norm, "norm_epsilon": norm_epsilon, "residual_in_fp32": residual_in_fp32,
            "mixer_config": mixer_config,
        }  # fmt: skip
        form = bidirectional_form(bidirectional)
        self.bidirectional = form is not None
        self.residual_in_fp32 = residual_in_fp32
        self.mixer_plan = plan_mixers(
            n_mamba, d_model, form is None, mixer=mixer, attention_layers=attention_layers,
            attention_window=attention_window, bidirectional=form, mamba_config=mamba_config, mixer_config=mixer_config,
        )  # fmt: skip
        norm = nn.RMSNorm if rms_norm else nn.LayerNorm
        self.layers = nn.ModuleList(
            MambaBlock(
                self.mixer_plan.build(
                    i,
                    out_proj_init_scale=1 / math.sqrt(n_mamba),
                    masks_input=False,  # the stack does
                ),
                norm(d_model, eps=norm_epsilon),
            )
            for i in range(n_mamba)
        )
        self.norm_f = norm(d_model, eps=norm_epsilon)

    def with_attention(self) -> MambaBlocksSequential:
        """Make a stack of the same size whose mixers are attention, with weights of its own."""
        return MambaBlocksSequential(**self._settings, mixer="attention")

    def _residual(self, x: Tensor) -> Tensor:
        return x.float() if self.residual_in_fp32 and x.dtype.itemsize < 4 else x

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        state: tuple[MambaState, ...] | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, tuple[MambaState, ...]]:
        """Run the stack over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model).
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); frames past them give zeros.
        state : tuple, optional
            State to start from, returned by :meth:`init_state` or an earlier call; for causal stacks.
        return_state : bool
            Whether to return the state after each example's last valid frame too; for causal stacks.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state.

        Raises
        ------
        TypeError
            When a state is asked of a bidirectional stack.
        """
        lengths = check_lengths("MambaBlocksSequential", lengths, x.shape[0], x.shape[1], x.device)
        if state is None and not return_state:
            groups = find_groups(self, x, x.shape[1])
            if groups is not None:
                return torch.cat([self(x[group], None if lengths is None else lengths[group]) for group in groups])
            pieces = find_pieces(self, x, x.shape[1])
            if pieces is not None:
                return self.run_(self._residual(x).clone(), pieces, lengths)
        x = self._residual(mask_frames(x, lengths))
        states: list[MambaState] = []
        if state is None and not return_state:
            for block in self.layers:
                x = block(x, lengths)
        else:
            self._check_causal()
            for block, block_state in zip(self.layers, state or [None] * len(self.layers)):
                x, block_state = block(x, lengths, state=block_state, return_state=True)
                states.append(block_state)
        y = mask_frames(self.norm_f(x), lengths)
        return (y, tuple(states)) if return_state else y

    def run_(self, x: Tensor, pieces: Sequence[slice], lengths: Tensor | None = None) -> Tensor:
        """Run the stack over a sequence whose memory it may use, in pieces of frames: for inference on long sequences.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model), which is overwritten.
        pieces : sequence of slice
            Consecutive frames, see :func:`~speechbrain_mamba.nnet.pieces.find_pieces`.
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); frames past them give zeros.

        Returns
        -------
        Tensor
            Output (batch, time, d_model), as from :meth:`forward`.
        """
        lengths = check_lengths("MambaBlocksSequential", lengths, x.shape[0], x.shape[1], x.device)
        x = self._residual(mask_frames(x, lengths))
        for block in self.layers:
            block.update_(x, pieces, lengths)
        return join_pieces(lambda piece: mask_frames(self.norm_f(x[:, piece]), lengths_in(piece, lengths)), pieces)

    def init_state(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> tuple[MambaState, ...]:
        """The state before the first frame; see :meth:`speechbrain_mamba.nnet.mamba.Mamba.init_state`.

        Returns
        -------
        tuple of dict
            One state per block.

        Raises
        ------
        TypeError
            When the stack is bidirectional.
        """
        self._check_causal()
        return tuple(block.mixer.init_state(batch_size, device, dtype) for block in self.layers)

    def step(self, x_t: Tensor, state: tuple[MambaState, ...]) -> tuple[Tensor, tuple[MambaState, ...]]:
        """Run a causal stack over one frame.

        Arguments
        ---------
        x_t : Tensor
            Input frame (batch, d_model).
        state : tuple
            State before the frame.

        Returns
        -------
        y_t : Tensor
            Output frame (batch, d_model).
        state : tuple
            State after the frame.

        Raises
        ------
        TypeError
            When the stack is bidirectional.
        """
        self._check_causal()
        x_t, states = self._residual(x_t), []
        for block, block_state in zip(self.layers, state):
            x_t, block_state = block.step(x_t, block_state)
            states.append(block_state)
        return self.norm_f(x_t), tuple(states)

    def _check_causal(self) -> None:
        if self.bidirectional:
            raise TypeError("A bidirectional stack has no state, as it sees the future: set bidirectional to False.")
