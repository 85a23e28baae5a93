"""What only a GPU can show: memory layouts, few programs, devices, streams and ranks.

The layouts are read in Triton's interpreter too.
"""

from __future__ import annotations

import os

import pytest
import torch
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from speechbrain_mamba import ops
from speechbrain_mamba.nnet.mamba import BiMamba
from tests.ops.backends.triton.devices import DEVICE, RUNS, change_plans
from tests.ops.cases import check, layer_inputs, mapped, moved, named_tensors, run, scan_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not RUNS, reason="needs a CUDA GPU, or TRITON_INTERPRET=1 as test_interpreted.py sets it"),
]
TIME = 70 if DEVICE == "cuda" else 6
needs_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA GPU")


def shifted(x: torch.Tensor) -> torch.Tensor:
    """The same values, one element off what an allocation is aligned to."""
    storage = torch.empty(x.numel() + 1, dtype=x.dtype)
    return storage[1:].view(x.shape).copy_(x)


LAYOUTS = {
    "one element off": shifted,
    "every second frame": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "channels before time": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "every second channel": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "batch inside": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "a slice of odd width": lambda x: torch.cat([torch.zeros_like(x[..., :1]), x, x[..., :2]], -1)[..., 1:-2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_reads_any_layout(layout):
    torch.manual_seed(0)
    inputs = layer_inputs(2, TIME, 8, 4, 3)
    xz = inputs["xz"]
    inputs["xz"] = LAYOUTS[layout](xz)
    assert torch.equal(inputs["xz"], xz) and moved(inputs["xz"], DEVICE).stride() == inputs["xz"].stride()
    check(ops.bidirectional_mamba_inner, inputs, "triton", DEVICE, lengths=torch.tensor([TIME, 5]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_scan_reads_any_layout(layout):
    torch.manual_seed(0)
    inputs = scan_inputs(2, TIME, 8, 4)
    for name in ("u", "delta", "B", "C", "z"):
        inputs[name] = LAYOUTS[layout](inputs[name])
    check(ops.selective_scan, inputs, "triton", DEVICE, delta_softplus=True)


@needs_gpu
@pytest.mark.parametrize("lengths", [None, [700, 0, 333]])
def test_a_layer_whose_walk_back_has_one_program(lengths, monkeypatch):
    """It goes through all chunks and channels, and adds up their gradients of B and C."""
    change_plans(monkeypatch, BACKWARD_PROGRAMS_OF_A_PROCESSOR=0.001, SMALL_BACKWARD_BYTES=0)
    lengths = None if lengths is None else torch.tensor(lengths)
    check(ops.bidirectional_mamba_inner, layer_inputs(3, 700, 64, 16, 4), "triton", "cuda", lengths=lengths)


def layer_results(device: str, lengths: torch.Tensor | None) -> dict:
    """Output and gradients of one layer."""
    torch.manual_seed(0)
    with ops.use_backend("triton"):
        return run(ops.bidirectional_mamba_inner, layer_inputs(3, 300, 64, 16, 4), device, lengths=lengths)


@needs_gpu
def test_lengths_on_the_gpu_are_those_on_the_cpu():
    lengths = torch.tensor([300, 0, 77])
    on_gpu, on_cpu = (layer_results("cuda", given) for given in (lengths.cuda(), lengths))
    assert all(torch.equal(on_gpu[name], on_cpu[name]) for name in on_cpu)


@needs_gpu
def test_lengths_out_of_range_on_the_gpu_are_clamped():
    """Their values are not looked at on the CPU; they must not lead outside of the tensors."""
    wild, tame = (torch.tensor(values).cuda() for values in ([300 + 2**20, -5, 77], [300, 0, 77]))
    one, other = layer_results("cuda", wild), layer_results("cuda", tame)
    assert all(torch.equal(one[name], other[name]) for name in other)


@needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_another_gpu_than_the_current_one():
    assert torch.cuda.current_device() == 0
    check(ops.bidirectional_mamba_inner, layer_inputs(2, 300, 64, 16, 4), "triton", "cuda:1")


@needs_gpu
def test_a_side_stream_waits_for_its_own_work_only():
    """The input is written on the stream just before; kernels of another stream would read what was there before."""
    expected = layer_results("cuda", None)
    torch.manual_seed(0)
    inputs = layer_inputs(3, 300, 64, 16, 4)
    device = {name: mapped(torch.Tensor.cuda, value) for name, value in inputs.items()}
    xz, stream = torch.full_like(device.pop("xz"), torch.nan), torch.cuda.Stream()
    work = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream), ops.use_backend("triton"), torch.no_grad():
        for _ in range(20):
            work = work @ work / 64
        xz.copy_(inputs["xz"].cuda())
        y = ops.bidirectional_mamba_inner(xz, **device)
    stream.synchronize()
    torch.testing.assert_close(y, expected["0"])


def _train_rank(rank: int, ranks: int, port: int) -> None:
    """A step of a layer in DistributedDataParallel, whose gradients are those of the whole batch."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    layer, x = BiMamba(64).cuda(), torch.randn(2 * ranks, 200, 64)
    lengths = torch.tensor([200, 77] * ranks)
    mine = slice(2 * rank, 2 * rank + 2)
    with ops.use_backend("triton"):
        layer(x.cuda(), lengths.cuda()).square().mean().backward()
        expected = {name: p.grad.clone() for name, p in layer.named_parameters()}
        layer.zero_grad()
        wrapped = DistributedDataParallel(layer, device_ids=[rank])
        wrapped(x[mine].cuda(), lengths[mine].cuda()).square().mean().backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-3, atol=1e-4 * expected[name].abs().max().item())
    torch.distributed.destroy_process_group()


@needs_gpu
def test_distributed_training_has_the_gradients_of_the_whole_batch():
    ranks = min(2, torch.cuda.device_count())
    port = 29500 + os.getpid() % 1000
    torch.multiprocessing.spawn(_train_rank, (ranks, port), ranks)


def test_the_layouts_are_kept_on_the_way_to_the_device():
    """Else the tests above see dense tensors only."""
    for name, t in named_tensors(scan_inputs(2, 6, 5, 3)):
        copied = moved(t, DEVICE)
        assert copied.stride() == t.stride() and copied.storage_offset() == t.storage_offset(), name
        assert torch.equal(copied.cpu(), t)
