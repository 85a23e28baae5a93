"""Memory, launches and variants of a layer's kernels, by account: nothing is compiled or run.

All shapes: ``python benchmarks/gpu_memory.py``.
"""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("triton")

from host_time import idle_kernels, time_layer
from kernel_resources import Launch, recorded
from memory_account import account_layer
from speechbrain_mamba.ops.backends.triton import launch
from speechbrain_mamba.ops.backends.triton.layer_launch import layer_backward, layer_forward
from speechbrain_mamba.ops.backends.triton.layer_products import Packed
from speechbrain_mamba.ops.backends.triton.plan import LARGEST_BACKWARD, LARGEST_RANK, SMALL_BACKWARD_BYTES
from speechbrain_mamba.ops.directions import Direction
from speechbrain_mamba.ops.kernel_backend import LayerShared
from tests.ops.cases import layer_inputs, mapped

account = functools.lru_cache(account_layer)
"""The same shapes serve several tests."""
LONG = [(8, 64_000, 512), (32, 2000, 2048), (8, 4000, 1024), (1, 64_000, 512)]
SHORT = [(1, 500, 512), (1, 4000, 256), (1, 4000, 512), (1, 4000, 1024), (8, 4000, 512)]


@pytest.mark.parametrize("shape", LONG)
def test_a_long_input_takes_at_most_four_times_its_memory_or_little(shape):
    forward, backward, size, kept = account(*shape)
    assert forward.peak < LARGEST_BACKWARD * size
    assert backward.peak <= max(LARGEST_BACKWARD * size, SMALL_BACKWARD_BYTES)
    assert kept < 0.02 * size  # beside its inputs


@pytest.mark.parametrize("shape", SHORT)
def test_a_short_input_takes_little_memory(shape):
    _, backward, size, _ = account(*shape)
    assert backward.peak < max(LARGEST_BACKWARD * size, SMALL_BACKWARD_BYTES)
    assert backward.peak < 4 * size + (200 << 20)


@pytest.mark.parametrize("shape", LONG + SHORT)
def test_a_layer_makes_few_launches(shape):
    forward, backward, *_ = account(*shape)
    more = 1 if shape[2] > 32 * LARGEST_RANK else 0  # steps of a high rank are a product of a factor in half precision
    assert len(forward.launched) <= 8 + more, forward.launched
    assert len(backward.launched) <= 16 + 2 * more, backward.launched


def test_pythons_time_is_that_of_direct_launches():
    with torch.no_grad(), idle_kernels():
        rows = time_layer(32, rounds=1)
        assert [row["pass"] for row in rows] == ["forward", "forward of a training", "backward"]
        assert len(launch._compiled) >= 6 and all(row["us"] > 0 for row in rows)


def test_a_frozen_layer_does_not_pay_for_its_gradients():
    _, trained, *_ = account_layer(1, 4000, 512)
    _, frozen, *_ = account_layer(1, 4000, 512, frozen=True)
    assert len(frozen.launched) <= len(trained.launched) - 4
    assert "sums_kernel" not in frozen.launched
    assert frozen.peak <= trained.peak


def _variants(d_model: int, n_shapes: int) -> set[Launch]:
    """Variants of the kernels that training steps of a layer launch, over lengths and batches; no memory is needed."""
    torch.manual_seed(d_model)
    channels, rank = 2 * d_model, -(-d_model // 16)
    variants: set[Launch] = set()
    with torch.device("meta"):
        sizes = ((channels, 4), (channels,), (rank + 32, channels), (channels, rank), (channels,), (channels, 16),
                 (channels,))  # fmt: skip
        directions = [Direction(*map(torch.empty, sizes)) for _ in range(2)]
        out = torch.empty(d_model, channels)
        needs = [Direction(*(True,) * 7)] * 2, LayerShared(True, True, False, False)  # type: ignore[arg-type]
        for i in range(n_shapes):
            batch = int(torch.randint(1, 17, (), device="cpu"))
            time = i + 1 if i < 40 else int(torch.randint(1, 20_000, (), device="cpu"))
            xz = torch.empty(batch, time, 2 * channels, dtype=torch.bfloat16)
            shared = LayerShared(xz, out, None, torch.empty(batch, dtype=torch.long))
            with recorded() as launches:
                output, kept = layer_forward(directions, shared, True)
                layer_backward(directions, shared, kept, output, needs=needs)
            variants.update(launches)
    assert {v.name for v in variants} >= {"pack_kernel", "gradients_kernel"}
    return variants


@pytest.mark.parametrize("d_model", [16, 18, 37, 513])
@pytest.mark.slow
def test_kernels_are_not_compiled_again_by_length(d_model):
    """At most 12 variants over 200 shapes; of widths that 16, 2 and nothing divides, and of a high rank."""
    variants = _variants(d_model, 200)
    assert len(variants) <= 12, sorted(v.name for v in variants)


D_MODELS = [16, 17, 100, 144, 150, 255, 256, 288, 384, 500, 511, 512, 513, 768, 1000, 1023, 1024, 1536, 2047, 2048]


@pytest.mark.parametrize("d_model", D_MODELS)
def test_layers_of_any_width_have_few_kernels(d_model):
    """Among the first lengths are all remainders that decide on alignment."""
    variants = _variants(d_model, 17)
    assert len(variants) <= 12, sorted(v.name for v in variants)


def test_weights_of_any_rank_lie_padded_and_aligned():
    inputs = layer_inputs(1, 1, 6, 5, 3)
    directions = [mapped(lambda t: t.detach(), inputs[name]) for name in ("forward", "reverse")]
    packed = Packed.of(directions[0], inputs["out_proj_weight"], torch.bfloat16)
    assert (packed.block_r, packed.block_n, packed.features) == (4, 8, 32)
    projected = torch.zeros(7, packed.features)
    for part, columns in zip(packed.columns(projected), (4, 8, 8)):
        assert part.shape[-1] == columns
        assert part.stride(0) % 16 == 0
        assert part.storage_offset() % 4 == 0  # words of four
