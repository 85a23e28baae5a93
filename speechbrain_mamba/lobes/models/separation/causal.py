"""Time-domain separation in pieces, by models that do not see the future, with the estimates of the whole mixture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.separation.masking import check_frames

SeparationState = dict[str, Any]
"""The state between two pieces, batch first: ``samples`` (batch, n), those that later frames need; ``masknet``, the
state of the mask network; ``tail`` (batch, speakers, kernel - stride), the decoded samples that later frames add to."""


def check_causal(masknet: nn.Module) -> None:
    """Check that a mask network can run in pieces.

    Arguments
    ---------
    masknet : torch.nn.Module
        The mask network of a separator.

    Raises
    ------
    ValueError
        When it sees the future.

    Example
    -------
    >>> from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet
    >>> from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
    >>> check_causal(MaskNet(16, 8, 2, MambaBlocksSequential(1, False, 8)))
    >>> check_causal(MaskNet(16, 8, 2, MambaBlocksSequential(1, True, 8)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: The separator cannot run on a stream: its layers see later frames. Train one with ...
    """
    if not hasattr(masknet, "init_state"):
        fault = f"its mask network, {type(masknet).__name__}, normalizes over the whole mixture and works across chunks"
    elif getattr(getattr(masknet, "mamba_net", None), "bidirectional", False):
        fault = "its layers see later frames"
    else:
        return
    raise ValueError(
        f"The separator cannot run on a stream: {fault}. Train one with bidirectional: False, such as "
        "hparams/separation/mini_mambatasnet_streaming.yaml."
    )


class CausalSeparator(nn.Module):
    """Encoder, causal mask network and decoder, run in pieces.

    The estimate of a sample is final when the last encoder frame that covers it is: after ``latency`` more samples. The
    estimates of all pieces, and those of :meth:`finish`, are together those of
    :func:`~speechbrain_mamba.lobes.models.separation.masking.separate`; work and memory per piece do not grow.

    Arguments
    ---------
    encoder, masknet, decoder : torch.nn.Module
        The parts of a separator, as in ``separate``; the mask network must be causal.

    Raises
    ------
    ValueError
        When the mask network sees the future, or encoder and decoder differ in kernel or stride.

    Example
    -------
    >>> from speechbrain.lobes.models.dual_path import Decoder, Encoder
    >>> from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet
    >>> from speechbrain_mamba.lobes.models.separation.masking import separate
    >>> from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
    >>> masknet = MaskNet(16, 8, 2, MambaBlocksSequential(2, False, 8))
    >>> parts = Encoder(16, 16), masknet, Decoder(16, 1, 16, stride=8, bias=False)
    >>> causal, mix = CausalSeparator(*parts), torch.randn(1, 403)
    >>> estimates, state = [], causal.init_state(1)
    >>> for piece in mix.split(100, 1):
    ...     estimate, state = causal(piece, state)
    ...     estimates.append(estimate)
    >>> estimates = torch.cat([*estimates, causal.finish(state)], 1)
    >>> estimates.shape, torch.allclose(estimates, separate(*parts, mix), atol=1e-5)
    (torch.Size([1, 403, 2]), True)
    """

    encoder: Any
    masknet: Any
    decoder: Any

    def __init__(self, encoder: nn.Module, masknet: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        check_frames(encoder, decoder)
        check_causal(masknet)
        self.encoder, self.masknet, self.decoder = encoder, masknet, decoder
        self.kernel, self.stride = self.encoder.conv1d.kernel_size[0], self.encoder.conv1d.stride[0]

    @property
    def latency(self) -> int:
        """Samples that must follow a sample, at most, before its estimate is final."""
        return self.kernel - 1

    def init_state(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SeparationState:
        """The state before the first sample; by default on the device and in the type of the encoder's weights."""
        weight = self.encoder.conv1d.weight
        options: Any = {"device": device or weight.device, "dtype": dtype or weight.dtype}
        return {
            "samples": torch.zeros(batch_size, 0, **options),
            "masknet": self.masknet.init_state(batch_size, **options),
            "tail": torch.zeros(batch_size, self.masknet.num_spks, self.kernel - self.stride, **options),
        }

    def forward(self, piece: Tensor, state: SeparationState) -> tuple[Tensor, SeparationState]:
        """Separate the next piece.

        Arguments
        ---------
        piece : Tensor
            The next samples (batch, n) of the mixtures, any number, also none.
        state : dict
            State before them, which is not changed.

        Returns
        -------
        estimate : Tensor
            The estimates (batch, m, speakers) that are final now and were not before, a multiple of the stride.
        state : dict
            State after the piece.
        """
        samples, tail = torch.cat([state["samples"], piece], 1), state["tail"]
        frames = max(0, (samples.shape[1] - self.kernel) // self.stride + 1)
        if not frames:
            empty = samples.new_zeros(len(samples), 0, tail.shape[1])
            return empty, {**state, "samples": samples}
        mix_w = self.encoder(samples[:, : (frames - 1) * self.stride + self.kernel])
        masks, masknet_state = self.masknet(mix_w, state=state["masknet"], return_state=True)
        decoded = self.decoder((masks * mix_w).flatten(0, 1)).reshape(*masks.shape[:2], -1).transpose(0, 1)
        ready, overlap = frames * self.stride, tail.shape[2]
        decoded = torch.cat([decoded[..., :overlap] + tail, decoded[..., overlap:]], -1)
        tail = decoded[..., ready:]
        if self.decoder.bias is not None:  # it comes with the frames that will be added, too
            tail = tail - self.decoder.bias
        state = {"samples": samples[:, ready:], "masknet": masknet_state, "tail": tail}
        return decoded[..., :ready].transpose(1, 2), state

    def finish(self, state: SeparationState) -> Tensor:
        """The rest of the estimates (batch, m, speakers) when no sample follows: as many as are missing to the samples
        given. Those that no frame covers are zero, as in the whole mixture."""
        rest, tail = state["samples"].shape[1], state["tail"].transpose(1, 2)
        if self.decoder.bias is not None and rest >= tail.shape[1]:
            tail = tail + self.decoder.bias
        return torch.nn.functional.pad(tail[:, :rest], (0, 0, 0, max(0, rest - tail.shape[1])))
