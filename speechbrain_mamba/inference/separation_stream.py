"""Separation of speech while it is being spoken."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.dataio.waveforms import as_float, check_finite
from speechbrain_mamba.lobes.models.separation.causal import CausalSeparator, SeparationState


class StreamingSeparator:
    """Separates a stream that comes in pieces of any size, with the estimates of the whole recording.

    The estimate of a sample comes as soon as no later sample can change it: ``latency`` samples behind the stream, one
    less than the encoder's kernel. All pieces together are as long as the stream, and equal to what
    ``SpeechSeparator.separate_batch`` gives for all of it, up to rounding; work and memory per piece do not grow. The
    estimates have the model's own scale, which it keeps: multiply those of each speaker by a number of your choice.

    Arguments
    ---------
    encoder, masknet, decoder : torch.nn.Module
        The parts of a separator whose mask network does not see the future (``bidirectional: False``).
    sample_rate : int
        Samples per second that it was trained for.
    context : context manager, optional
        What it computes in, such as autocast; entered again for each piece.

    Raises
    ------
    ValueError
        When the separator needs the whole recording.

    Example
    -------
    >>> from speechbrain_mamba.utils.hparams import load_hparams
    >>> hparams = load_hparams("hparams/separation/mini_mambatasnet_streaming.yaml")
    >>> stream = StreamingSeparator(**hparams["modules"], sample_rate=hparams["sample_rate"])
    >>> stream.latency, stream.add(torch.randn(1000)).shape, stream.finish().shape
    (31, torch.Size([1, 976, 2]), torch.Size([1, 24, 2]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        masknet: nn.Module,
        decoder: nn.Module,
        sample_rate: int,
        context: AbstractContextManager | None = None,
    ) -> None:
        self.model = CausalSeparator(encoder, masknet, decoder).eval()
        self.sample_rate = sample_rate
        self.context = nullcontext() if context is None else context
        self.reset()

    @property
    def latency(self) -> int:
        """Samples that must follow a sample, at most, before its estimate comes."""
        return self.model.latency

    def reset(self) -> None:
        """Forget the stream; the next piece begins another one."""
        self.state: SeparationState | None = None
        self.samples = 0

    @torch.no_grad()
    def add(self, piece: Any) -> Tensor:
        """Take the next piece.

        Arguments
        ---------
        piece : Tensor
            Samples (samples,), or (batch, samples) of several streams at once; any number of them, also none.

        Returns
        -------
        Tensor
            Estimates (batch, samples, speakers), those that are final now and were not before; there may be none.

        Raises
        ------
        ValueError, TypeError
            When the piece has other axes or another batch than those before, or holds NaN. The stream is unchanged.
        """
        piece = as_float(piece, "The piece")
        piece = piece[None] if piece.dim() == 1 else piece
        batch = len(piece) if self.state is None else len(self.state["samples"])
        if piece.dim() != 2 or len(piece) != batch or not batch:
            raise ValueError(
                f"The piece has shape {tuple(piece.shape)}, but must be (samples,) or (batch, samples), with the batch "
                "of the first piece."
            )
        check_finite(piece, "The piece")
        state = self.model.init_state(batch) if self.state is None else self.state
        with self.context:
            estimate, self.state = self.model(piece.to(state["samples"]), state)
        self.samples += piece.shape[1]
        return estimate.to(state["samples"].dtype)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the stream, and return the rest of its estimates (batch, samples, speakers). The next piece begins
        another stream.

        Raises
        ------
        ValueError
            When the whole stream was shorter than the encoder's kernel.
        """
        state, samples = self.state, self.samples
        self.reset()
        if state is None or samples < self.model.kernel:
            raise ValueError(f"The stream ended after {samples} samples, but needs at least {self.model.kernel}.")
        with self.context:
            return self.model.finish(state).to(state["samples"].dtype)
