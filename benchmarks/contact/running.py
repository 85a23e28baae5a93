"""Steps: ways of running a layer that trainings and servers use: streams, graphs, compilers, other GPUs, long files."""

from __future__ import annotations

from typing import Any

import torch

from contact.context import Context, Skip, largest_error, results_of, step
from speechbrain_mamba.nnet.mamba import BiMamba
from speechbrain_mamba.ops import selective_scan, use_backend
from speechbrain_mamba.utils.cuda_graphs import GraphedFunction


def layer_and_input(device: torch.device) -> tuple[BiMamba, torch.Tensor]:
    """A layer and two sequences."""
    torch.manual_seed(0)
    return BiMamba(64).to(device), torch.randn(2, 300, 64, device=device)


@step("nothing waits")
def nothing_waits(context: Context) -> None:
    """Forward and backward, with lengths on the CPU, while CUDA raises an error for what waits."""
    context.need_gpu()
    layer, x = layer_and_input(context.device)
    lengths = torch.tensor([300, 77])
    results_of(layer, x, lengths, context.backend, torch.bfloat16)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results_of(layer, x, lengths, context.backend, torch.bfloat16)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@step("CUDA graph")
def cuda_graph(context: Context) -> None:
    """A layer that is captured and replayed."""
    context.need_gpu()
    layer, x = layer_and_input(context.device)
    graphed = GraphedFunction(layer)
    with use_backend(context.backend), torch.no_grad():
        for _ in range(3):
            x = torch.randn_like(x)
            if not torch.equal(graphed(x), layer(x)):
                raise ValueError("A replay gives other bits.")
    if graphed.failure:
        raise ValueError(graphed.failure)


@step("side stream")
def side_stream(context: Context) -> None:
    """A layer on another stream than the one of its allocation, whose input is written just before."""
    context.need_gpu()
    layer, x = layer_and_input(context.device)
    with use_backend(context.backend), torch.no_grad():
        expected = layer(x)
        late, stream, work = torch.full_like(x, torch.nan), torch.cuda.Stream(), torch.randn(4096, 4096).cuda()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            for _ in range(20):
                work = work @ work / 64
            late.copy_(x)
            y = layer(late)
        stream.synchronize()
    if not torch.equal(y, expected):
        raise ValueError("The output differs from that of the default stream.")


@step("torch.compile", seconds=120)
def inductor(context: Context) -> dict[str, Any]:
    """A layer compiled as a whole."""
    layer, x = layer_and_input(context.device)
    expected = results_of(layer, x, None, context.backend, torch.float32)
    with use_backend(context.backend):
        # on the CPU, inductor would need a C++ compiler
        compiled = torch.compile(layer, fullgraph=True, backend="inductor" if context.is_gpu else "aot_eager")
        y = compiled(x)
    error, _ = largest_error({"output": y.detach()}, {"output": expected["output"]}, torch.float32)
    return {"error": error}


@step("another GPU")
def another_gpu(context: Context) -> dict[str, Any]:
    """Tensors on cuda:1 while cuda:0 is the current one."""
    context.need_gpu()
    if torch.cuda.device_count() < 2:
        raise Skip("needs two GPUs")
    layer, x = layer_and_input(torch.device("cuda:0"))
    expected = results_of(layer, x, None, context.backend, torch.float32)
    other = results_of(layer.to("cuda:1"), x.to("cuda:1"), None, context.backend, torch.float32)
    return {"error": largest_error(other, expected, torch.float32)[0]}


@step("2^20 frames", seconds=90)
def a_million_frames(context: Context) -> dict[str, Any]:
    """Offsets beyond 2^31 elements, and the gradient of the first frame through a million others."""
    context.need_gpu()
    time, channels = 2**20, 2080
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        raise Skip("needs 40 GiB of GPU memory")
    u = torch.ones(1, time, channels, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    delta, maps = torch.full_like(u.detach(), 1e-6), torch.ones(1, time, 1, device="cuda")
    with use_backend(context.backend):
        y = selective_scan(u, delta, torch.zeros(channels, 1, device="cuda"), maps, maps)
        y[:, -1].sum().backward()
    expected = torch.tensor(1e-6, dtype=torch.bfloat16).item()
    off = [
        abs(y[0, -1].float().mean().item() / (time * expected) - 1),
        abs(u.grad[0, 0].float().mean().item() / expected - 1),
    ]
    if max(off) > 1e-2:
        raise ValueError(f"The last output and the first gradient are off by {off[0]:.1e} and {off[1]:.1e}.")
    return {"peak_GiB": torch.cuda.max_memory_allocated() / 2**30}
