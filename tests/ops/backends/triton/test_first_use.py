"""The compilation of kernels is announced when it takes long, as Triton's compiler tells of it."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from speechbrain_mamba.ops.backends.triton import first_use  # noqa: E402


def compiled(seconds, module="speechbrain_mamba.ops.backends.triton.conv_kernels", cache_hit=False):
    """What Triton tells of a kernel."""
    function = SimpleNamespace(__module__=module)
    times = SimpleNamespace(total=int(seconds * 1e6))
    return {"src": SimpleNamespace(fn=SimpleNamespace(fn=function)), "times": times, "cache_hit": cache_hit,
            "metadata": {}, "metadata_group": {}}  # fmt: skip


def test_long_compilation_is_announced_once(caplog):
    heard = []
    listener = first_use.FirstUse(lambda **facts: heard.append(facts))
    with caplog.at_level(logging.WARNING):
        listener(**compiled(9, module="torchinductor"))
        listener(**compiled(9, cache_hit=True))
        listener(**compiled(1.5))
        assert not caplog.records
        listener(**compiled(1.0))
        listener(**compiled(9))
    assert len(heard) == 5
    (record,) = caplog.records
    assert "compiling the GPU kernels of speechbrain_mamba for their first use: 2 so far, in 2 s" in record.message


@triton.jit
def double_kernel(x, SIZE: tl.constexpr):
    """A kernel that compiles in a moment."""
    at = tl.arange(0, SIZE)
    tl.store(x + at, 2 * tl.load(x + at))


def test_the_compiler_tells_of_this_packages_kernels(monkeypatch, caplog, tmp_path):
    """A kernel is compiled for a GPU that is not there, and found in the cache the second time."""
    assert isinstance(triton.knobs.compilation.listener, first_use.FirstUse)
    listener = first_use.FirstUse()
    monkeypatch.setattr(triton.knobs.compilation, "listener", listener)
    monkeypatch.setattr(first_use, "SECONDS", 0.0)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(double_kernel.fn, "__module__", "speechbrain_mamba.ops.backends.triton")
    source = ASTSource(double_kernel, {"x": "*fp32", "SIZE": "constexpr"}, {"SIZE": 32})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            triton.compile(source, target=GPUTarget("cuda", 80, 32))
    assert listener.kernels == 1 and listener.seconds > 0
    assert ["first use" in record.message for record in caplog.records] == [True]
