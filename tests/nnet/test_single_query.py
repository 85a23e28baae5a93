"""The type in which single frames attend."""

from __future__ import annotations

import pytest
import torch

from speechbrain_mamba.nnet import single_query
from speechbrain_mamba.nnet.attention import PrefixAttention, PrefixCrossAttention
from speechbrain_mamba.nnet.self_attention import SelfAttention
from tests.errors import relative_error

TIME = 12


def whole_and_steps(kind: str, x: torch.Tensor):
    """The output of the whole, and of its last frames step by step; and the types of the states' keys."""
    torch.manual_seed(0)
    lengths, prefix = torch.full((2,), TIME), torch.tensor([3, 4])
    half = lengths // 2
    if kind == "self":
        layer = SelfAttention(16, 4).eval()
        whole = layer(x)
        _, state = layer(x[:, : TIME // 2], return_state=True)
    elif kind == "prefix":
        layer = PrefixAttention(16, 4).eval()
        whole = layer(x, lengths, prefix)
        _, state = layer(x[:, : TIME // 2], half, prefix, return_state=True)
    else:
        layer = PrefixCrossAttention(16, 4).eval()
        whole = layer(x, prefix, 4)
        _, state = layer(x[:, : TIME // 2], prefix, 4, return_state=True)
    outputs, types = [], []
    for frame in range(TIME // 2, TIME):
        y, state = layer.step(x[:, frame], state)
        outputs.append(y)
        types.append(state["key"].dtype)
    return whole[:, TIME // 2 :], torch.stack(outputs, 1), set(types)


@pytest.mark.parametrize("kind", ["self", "prefix", "cross"])
@pytest.mark.parametrize(("flags", "kept"), [((), torch.float32), (("amx_bf16",), torch.bfloat16)])
@torch.no_grad()
def test_steps_under_autocast_attend_in_the_type_of_the_state(monkeypatch, kind, flags, kept):
    monkeypatch.setattr(single_query, "processor_flags", lambda: frozenset(flags))
    x = torch.randn(2, TIME, 16, generator=torch.Generator().manual_seed(1))
    right, *_ = whole_and_steps(kind, x)
    with torch.autocast("cpu", torch.bfloat16):
        whole, steps, types = whole_and_steps(kind, x)
    assert types == {kept}
    assert relative_error(whole, right) < 2e-2
    assert relative_error(steps, right) < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["self", "prefix", "cross"])
@torch.no_grad()
def test_other_types_stay(kind, dtype):
    x = torch.randn(2, TIME, 16)
    torch.set_default_dtype(dtype)
    try:
        whole, steps, types = whole_and_steps(kind, x.to(dtype))
    finally:
        torch.set_default_dtype(torch.float32)
    assert types == {dtype}
    assert relative_error(steps, whole) < 1e-5
