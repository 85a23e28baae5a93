"""The mask network of Mamba-TasNet: single-path speech separation by bidirectional Mamba (arXiv 2407.09732)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.lobes.models.conv_tasnet import ChannelwiseLayerNorm
from speechbrain.nnet.CNN import Conv1d
from torch import Tensor, nn

from speechbrain_mamba.nnet.pieces import find_pieces, join_pieces


class MaskNet(nn.Module):
    """Estimate one mask per speaker over the encoded mixture.

    Channel-wise normalization of each frame, a 1x1 bottleneck, a sequence model, and a 1x1 convolution to the masks
    with a ReLU. Only the sequence model mixes frames: with a causal one the network is causal and has a state. The
    names of the arguments are those of SpeechBrain's ``conv_tasnet.MaskNet``.

    Arguments
    ---------
    N : int
        Channels of the encoded mixture.
    B : int
        Channels of the bottleneck and of the sequence model.
    C : int
        Number of speakers.
    mamba_net : torch.nn.Module
        The sequence model, called with (batch, time, B) and lengths, whose output is zero past the lengths, such as
        :class:`~speechbrain_mamba.nnet.blocks.MambaBlocksSequential`.

    Example
    -------
    >>> from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
    >>> masknet = MaskNet(N=16, B=8, C=2, mamba_net=MambaBlocksSequential(2, True, 8))
    >>> masknet(torch.rand(3, 16, 50), torch.tensor([50, 20, 1])).shape
    torch.Size([2, 3, 16, 50])
    """

    mamba_net: Any  # a module with the methods of MambaBlocksSequential
    in_pieces = True
    """Whether features and masks may be computed one after another, as :meth:`features` and :meth:`masks` do."""

    def __init__(self, N: int, B: int, C: int, mamba_net: nn.Module) -> None:
        super().__init__()
        self.num_spks = C
        self.layer_norm = ChannelwiseLayerNorm(N)
        self.bottleneck_conv1x1 = Conv1d(in_channels=N, out_channels=B, kernel_size=1, bias=False)
        self.mamba_net = mamba_net
        self.mask_conv1x1 = Conv1d(in_channels=B, out_channels=C * N, kernel_size=1, bias=False)

    def forward(
        self, mix_w: Tensor, lengths: Tensor | None = None, state: Any = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, Any]:
        """Estimate the masks of an encoded mixture.

        Arguments
        ---------
        mix_w : Tensor
            Encoded mixture (batch, N, time), whose frames are finite.
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); the masks are zero past them.
        state : tuple, optional
            State to start from, returned by :meth:`init_state` or an earlier call; for causal sequence models.
        return_state : bool
            Whether to return the state after each example's last valid frame too; for causal sequence models.

        Returns
        -------
        Tensor
            Masks (speakers, batch, N, time), not negative; and with ``return_state`` the state.

        Raises
        ------
        TypeError
            When a state is asked of a bidirectional sequence model.
        """
        if state is None and not return_state:
            pieces = find_pieces(self, mix_w, mix_w.shape[2]) if hasattr(self.mamba_net, "run_") else None
            if pieces is None:
                return self._masks(self.mamba_net(self._bottleneck(mix_w), lengths))
            return self._masks(self.features(lambda piece: mix_w[..., piece], pieces, lengths))
        x, state = self.mamba_net(self._bottleneck(mix_w), lengths, state=state, return_state=True)
        masks = self._masks(x)
        return (masks, state) if return_state else masks

    def _bottleneck(self, mix_w: Tensor) -> Tensor:
        return self.bottleneck_conv1x1(self.layer_norm(mix_w.transpose(1, 2)))

    def features(
        self, read: Callable[[slice], Tensor], pieces: Sequence[slice], lengths: Tensor | None = None
    ) -> Tensor:
        """The first part of :meth:`forward`, what the masks are made of, over pieces of frames.

        Arguments
        ---------
        read : callable
            Gives the encoded mixture (batch, N, frames) of a piece, once for each.
        pieces : sequence of slice
            Consecutive frames, from the first one to the last.
        lengths : Tensor, optional
            As in :meth:`forward`.

        Returns
        -------
        Tensor
            Output of the sequence model, (batch, time, B), zero past the lengths.
        """
        x = join_pieces(lambda piece: self._bottleneck(read(piece)), pieces)
        if hasattr(self.mamba_net, "run_"):
            return self.mamba_net.run_(x, pieces, lengths)
        return self.mamba_net(x, lengths)

    def masks(self, features: Tensor, piece: slice) -> Tensor:
        """The second part of :meth:`forward`: masks (speakers, batch, N, time) of some frames."""
        return self._masks(features[:, piece])

    def _masks(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        x = self.mask_conv1x1(x)  # zero past the lengths: it has no bias
        return F.relu(x).reshape(batch, time, self.num_spks, -1).permute(2, 0, 3, 1)

    def init_state(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        """The state before the first frame: that of the sequence model, which alone sees more than one frame.

        Raises
        ------
        TypeError
            When the sequence model is bidirectional.
        """
        return self.mamba_net.init_state(batch_size, device, dtype)

    def step(self, mix_w_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Estimate the masks (speakers, batch, N) of one frame (batch, N), from the state before it."""
        x = self.bottleneck_conv1x1(self.layer_norm(mix_w_t[:, None]))
        x_t, state = self.mamba_net.step(x[:, 0], state)
        return self._masks(x_t[:, None])[..., 0], state
