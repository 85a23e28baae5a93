"""The compiled module ``causal_conv1d_cuda`` of causal-conv1d 1.0 to 1.6, for copies of its interface file.

Arguments are positional, as in the extension, and their number tells its version. ``causal_conv1d.cpp_functions``,
there since 1.5.1, takes the arguments of 1.2 to 1.5.0. Tensors over time are (batch, channels, time).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from speechbrain_mamba.drop_in import convolution
from speechbrain_mamba.drop_in.convolution import causal_conv1d_fn


def _wrong_number(name: str, given: int, accepted: str) -> TypeError:
    return TypeError(f"causal_conv1d_cuda.{name} got {given} arguments, but causal-conv1d 1.0 to 1.6 takes {accepted}.")


@torch.no_grad()
def causal_conv1d_fwd(x: Tensor, weight: Tensor, bias: Tensor | None, *others: Any) -> Tensor | None:
    """The convolution.

    Arguments
    ---------
    x, weight, bias : Tensor
        As in :func:`speechbrain_mamba.drop_in.convolution.causal_conv1d_fn`.
    *others
        ``silu`` in 1.0; ``seq_idx, silu`` in 1.1; ``seq_idx, initial_states, final_states_out, silu`` in 1.2 to 1.5.0;
        ``seq_idx, initial_states, out, final_states_out, silu`` since 1.5.1, where ``out`` is written to.

    Returns
    -------
    Tensor or None
        The output; None since 1.5.1.

    Example
    -------
    >>> causal_conv1d_fwd(torch.ones(1, 1, 3), torch.tensor([[1.0, 2.0]]), None, False)
    tensor([[[2., 3., 3.]]])
    """
    seq_idx = initial = out = final = None
    if len(others) == 1:
        (silu,) = others
    elif len(others) == 2:
        seq_idx, silu = others
    elif len(others) == 4:
        seq_idx, initial, final, silu = others
    elif len(others) == 5:
        seq_idx, initial, out, final, silu = others
    else:
        raise _wrong_number("causal_conv1d_fwd", 3 + len(others), "4, 5, 7 or 8")
    activation = "silu" if silu else None
    y = causal_conv1d_fn(x, weight, bias, seq_idx, initial, final is not None, final, activation)
    y = y[0] if isinstance(y, tuple) else y
    if out is None:
        return y
    out.copy_(y)
    return None


def causal_conv1d_bwd(
    x: Tensor, weight: Tensor, bias: Tensor | None, dout: Tensor, *others: Any
) -> list[Tensor | None] | None:
    """The gradients of the convolution, which is run again for them.

    Arguments
    ---------
    x, weight, bias : Tensor
        As in :func:`causal_conv1d_fwd`.
    dout : Tensor
        Gradient of the output.
    *others
        ``dx, silu`` in 1.0; ``seq_idx, dx, silu`` in 1.1; ``seq_idx, initial_states, dfinal_states, dx,
        return_dinitial_states, silu`` in 1.2 to 1.5.0; ``seq_idx, initial_states, dfinal_states, dx, dweight, dbias,
        dinitial_states, silu`` since 1.5.1. ``dx`` may be None, or memory that is written to; so are, since 1.5.1, the
        other gradients, those of weight and bias being added.

    Returns
    -------
    list of Tensor or None
        Gradients of ``x``, ``weight``, ``bias`` (None without one) and since 1.2 of ``initial_states`` (None unless
        asked for); nothing since 1.5.1.
    """
    seq_idx = initial = dfinal = dweight = dbias = dinitial = None
    asked = False
    if len(others) == 2:
        dx, silu = others
    elif len(others) == 3:
        seq_idx, dx, silu = others
    elif len(others) == 6:
        seq_idx, initial, dfinal, dx, asked, silu = others
    elif len(others) == 8:
        seq_idx, initial, dfinal, dx, dweight, dbias, dinitial, silu = others
        asked = dinitial is not None
    else:
        raise _wrong_number("causal_conv1d_bwd", 4 + len(others), "6, 7, 10 or 12")
    given = (x, weight, bias, initial if asked else None)
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().requires_grad_() for t in given]
        start = leaves[3] if asked else initial
        y = causal_conv1d_fn(
            cast(Tensor, leaves[0]), cast(Tensor, leaves[1]), leaves[2], seq_idx, start, dfinal is not None, None,
            "silu" if silu else None,
        )  # fmt: skip
    outputs, weights = (list(y), [dout, dfinal]) if isinstance(y, tuple) else ([y], [dout])
    given_gradients = [cast(Tensor, t).to(output.dtype) for t, output in zip(weights, outputs)]
    found = iter(torch.autograd.grad(outputs, [t for t in leaves if t is not None], given_gradients))
    gradients = [None if t is None else next(found) for t in leaves]
    if dx is not None:
        gradients[0] = dx.copy_(gradients[0])
    if len(others) < 8:
        return gradients if len(others) == 6 else gradients[:3]
    dweight.add_(gradients[1])  # type: ignore[union-attr]
    if dbias is not None:
        dbias.add_(gradients[2])
    if dinitial is not None:
        dinitial.copy_(gradients[3])
    return None


@torch.no_grad()
def causal_conv1d_update(
    x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None, *others: Any
) -> Tensor | None:
    """Convolve the next frames. ``conv_state`` is changed in place.

    Arguments
    ---------
    x, conv_state, weight, bias : Tensor
        As in :func:`speechbrain_mamba.drop_in.convolution.causal_conv1d_update`.
    *others
        ``silu`` in 1.0 to 1.3; ``silu, cache_seqlens`` in 1.4; ``silu, cache_seqlens, conv_state_indices`` in 1.5.0;
        ``out, silu, cache_seqlens, conv_state_indices`` since 1.5.1, where ``out`` is written to.

    Returns
    -------
    Tensor or None
        The output; None since 1.5.1.
    """
    if not 1 <= len(others) <= 4:
        raise _wrong_number("causal_conv1d_update", 4 + len(others), "5, 6, 7 or 8")
    out, others = (others[0], others[1:]) if len(others) == 4 else (None, others)
    silu, *places = others
    y = convolution.causal_conv1d_update(x, conv_state, weight, bias, "silu" if silu else None, *places)
    if out is None:
        return y
    out.copy_(y)
    return None
