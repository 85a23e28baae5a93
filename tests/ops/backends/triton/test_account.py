"""Memory, launches and variants of a layer's kernels, by account: nothing is compiled or run.

All shapes: ``python benchmarks/gpu_memory.py``.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.kernel_resources import Launch, recorded
from benchmarks.memory_account import account_layer
from speechbrain_mamba.ops.backends.triton.layer_launch import layer_backward, layer_forward
from speechbrain_mamba.ops.backends.triton.layer_products import Packed
from speechbrain_mamba.ops.directions import Direction
from speechbrain_mamba.ops.kernel_backend import LayerShared
from tests.ops.cases import layer_inputs, mapped


@pytest.mark.parametrize("shape", [(8, 64_000, 512), (32, 2000, 2048), (8, 4000, 1024), (1, 64_000, 512)])
def test_a_backward_pass_takes_at_most_four_times_the_memory_of_its_input(shape):
    forward, backward, size, kept = account_layer(*shape)
    assert forward.peak < 4 * size
    assert backward.peak < 4 * size
    assert kept < 0.02 * size  # beside its inputs


def test_a_layer_makes_few_launches():
    forward, backward, *_ = account_layer(1, 4000, 512)
    assert len(forward.launched) <= 8, forward.launched
    assert len(backward.launched) <= 16, backward.launched


def test_a_frozen_layer_does_not_pay_for_its_gradients():
    _, trained, *_ = account_layer(1, 4000, 512)
    _, frozen, *_ = account_layer(1, 4000, 512, frozen=True)
    assert len(frozen.launched) <= len(trained.launched) - 4
    assert "sums_kernel" not in frozen.launched
    assert frozen.peak < trained.peak


def _variants(d_model: int, n_shapes: int) -> set[Launch]:
    """Variants of the kernels that training steps of a layer launch, over lengths and batches."""
    torch.manual_seed(0)
    channels, rank = 2 * d_model, -(-d_model // 16)
    inputs = layer_inputs(1, 1, channels, 16, rank)
    directions = [inputs["forward"], inputs["reverse"]]
    out = torch.zeros(d_model, channels)
    needs = [Direction(*(True,) * 7)] * 2, LayerShared(True, True, False, False)  # type: ignore[arg-type]
    memory = torch.zeros(3 * 700 * 2 * channels, dtype=torch.bfloat16)
    variants: set[Launch] = set()
    for i in range(n_shapes):
        batch = int(torch.randint(1, 4, ()))
        time = i + 1 if i < 40 else int(torch.randint(1, 700, ()))
        xz = memory[: batch * time * 2 * channels].view(batch, time, 2 * channels)
        shared = LayerShared(xz, out, None, torch.full((batch,), time))
        with recorded() as launches:
            output, kept = layer_forward(directions, shared, True)
            layer_backward(directions, shared, kept, output, needs=needs)
        variants.update(launches)
    assert {v.name for v in variants} >= {"pack_kernel", "gradients_kernel"}
    return variants


@pytest.mark.parametrize("d_model", [16, 18, 37])
def test_kernels_are_not_compiled_again_by_length(d_model, monkeypatch):
    """At most 12 variants over 200 shapes; of widths that 16, 2 and nothing divides."""
    monkeypatch.setattr(torch, "bmm", _no_product(torch.bmm))
    variants = _variants(d_model, 200)
    assert len(variants) <= 12, sorted(v.name for v in variants)


def _no_product(bmm):
    """The shape of a product, which is all that counts here."""

    def product(a, b, out=None):
        return a.new_zeros(a.shape[0], a.shape[1], b.shape[2]) if out is None else out

    return product


def test_weights_of_any_rank_lie_padded_and_aligned():
    inputs = layer_inputs(1, 1, 6, 5, 3)
    directions = [mapped(lambda t: t.detach(), inputs[name]) for name in ("forward", "reverse")]
    packed = Packed(directions[0], inputs["out_proj_weight"], torch.bfloat16)
    assert (packed.block_r, packed.block_n, packed.features) == (4, 8, 32)
    projected = torch.zeros(7, packed.features)
    for part, columns in zip(packed.columns(projected), (4, 8, 8)):
        assert part.shape[-1] == columns
        assert part.stride(0) % 16 == 0
        assert part.storage_offset() % 4 == 0  # words of four
