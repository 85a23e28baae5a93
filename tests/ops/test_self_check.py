"""A backend is checked before it first serves: here one for the CPU, checked as those for GPUs are."""

from __future__ import annotations

import json
import logging
import threading
from types import ModuleType

import pytest
import torch

from speechbrain_mamba import ops
from speechbrain_mamba.ops import registry, self_check
from speechbrain_mamba.ops.backends import reference
from speechbrain_mamba.ops.sample_calls import OPERATIONS, Case
from tests.ops.cases import layer_inputs

FUNCTIONS = [name for name in OPERATIONS if hasattr(reference, name)]
CPU = torch.device("cpu")


@pytest.fixture
def backend(monkeypatch, tmp_path):
    """A backend like the reference, preferred on the CPU, which counts its calls."""
    module = ModuleType("fake")
    module.calls, module.unavailable, module.unsupported = [], lambda: None, lambda call: None

    def counted(name):
        function = getattr(reference, name)

        def call(*arguments, **options):
            module.calls.append(name)
            return function(*arguments, **options)

        return call

    for name in FUNCTIONS:
        setattr(module, name, counted(name))
    monkeypatch.setitem(registry._MODULES, "fake", "fake")
    monkeypatch.setitem(registry._loaded, "fake", module)
    monkeypatch.setattr(registry, "_PREFERENCE", {"cpu": ("fake", "cpu")})
    monkeypatch.setattr(registry, "_CHECKED_DEVICES", {"cpu"})
    for name, empty in (("_passed", {}), ("_warned", set()), ("_reasons", {})):
        monkeypatch.setattr(registry, name, empty)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(registry.SELF_CHECK_VARIABLE, raising=False)
    return module


def convolve(**options):
    return ops.causal_conv1d(torch.ones(1, 3, 2, **options), torch.ones(2, 4))


def new_process(monkeypatch):
    """Forget what this process has seen."""
    monkeypatch.setattr(registry, "_passed", {})
    monkeypatch.setattr(registry, "_warned", set())


def break_convolution(module, change):
    module.causal_conv1d = lambda *arguments, **options: change(reference.causal_conv1d(*arguments, **options))


def test_a_backend_that_is_right_is_checked_once_for_each_kind_of_call(backend, monkeypatch, tmp_path):
    for _ in range(3):
        convolve()
    assert backend.calls == ["causal_conv1d"] * (2 + 3)  # twice in the check
    convolve(dtype=torch.bfloat16)
    assert len(backend.calls) == 5 + 3
    assert len(list(tmp_path.rglob("*.json"))) == 2
    new_process(monkeypatch)
    convolve()
    assert len(backend.calls) == 8 + 1  # remembered on this machine


def test_what_was_remembered_is_forgotten_when_the_source_or_a_version_changes(backend, monkeypatch):
    convolve()
    monkeypatch.setattr(self_check, "_machine", lambda device: "another GPU, version or source")
    new_process(monkeypatch)
    convolve()
    assert len(backend.calls) == 3 + 3


FAULTS = {
    "wrong output": lambda y: (y[0] * 1.1, y[1]),
    "wrong gradient": lambda y: (y[0].detach() + 0.5 * (y[0] - y[0].detach()), y[1]),
    "not finite": lambda y: (y[0] / 0, y[1]),
    "not compiled": lambda y: 1 / 0,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_backend_that_fails_is_left_out_with_one_warning(backend, fault, caplog, monkeypatch, tmp_path):
    break_convolution(backend, FAULTS[fault])
    with caplog.at_level(logging.WARNING):
        expected = torch.tensor([1.0, 2.0, 3.0])
        for dtype in (torch.float32, torch.float32, torch.bfloat16):
            assert convolve(dtype=dtype)[0, :, 0].float().equal(expected)
    warnings = [record.message for record in caplog.records if "self-check" in record.message]
    assert len(warnings) == 1
    assert "'fake' failed its self-check of causal_conv1d in float32" in warnings[0]
    assert "doctor --check" in warnings[0] and "SPEECHBRAIN_MAMBA_SELF_CHECK=0" in warnings[0]
    assert not list(tmp_path.rglob("fake-*.json"))  # a failure is tried again by the next process
    assert ops.bidirectional_causal_conv1d(torch.ones(1, 3, 2), *[ops.Filters(torch.ones(2, 4))] * 2)[0].shape
    assert "bidirectional_causal_conv1d" in backend.calls  # which is right


def test_the_second_run_has_to_be_right_too(backend, caplog):
    runs = iter([1.0, 2.0])  # as a kernel that goes wrong when it is launched without being compiled first
    break_convolution(backend, lambda y: (y[0] * next(runs, 1.0), y[1]))
    assert convolve()[0, :, 0].equal(torch.tensor([1.0, 2.0, 3.0]))
    assert "output 0 is off by" in caplog.text


def test_too_little_memory_for_the_check_says_nothing_about_the_backend(backend, caplog):
    def no_memory(y):
        raise torch.OutOfMemoryError("CUDA out of memory")

    break_convolution(backend, no_memory)
    with pytest.raises(torch.OutOfMemoryError):  # of the call itself: the backend still serves
        convolve()
    break_convolution(backend, lambda y: y)
    convolve()
    assert list(registry._passed.values()) == [True] and not caplog.records


def test_the_check_can_be_turned_off(backend, monkeypatch):
    monkeypatch.setenv(registry.SELF_CHECK_VARIABLE, "0")
    convolve()
    assert backend.calls == ["causal_conv1d"]


def test_a_backend_that_was_asked_for_is_not_checked(backend):
    with ops.use_backend("fake"):
        convolve()
    assert backend.calls == ["causal_conv1d"]


def test_the_state_of_the_caller_does_not_reach_the_check(backend):
    """Autocast, modes without gradients, transformed gradients and random numbers."""
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        convolve()
    with torch.inference_mode():
        convolve(dtype=torch.bfloat16)
    torch.func.grad(lambda x: ops.bidirectional_causal_conv1d(x, *[ops.Filters(torch.ones(2, 4))] * 2)[0].sum())(
        torch.ones(1, 3, 2)
    )
    assert all(registry._passed.values()) and len(registry._passed) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_a_traced_call_is_not_checked(backend):
    compiled = torch.compile(convolve, backend="eager", fullgraph=True)
    compiled()
    assert registry._passed == {}


def test_a_cache_folder_that_cannot_be_written_costs_the_memory_only(backend, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    convolve()
    assert registry._passed and all(registry._passed.values())


def test_ranks_that_check_at_the_same_time_leave_one_whole_record(backend, tmp_path):
    """In threads, which compute and write at the same time as the ranks of a distributed training do."""
    barrier = threading.Barrier(2, timeout=600)
    break_convolution(backend, lambda y: (barrier.wait(), y)[1])
    failures = []
    arguments = ("fake", backend, Case("causal_conv1d", torch.float32), CPU)
    ranks = [threading.Thread(target=lambda: failures.append(self_check.check(*arguments))) for _ in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert failures == [None, None]
    (record,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert json.loads(record.read_text())["failure"] is None


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_operation_of_the_kernels_for_the_cpu_passes(op, dtype):
    if "cpu" not in ops.available_backends():
        pytest.skip("the native library was not built")
    outcome = self_check.compare(
        registry.load_backend("cpu"), Case(op, dtype, continues=op in ("selective_scan", "ssd")), CPU
    )
    assert outcome.failure is None and outcome.error < 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", ["triton", "mamba_ssm"])
@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_operation_of_the_kernels_for_gpus_passes(name, op, dtype):
    if reason := ops.unavailable_backends().get(name):
        pytest.skip(reason)
    if name == "mamba_ssm" and "ssd" in op:
        pytest.skip("the adapters have no scan of Mamba-2")
    outcome = self_check.compare(registry.load_backend(name), Case(op, dtype), torch.device("cuda", 0))
    assert outcome.failure is None


def test_a_layer_of_a_backend_without_a_fused_one_is_checked_too(backend):
    ops.bidirectional_mamba_inner(**layer_inputs(1, 5, 4, 3, 2))
    assert set(backend.calls) == {"bidirectional_causal_conv1d", "bidirectional_selective_scan"}
    assert all(registry._passed.values())
