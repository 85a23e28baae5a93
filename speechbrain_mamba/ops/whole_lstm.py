"""An LSTM that stays one operation in exported programs: traced through, it is unrolled for one number of frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.ops.torch_ops import Operations


def _lstm(x: Tensor, weights: list[Tensor], layers: int) -> Tensor:
    state = x.new_zeros(layers, x.shape[1], weights[1].shape[1])
    return torch.lstm(x, (state, state), weights, True, layers, 0.0, False, False, False)[0]


_operations = Operations("programs", ("CompositeExplicitAutograd",))
_operations.register(
    "lstm",
    "(Tensor x, Tensor[] weights, int layers) -> Tensor",
    _lstm,
    lambda x, weights, layers: x.new_empty(*x.shape[:2], weights[1].shape[1]),
)


class WholeLSTM(nn.Module):
    """A trained LSTM for inference from zeros, whose input is (time, batch, channels).

    Arguments
    ---------
    lstm : torch.nn.LSTM
        The LSTM: of one direction, with biases, and no projections.

    Raises
    ------
    ValueError
        For another LSTM.

    Example
    -------
    >>> lstm, x = nn.LSTM(4, 4, num_layers=2), torch.randn(9, 1, 4)
    >>> bool(torch.allclose(WholeLSTM(lstm)(x)[0], lstm(x)[0], atol=1e-6))
    True
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        if lstm.bidirectional or lstm.proj_size or lstm.batch_first or not lstm.bias:
            raise ValueError(f"{lstm} cannot be exported: it must have one direction, biases and time first.")
        self.layers = lstm.num_layers
        self.weights = nn.ParameterList(
            getattr(lstm, f"{name}_l{layer}")
            for layer in range(lstm.num_layers)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """The output (time, batch, channels), and no state."""
        with torch.no_grad():
            return torch.ops.speechbrain_mamba_programs.lstm(x, list(self.weights), self.layers), None
