"""The layer of ConMamba: a Conformer layer with Mamba, or another mixer, in place of its attention ("Speech Slytherin",
arXiv 2407.09732)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from speechbrain.nnet.activations import Swish
from speechbrain.nnet.attention import PositionalwiseFeedForward
from speechbrain.nnet.normalization import LayerNorm
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionModule
from speechbrain_mamba.nnet.feed_forward import feed_forward
from speechbrain_mamba.nnet.mamba_layer import BidirectionalLayer
from speechbrain_mamba.nnet.mixers import plan_mixers
from speechbrain_mamba.utils._compat import has_forward_hooks


def is_bidirectional(mamba_config: Mapping[str, Any] | None, causal: bool) -> bool:
    """Whether an encoder's Mamba layers scan in both directions: ``bidirectional`` of its ``mamba_config``, by default
    ``not causal``. Raises a ValueError when a causal encoder is asked to be bidirectional."""
    bidirectional = (mamba_config or {}).get("bidirectional", not causal)
    if causal and bidirectional:
        raise ValueError(
            "causal is True, but mamba_config has bidirectional: True, which sees the future: leave one of them out."
        )
    return bidirectional


def _feed_forward_module(
    d_model: int, d_ffn: int, activation: Callable[[], nn.Module], dropout: float
) -> nn.Sequential:
    ffn = PositionalwiseFeedForward(d_ffn=d_ffn, input_size=d_model, dropout=dropout, activation=activation)
    return nn.Sequential(nn.LayerNorm(d_model), ffn, nn.Dropout(dropout))


def _run_feed_forward(module: nn.Sequential, x: Tensor) -> Tensor:
    if has_forward_hooks(module):
        return module(x)
    norm, network, dropout = module
    return dropout(feed_forward(network, x, norm))


class ConmambaEncoderLayer(nn.Module):
    """A Conformer layer with Mamba in place of attention: half a feed-forward module, Mamba, the convolution module,
    half a feed-forward module, normalization.

    Arguments
    ---------
    d_model, d_ffn : int
        Channels of input and output, and inside the feed-forward modules.
    kernel_size : int
        Width of the convolution, in frames.
    activation : type
        Module used in the feed-forward modules and after the convolution.
    bias, dropout : bool, float
        Whether the convolution module has biases, and the dropout rate.
    causal : bool
        Whether a frame sees no later frames.
    mamba_config : dict, optional
        ``bidirectional``, by default ``not causal``, and arguments of :class:`~speechbrain_mamba.nnet.mamba.Mamba`.
    mixer : torch.nn.Module, optional
        The layer that mixes frames, a Mamba layer with ``mamba_config`` by default. Whatever its kind, it is called
        ``mamba`` in the weights, as in published ones. Unless it is causal it takes a ``chunk_size``.

    Raises
    ------
    ValueError
        For a ``mamba_config`` that does not fit, or an even kernel.

    Example
    -------
    >>> import torch
    >>> layer = ConmambaEncoderLayer(d_model=8, d_ffn=16, kernel_size=5)
    >>> layer(torch.randn(2, 10, 8), lengths=torch.tensor([10, 4])).shape
    torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        d_model: int,
        d_ffn: int,
        kernel_size: int = 31,
        activation: Callable[[], nn.Module] = Swish,
        bias: bool = True,
        dropout: float = 0.0,
        causal: bool = False,
        mamba_config: Mapping[str, Any] | None = None,
        mixer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.bidirectional = is_bidirectional(mamba_config, causal)
        if mixer is None:
            plan = plan_mixers(1, d_model, not self.bidirectional, mamba_config=mamba_config, chunked=True)
            mixer = plan.build(0, masks_input=False)  # its input is finite: the encoder has masked its own
        self.mamba: Any = mixer
        self.convolution_module = ConvolutionModule(d_model, kernel_size, bias, activation, dropout, causal=causal)
        self.ffn_module1 = _feed_forward_module(d_model, d_ffn, activation, dropout)
        self.ffn_module2 = _feed_forward_module(d_model, d_ffn, activation, dropout)
        self.norm1: Any = LayerNorm(d_model)
        self.norm2 = LayerNorm(d_model)

    def absorb_norm(self) -> None:
        """Leave the normalization before the mixer to its input projection, if that was reduced: called when a model's
        weights were."""
        norm = getattr(self.norm1, "norm", self.norm1)  # SpeechBrain's module, or what replaced it in an earlier call
        if isinstance(self.mamba, BidirectionalLayer) and self.mamba.take_norm(norm):
            self.norm1 = nn.Identity()

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        chunk_size: int | None = None,
        state: dict[str, Any] | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, dict[str, Any]]:
        """Run the layer over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model); frames past the length must be finite.
        lengths : Tensor, optional
            Valid frames per example, integers (batch,).
        chunk_size : int, optional
            Frames per chunk: a frame sees later ones inside its own chunk only. No limit by default.
        state, return_state : dict, optional; bool
            State to resume from, returned by an earlier call that ended with a whole chunk, and whether to return that
            after each example's last valid frame too; for layers that are causal or run in chunks.

        Returns
        -------
        Tensor
            Output like ``x``, where frames past the length are undefined; and with ``return_state`` the state:
            ``mamba``, that of the Mamba layer, and ``conv``, that of the convolution module.
        """
        after: dict[str, Any] = {}

        def run(part: str, module: nn.Module, x: Tensor, **chunks: int | None) -> Tensor:
            before = None if state is None else state[part]
            y = module(x, lengths, state=before, return_state=return_state, **chunks)
            if return_state:
                y, after[part] = y
            return y

        chunks = {"chunk_size": chunk_size} if self.bidirectional else {}
        x = torch.add(x, _run_feed_forward(self.ffn_module1, x), alpha=0.5)
        x = x + run("mamba", self.mamba, self.norm1(x), **chunks)
        x = x + run("conv", self.convolution_module, x, chunk_size=chunk_size)
        x = self.norm2(torch.add(x, _run_feed_forward(self.ffn_module2, x), alpha=0.5))
        return (x, after) if return_state else x
