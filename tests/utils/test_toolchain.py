"""What Triton needs to build its launchers is looked for where Triton looks for it."""

import os
import sysconfig

import pytest

from speechbrain_mamba.ops import registry
from speechbrain_mamba.ops.backends import triton
from speechbrain_mamba.utils.toolchain import find_compiler, find_headers, missing_tools


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """A folder of programs and one of headers, both empty and the only ones there are."""
    programs, headers = tmp_path / "bin", tmp_path / "include"
    programs.mkdir()
    headers.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(headers))
    return programs, headers


def add_program(folder, name):
    (folder / name).write_text("#!/bin/sh\n")
    os.chmod(folder / name, 0o755)


def test_without_a_compiler_or_headers_a_sentence_says_what_to_install(tools, monkeypatch):
    programs, headers = tools
    assert "install gcc or clang" in missing_tools()
    monkeypatch.setenv("CC", "icc")
    assert "CC names 'icc', which is not found" in missing_tools()
    add_program(programs, "icc")
    assert find_compiler() == str(programs / "icc")
    assert "Python.h" in missing_tools() and find_headers() is None
    (headers / "Python.h").touch()
    assert missing_tools() is None and find_headers() == headers
    monkeypatch.delenv("CC")
    add_program(programs, "clang")
    assert find_compiler() == str(programs / "clang")
    add_program(programs, "gcc")
    assert find_compiler() == str(programs / "gcc")


@pytest.mark.usefixtures("tools")
def test_the_backend_of_triton_is_not_available_without_a_compiler(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(triton, "INTERPRETED", False)
    monkeypatch.setattr(registry, "_reasons", {})
    assert "needs a C compiler at run time" in registry.unavailable_backends()["triton"]
