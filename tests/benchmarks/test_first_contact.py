"""The first contact: steps pass, fail, are skipped, crash and hang, and the others go on; what is done is resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import first_contact
from contact import context, correct, runner, sizes, speed
from contact.context import STEPS, Context, Skip, Step
from speechbrain_mamba.nnet.mamba import BiMamba
from speechbrain_mamba.ops import registry

WORKER = """
import json, os, sys, time
folder, names = sys.argv[1], sys.argv[sys.argv.index("--steps") + 1:]
os.makedirs(f"{folder}/steps", exist_ok=True)
for name in names:
    with open(f"{folder}/ran.txt", "a") as file:
        file.write(name + "\\n")
    if name == "crashes":
        os._exit(7)
    if name == "hangs":
        time.sleep(60)
    result = {"step": name, "status": "fail" if name == "fails" else "pass", "seconds": 0.1, "reason": "", "data":
              {"rows": [{"a": 1.0, "b": name}]}, "machine": "this one"}
    with open(f"{folder}/steps/.{name}", "w") as file:
        json.dump(result, file)
    os.replace(f"{folder}/steps/.{name}", f"{folder}/steps/{name}.json")
"""


@pytest.fixture
def contact(monkeypatch, tmp_path):
    """Run steps by name with a worker that imports nothing; returns the exit code and the results by step."""
    monkeypatch.setattr(runner, "machine_key", lambda context: "this one")
    monkeypatch.setattr(runner, "STARTING", 1.0)
    for name in ("first", "crashes", "second", "hangs", "fails", "last"):
        monkeypatch.setitem(STEPS, name, Step(name, lambda context: None, 1))
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    where = Context(torch.device("cpu"), "cpu", tmp_path / "out")

    def run(*names, seconds=60.0, again=False):
        worker = [sys.executable, "-S", str(script), str(where.folder)]
        code = runner.run_steps(where, list(names), worker, seconds, again)
        results = json.loads((where.folder / "results.json").read_text())
        ran = (where.folder / "ran.txt").read_text().split() if (where.folder / "ran.txt").exists() else []
        (where.folder / "ran.txt").unlink(missing_ok=True)
        return code, {result["step"]: result for result in results}, ran

    return run


def test_the_sizes_of_the_sweep_are_those_of_the_kernels():
    """Each variant changes something, has a plan, and leaves the present sizes behind."""
    pytest.importorskip("triton")
    from speechbrain_mamba.ops.backends.triton import plan

    nothing, *variants = speed.variants()
    assert nothing == {} and len(variants) > 20
    present = {name: getattr(*sizes.sized(name)) for variant in variants for name in variant}
    for variant in variants:
        assert any(present[name] != value for name, value in variant.items()) or variant in speed.TOGETHER, variant
        with sizes.changed(variant):
            assert all(getattr(*sizes.sized(name)) == value for name, value in variant.items())
            tried = plan.plan(torch.device("cpu"), 1, 4000, 512, 16, 16, 2)
            assert tried.programs >= 1 and tried.backward_chunk % plan.SUBCHUNK == 0
    assert present == {name: getattr(*sizes.sized(name)) for name in present}


def test_a_crash_and_a_step_that_hangs_cost_themselves_only(contact, tmp_path):
    code, results, ran = contact("first", "crashes", "second", "hangs", "last")
    assert code == 1 and ran == ["first", "crashes", "second", "hangs", "last"]
    statuses = {name: result["status"] for name, result in results.items()}
    assert statuses == {"first": "pass", "crashes": "fail", "second": "pass", "hangs": "fail", "last": "pass"}
    assert "ended with code 7" in results["crashes"]["reason"]
    assert "took more than the 1 s" in results["hangs"]["reason"]
    page = (tmp_path / "out" / "page.md").read_text()
    assert "| crashes | fail |" in page and "## second" in page and "| 1 | second |" in page


def test_the_same_command_resumes(contact, monkeypatch):
    assert contact("first", "fails")[0] == 1
    _, results, ran = contact("first", "fails", "last")
    assert ran == ["fails", "last"] and results["first"]["status"] == "pass"  # what failed is tried again
    assert contact("first", again=True)[2] == ["first"]
    monkeypatch.setattr(runner, "machine_key", lambda context: "another GPU or source")
    assert runner.read_result(Context(torch.device("cpu"), "cpu", Path("nowhere")), "first") is None


def test_what_there_is_no_time_for_is_left_to_the_next_command(contact):
    code, results, ran = contact("first", "last", seconds=0)
    assert code == 0 and ran == [] and "no time left" in results["last"]["reason"]
    assert contact("first", "last")[1]["last"]["status"] == "pass"


def test_a_step_passes_fails_or_is_skipped_with_a_reason(monkeypatch, tmp_path):
    where = Context(torch.device("cpu"), "cpu", tmp_path)

    def skips(context):
        raise Skip("needs a CUDA GPU")

    def fails(context):
        raise ValueError("A replay gives other bits.")

    for name, function in (("passes", lambda context: {"found": 1}), ("skips", skips), ("fails", fails)):
        monkeypatch.setitem(STEPS, name, Step(name, function, 1))
        runner.run_one(where, name)
    found = {name: runner.read_result(where, name) for name in ("passes", "skips", "fails")}
    assert [result["status"] for result in found.values()] == ["pass", "skip", "fail"]
    assert found["passes"]["data"] == {"found": 1} and found["skips"]["reason"] == "needs a CUDA GPU"
    assert found["fails"]["reason"] == "ValueError: A replay gives other bits."
    assert any("fails" in line for line in found["fails"]["data"]["traceback"])


def test_the_machine_comes_first_and_the_long_tests_last():
    assert first_contact.ORDER[0] == "machine" and first_contact.ORDER[-1] == "GPU tests"
    assert set(first_contact.ORDER) == set(STEPS)


def test_a_wrong_gradient_fails_a_step(monkeypatch, tmp_path):
    where = Context(torch.device("cpu"), "cpu" if "cpu" in registry.available_backends() else "reference", tmp_path)
    assert correct.compare(where, BiMamba(8), torch.float32, (12, 0), 12)["error"] < 0.1
    right = context.results_of

    def wrong(module, x, lengths, backend, dtype):
        results = right(module, x, lengths, backend, dtype)
        return results | ({"A_log": 1.5 * results["A_log"]} if dtype == torch.float32 else {})

    monkeypatch.setattr(correct, "results_of", wrong)
    with pytest.raises(ValueError, match="A_log is off by"):
        correct.compare(where, BiMamba(8), torch.float32, (12, 0), 12)


@pytest.mark.slow
def test_the_whole_command_runs_without_a_gpu(tmp_path):
    """Some real steps; those that need a GPU are skipped."""
    script = Path(first_contact.__file__)
    steps = ["machine", "one frame", "nothing waits", "layers against others"]
    command = [sys.executable, str(script), "--device", "cpu", "--output", str(tmp_path), "--steps", *steps]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed, 0 failed, 1 skipped" in done.stdout
    assert "## layers against others" in (tmp_path / "page.md").read_text()
