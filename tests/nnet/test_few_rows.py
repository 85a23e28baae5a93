"""Linear layers in steps: plain ones are computed, others are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from speechbrain_mamba.nnet.few_rows import feed_forward_step, linear_step
from speechbrain_mamba.nnet.mamba import Mamba


class Doubled(nn.Linear):
    """As an adapter or a quantized layer: with more to it than its weights."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_layers_that_are_more_than_their_weights_are_called():
    x, residual = torch.randn(2, 4), torch.randn(2, 4)
    hooked, seen = nn.Linear(4, 4), []
    hooked.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        y = linear_step(hooked, x, "gelu", residual)
        assert torch.equal(y, residual + nn.functional.gelu(seen[0]))
        doubled = Doubled(4, 4)
        torch.testing.assert_close(linear_step(doubled, x, "relu", residual), residual + doubled(x).relu())


@pytest.mark.parametrize("activation", [nn.GELU(), nn.GELU("tanh"), nn.ReLU(), nn.SiLU(), nn.Identity()])
def test_networks_agree_with_their_modules(activation):
    ffn = nn.Sequential(nn.Linear(5, 9), activation, nn.Dropout(0.5), nn.Linear(9, 5)).eval()
    x, residual = torch.randn(3, 5), torch.randn(3, 5)
    with torch.no_grad():
        torch.testing.assert_close(feed_forward_step(ffn, x, residual), residual + ffn(x), rtol=1e-5, atol=1e-6)
        ffn.train()
        torch.manual_seed(0)
        y = feed_forward_step(ffn, x, residual)
        torch.manual_seed(0)
        assert torch.equal(y, residual + ffn(x))  # dropout included


def test_a_step_calls_projections_that_were_replaced():
    torch.manual_seed(0)
    layer, x = Mamba(8, d_state=4).eval(), torch.randn(2, 3, 8)
    for name in ("in_proj", "out_proj"):
        old = getattr(layer, name)
        setattr(layer, name, Doubled(old.in_features, old.out_features, bias=False))
    with torch.no_grad():
        y, state = layer(x, return_state=True)[0], layer.init_state(2)
        for t in range(3):
            y_t, state = layer.step(x[:, t], state)
            torch.testing.assert_close(y_t, y[:, t], rtol=1e-4, atol=1e-5)
