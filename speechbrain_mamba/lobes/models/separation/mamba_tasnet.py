"""The mask network of Mamba-TasNet: single-path speech separation by bidirectional Mamba (arXiv 2407.09732)."""

from __future__ import annotations

import torch.nn.functional as F
from speechbrain.lobes.models.conv_tasnet import ChannelwiseLayerNorm
from speechbrain.nnet.CNN import Conv1d
from torch import Tensor, nn


class MaskNet(nn.Module):
    """Estimate one mask per speaker over the encoded mixture.

    Channel-wise normalization, a 1x1 bottleneck, a sequence model, and a 1x1 convolution to the masks with a ReLU. The
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
    >>> import torch
    >>> from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
    >>> masknet = MaskNet(N=16, B=8, C=2, mamba_net=MambaBlocksSequential(2, True, 8))
    >>> masknet(torch.rand(3, 16, 50), torch.tensor([50, 20, 1])).shape
    torch.Size([2, 3, 16, 50])
    """

    def __init__(self, N: int, B: int, C: int, mamba_net: nn.Module) -> None:
        super().__init__()
        self.num_spks = C
        self.layer_norm = ChannelwiseLayerNorm(N)
        self.bottleneck_conv1x1 = Conv1d(in_channels=N, out_channels=B, kernel_size=1, bias=False)
        self.mamba_net = mamba_net
        self.mask_conv1x1 = Conv1d(in_channels=B, out_channels=C * N, kernel_size=1, bias=False)

    def forward(self, mix_w: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Estimate the masks.

        Arguments
        ---------
        mix_w : Tensor
            Encoded mixture (batch, N, time), whose frames past the length are finite.
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); the masks are zero past them.

        Returns
        -------
        Tensor
            Masks (speakers, batch, N, time), not negative.
        """
        batch, channels, time = mix_w.shape
        x = self.bottleneck_conv1x1(self.layer_norm(mix_w.transpose(1, 2)))
        x = self.mask_conv1x1(self.mamba_net(x, lengths))  # zero past the lengths: it has no bias
        masks = F.relu(x).reshape(batch, time, self.num_spks, channels)
        return masks.permute(2, 0, 3, 1)
