"""What the doctor says."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from speechbrain_mamba import ops
from speechbrain_mamba.__main__ import main
from speechbrain_mamba.doctor import report, usable_cores
from speechbrain_mamba.ops import registry as backends
from speechbrain_mamba.ops import self_check
from speechbrain_mamba.ops.backends import cpu
from speechbrain_mamba.ops.backends.cpu.native import instruction_set, library


@pytest.fixture
def _no_library(monkeypatch, tmp_path):
    """As if the package had been installed without a compiler."""
    monkeypatch.setattr(cpu, "PATH", tmp_path / "missing.so")
    monkeypatch.setattr(backends, "_reasons", {})
    monkeypatch.setattr(backends, "_warned", set())


def test_report_names_the_instruction_set_and_threads(capsys):
    main(["doctor"])
    text = capsys.readouterr().out
    assert f"{torch.get_num_threads()} on {usable_cores()} usable cores" in text
    assert library().instruction_set in text


def test_report_says_which_precisions_are_fast(monkeypatch):
    assert "CPU instructions" in report()
    monkeypatch.setattr("speechbrain_mamba.utils.processor.processor_flags", lambda: {"avx512_vnni", "amx_bf16"})
    monkeypatch.setattr("speechbrain_mamba.ops.int8.int8_unavailable", lambda: None)
    text = report()
    assert "CPU instructions   VNNI, AMX\n" in text
    assert "CPU bf16           faster in inference: --precision bf16\n" in text
    assert "CPU int8           faster in inference: --precision int8\n" in text
    monkeypatch.setattr("speechbrain_mamba.utils.processor.processor_flags", set)
    monkeypatch.setattr("speechbrain_mamba.ops.int8.int8_unavailable", lambda: "it has no VNNI.")
    text = report()
    assert "CPU instructions   none for bf16 or int8 that are known here\n" in text
    assert "CPU bf16           fp32 in its place: this processor has no instructions for bfloat16" in text
    assert "CPU int8           fp32 in its place: it has no VNNI\n" in text


def test_report_says_what_triton_lacks_to_build_its_launchers(monkeypatch):
    monkeypatch.setattr("speechbrain_mamba.utils.toolchain.shutil.which", lambda name: None)
    monkeypatch.setenv("CC", "")
    assert "C compiler         Triton needs a C compiler at run time" in report()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(backends, "_reasons", {})
    assert "Make the GPU kernels work: Triton needs a C compiler at run time" in report()


def test_backends_are_checked_on_request(capsys, monkeypatch):
    """By two of the operations; tests/ops/test_self_check.py has all of them."""
    operations = {name: self_check.OPERATIONS[name] for name in ("bidirectional_mamba_inner", "ssd")}
    monkeypatch.setattr(self_check, "OPERATIONS", operations)
    main(["doctor", "--check"])
    text = capsys.readouterr().out
    assert "backend cpu        available" in text and "All agree with the reference." in text
    for name in ops.available_backends():
        op = "ssd" if name == "chunked" else "bidirectional_mamba_inner"
        assert re.search(rf"^{name} +cpu +{op} +bfloat16 .* ok$", text, re.MULTILINE)


def test_a_backend_that_is_wrong_fails_the_check(capsys, monkeypatch):
    wrong = ModuleType("wrong")
    wrong.unavailable, wrong.unsupported = (
        lambda: None,
        lambda call: None if call.op.endswith("_update") and call.op != "mamba_inner_update" else "it cannot.",
    )
    wrong.causal_conv1d_update = wrong.selective_state_update = wrong.ssd_update = lambda *arguments, **options: (
        (torch.zeros(1),) * 2
    )
    monkeypatch.setattr(backends, "_MODULES", {"wrong": "wrong"})
    monkeypatch.setattr(backends, "_loaded", {"wrong": wrong})
    monkeypatch.setattr(backends, "_reasons", {})
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--check"])
    text = capsys.readouterr().out
    assert end.value.code == 1 and "9 of 9 do not agree with it." in text
    assert re.search("FAILED: output [01] is off by inf times what is allowed.", text)


def test_advice_for_a_slow_instruction_set():
    with instruction_set("portable"):
        slow = "which is faster" in report()
    assert slow == (library().instruction_sets[0] != "portable")


def test_advice_for_the_number_of_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(usable_cores() + 1)
    try:
        assert f"no more than {usable_cores()} threads" in report()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.usefixtures("_no_library")
def test_without_the_library_the_reference_serves_and_says_so_once(caplog):
    assert "Install a C compiler" in report()
    assert "was not built" in ops.unavailable_backends()["cpu"]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            ops.causal_conv1d(torch.ones(1, 3, 1), torch.ones(1, 2))
    assert [record.message for record in caplog.records if "slow reference backend" in record.message] == [
        "Mamba runs on the slow reference backend, as the backend 'cpu' is not available: the native library was not "
        "built; install the package again where there is a C compiler (gcc or clang). "
        "See `python -m speechbrain_mamba doctor`."
    ]
    with pytest.raises(ValueError, match="not available here"), ops.use_backend("cpu"):
        pass


@pytest.mark.parametrize(
    ("breakage", "says"),
    [
        ("sys.modules['torch'] = None", "threads            unknown (ModuleNotFoundError: import of torch halted"),
        (
            "sys.modules['torchaudio'] = None",
            "- torchaudio cannot be imported: ModuleNotFoundError",
        ),
        ("sys.modules['triton'] = None", "backend reference  available"),
        ("import triton; del triton.knobs; sys.modules['triton.knobs'] = None", "backend cpu        available"),
    ],
)
def test_report_survives_what_is_missing(forked_with_torch, tmp_path, breakage, says):
    """In a process of its own, as the modules are in this one already."""
    code = f"import sys; {breakage}\nfrom speechbrain_mamba.__main__ import main; main(['doctor'])"
    if "['torch']" in breakage:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
        said = run.stdout
    else:
        (tmp_path / "doctor.py").write_text(code)
        run = forked_with_torch.start([tmp_path / "doctor.py"], tmp_path / "said.txt")
        assert run.wait() == 0, run.said()
        said = run.said()
    assert says in said
    for line in ("speechbrain_mamba  ", "What keeps it from working\n- ", "What would make it faster\n- "):
        assert line in said


def test_report_says_which_torchaudio_fits(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    versions = {"torch": "2.15.0", "torchaudio": "2.11.0"}
    monkeypatch.setattr("importlib.metadata.version", lambda package: versions.get(package, "1.0"))
    assert "torch 2.15.0 is not supported" in report()


def test_package_imports_nothing_heavy():
    code = "import sys, speechbrain_mamba; print({'torch', 'numpy', 'speechbrain'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert run.stdout == "set()\n"
