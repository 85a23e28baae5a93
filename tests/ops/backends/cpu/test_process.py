"""The native kernels among threads and processes, and inside torch's machinery."""

from __future__ import annotations

import multiprocessing
import os
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.cpu.native import (
    ENVIRONMENT_VARIABLE,
    PATH,
    KernelLibrary,
    instruction_set,
    library,
)
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.cases import bidirectional_scan_inputs, run, scan_inputs


@pytest.fixture(autouse=True)
def _restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def bidirectional_inputs(*shape: int) -> dict:
    """Inputs of the bidirectional scan."""
    torch.manual_seed(0)
    return bidirectional_scan_inputs(*shape)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape", [(1, 100, 200, 16), (20, 30, 70, 5)])
def test_results_do_not_depend_on_the_number_of_threads(name, shape):
    inputs, results = bidirectional_inputs(*shape), []
    filters = {name: ops.Filters(torch.randn(shape[2], 4)) for name in ("forward", "reverse")}
    with instruction_set(name), ops.use_backend("cpu"):
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            scan = run(ops.bidirectional_selective_scan, inputs, delta_softplus=True)
            conv = run(ops.bidirectional_causal_conv1d, {"x": inputs["z"], **filters}, activation="silu")
            results.append([*scan.values(), *conv.values()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


class Scans(Dataset):
    """Examples that are made by a scan on two threads."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        torch.set_num_threads(2)
        with ops.use_backend("cpu"):
            return ops.bidirectional_selective_scan(**bidirectional_inputs(1, 150, 200, 16), delta_softplus=True)[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.slow
def test_workers_of_a_data_loader(method):
    """The parent has used its threads before; the children have none of them."""
    expected = Scans()[0]
    torch.randn(1000, 1000) @ torch.randn(1000, 1000)
    loader = DataLoader(Scans(), num_workers=1, multiprocessing_context=method, timeout=600)
    for example in loader:
        torch.testing.assert_close(example[0], expected, rtol=0, atol=0)
    torch.testing.assert_close(Scans()[0], expected, rtol=0, atol=0)


def test_child_of_a_fork_with_gradients():
    torch.set_num_threads(2)
    inputs = bidirectional_inputs(1, 150, 200, 16)
    expected = run(ops.bidirectional_selective_scan, inputs, delta_softplus=True)

    def child():
        results = run(ops.bidirectional_selective_scan, inputs, delta_softplus=True)
        os._exit(0 if all(torch.equal(results[name], expected[name]) for name in results) else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    hangs = process.is_alive()
    process.kill()
    assert not hangs
    assert process.exitcode == 0


def small_loss(u, delta, A, B, C, D, z, delta_bias, weight):
    """A loss through a convolution and a scan, as in a layer."""
    lengths = torch.tensor([40, 13])
    u = ops.causal_conv1d(u * 2, weight, activation="silu", lengths=lengths)
    y, state = ops.selective_scan(
        u, delta, A, B, C, D, z, delta_bias, True, lengths=lengths, reverse=True, return_last_state=True
    )
    return torch.tanh(y).sum() + state.square().sum()


@pytest.fixture
def layer_inputs() -> list[torch.Tensor]:
    torch.manual_seed(0)
    inputs = scan_inputs(2, 40, 16, 8)
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    return [inputs[name].clone() for name in names] + [torch.randn(16, 4)]


def gradients(function, inputs):
    """Gradients of every input."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    return torch.autograd.grad(function(*inputs), inputs)


def test_compiled_functions(layer_inputs):
    """In one graph, with the same outputs and gradients."""
    compiled = torch.compile(small_loss, fullgraph=True, backend="aot_eager")
    for result, expected in zip(gradients(compiled, layer_inputs), gradients(small_loss, layer_inputs)):
        torch.testing.assert_close(result, expected)
    torch.testing.assert_close(compiled(*layer_inputs), small_loss(*layer_inputs))


def test_function_transforms(layer_inputs):
    transformed = torch.func.grad(small_loss, argnums=tuple(range(9)))(*layer_inputs)
    for result, expected in zip(transformed, gradients(small_loss, layer_inputs)):
        torch.testing.assert_close(result, expected)


class ScanLayer(torch.nn.Module):
    """A scan with its own decay."""

    def __init__(self, A: torch.Tensor):
        super().__init__()
        self.A = torch.nn.Parameter(A.clone())

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """The loss for the inputs with the layer's decay in place of theirs."""
        return small_loss(*inputs[:2], self.A, *inputs[3:])


def test_distributed_data_parallel(layer_inputs, tmp_path):
    layer = ScanLayer(layer_inputs[2])
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        torch.nn.parallel.DistributedDataParallel(layer)(layer_inputs).backward()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(layer.A.grad, gradients(small_loss, layer_inputs)[2])


def test_functional_call(layer_inputs):
    layer, other = ScanLayer(layer_inputs[2]), layer_inputs[2] * 2
    result = torch.func.functional_call(layer, {"A": other}, (layer_inputs,))
    torch.testing.assert_close(result, ScanLayer(other)(layer_inputs))


def test_autocast(layer_inputs):
    """A projection makes bfloat16, the scan keeps its input's type, and float32 parameters get float32 gradients."""
    u, delta, A, B, C, D, z, delta_bias, weight = (t.requires_grad_() for t in layer_inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16), ops.use_backend("cpu"):
        half = torch.nn.functional.linear(u, torch.eye(16))
        y = ops.selective_scan(ops.causal_conv1d(half, weight), delta, A, B, C, D, z, delta_bias, True)
    y.sum().backward()
    assert half.dtype == y.dtype == torch.bfloat16
    assert all(t.grad.dtype == torch.float32 for t in layer_inputs)


def test_second_derivatives_are_refused(layer_inputs):
    x = layer_inputs[0].requires_grad_()
    (first,) = torch.autograd.grad(small_loss(x, *layer_inputs[1:]), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="use_backend"):
        first.sum().backward()


def test_backward_after_a_forward_that_expected_none(layer_inputs):
    """Activation checkpointing calls forward without gradients first."""
    checkpointed = lambda *inputs: torch.utils.checkpoint.checkpoint(small_loss, *inputs, use_reentrant=False)  # noqa: E731
    for result, expected in zip(gradients(checkpointed, layer_inputs), gradients(small_loss, layer_inputs)):
        torch.testing.assert_close(result, expected)


def test_float64_is_left_to_the_reference(layer_inputs):
    doubles = [t.double() for t in layer_inputs]
    assert small_loss(*doubles).dtype == torch.float64
    with ops.use_backend("cpu"), pytest.raises(ValueError, match="float64"):
        small_loss(*doubles)


def test_unknown_instruction_set():
    with pytest.raises(ValueError, match=r"'sse9'.*choose one of.*portable"), instruction_set("sse9"):
        pass


def test_instruction_set_from_the_environment(monkeypatch):
    before = library().instruction_set
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "portable")
    assert KernelLibrary(PATH).instruction_set == "portable"
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "sse9")
    with pytest.raises(ValueError, match=f"{ENVIRONMENT_VARIABLE} names the instruction set 'sse9'"):
        KernelLibrary(PATH)
    library().choose(before)  # the library is loaded once, whatever the number of objects


def test_library_from_other_sources(monkeypatch):
    monkeypatch.setattr("speechbrain_mamba.ops.backends.cpu.native.ABI", 0)
    with pytest.raises(OSError, match=r"built from another version.*install the package again"):
        KernelLibrary(PATH)


def test_library_shares_the_threads_of_torch():
    """On Linux; elsewhere it starts its own."""
    assert library().shares_torch_threads == (sys.platform == "linux")
