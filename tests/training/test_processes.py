"""Runs of two processes under torchrun that are told to end, and resumed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.training.conftest import HPARAMS
from tests.training.test_run import table

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, time
from speechbrain_mamba.training.run import run_recipe
from speechbrain_mamba.training.script import run_script
from tests.training.conftest import ToyBrain

ToyBrain.calls = []
pause = float(sys.argv.pop())

def disturb(brain, loss):
    print(f"batch {brain.epoch}:{brain.step} of {brain.rank} in {__import__('os').getpid()}", flush=True)
    time.sleep(pause)
    return loss

def evaluate_batch(brain, batch, stage, evaluate=ToyBrain.evaluate_batch):
    print(f"{stage.name} {brain.epoch} of {brain.rank} in {__import__('os').getpid()}", flush=True)
    time.sleep(pause)
    return evaluate(brain, batch, stage)

ToyBrain.disturb, ToyBrain.evaluate_batch = staticmethod(disturb), evaluate_batch
run_script(lambda: run_recipe(ToyBrain))
"""


@pytest.fixture
def launch(tmp_path):
    """Start the toy recipe in two processes; returns the process of torchrun."""
    (tmp_path / "toy.yaml").write_text(HPARAMS)
    (tmp_path / "train.py").write_text(SCRIPT)
    started = []

    def start(output, pause):
        options = {"output_folder": tmp_path / output, "n_train": 24, "dropout": 0.5, "device": "cpu"}
        pairs = [f"--{key}={value}" for key, value in options.items()]
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone",
            str(tmp_path / "train.py"), str(tmp_path / "toy.yaml"), *pairs,
            "--distributed_backend=gloo", "--noprogressbar", str(pause),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        log = open(tmp_path / f"{output}{len(started)}.txt", "w+")  # noqa: SIM115
        started.append((subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment), log))
        return started[-1]

    yield start
    for process, log in started:
        process.terminate()  # torchrun ends its processes, which would wait for each other for hours if it were killed
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def wait_for(pattern, process, log, seconds=600):
    """Wait until something is printed; returns the match."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = re.search(pattern, Path(log.name).read_text())
        if found:
            return found
        assert process.poll() is None, Path(log.name).read_text()
        time.sleep(0.02)
    raise AssertionError(Path(log.name).read_text())


def finish(process, log):
    process.wait(600)
    return Path(log.name).read_text()


def weights(folder):
    path = max(folder.glob("save/CKPT*/layer.ckpt"), key=lambda path: path.stat().st_mtime)
    return torch.load(path, weights_only=True)["weight"]


@pytest.mark.slow
def test_two_processes_end_together_and_resume_exactly(launch, tmp_path):
    process, log = launch("whole", 0)
    text = finish(process, log)
    assert process.returncode == 0, text

    # a signal to the second process alone in training, and one to torchrun in the validation
    process, log = launch("broken", 0.3)
    second = int(wait_for(r"batch 1:2 of 1 in (\d+)", process, log)[1])
    os.kill(second, signal.SIGTERM)
    text = finish(process, log)
    assert process.returncode != 0 and "has saved a checkpoint" in text, text
    assert not (tmp_path / "broken" / ".lock").exists()
    process, log = launch("broken", 0.3)
    assert int(wait_for(r"batch 1:(\d) of 1", process, log)[1]) > 1  # it was resumed within the epoch
    wait_for(r"VALID 1 of 0", process, log)
    process.send_signal(signal.SIGTERM)
    text = finish(process, log)
    assert process.returncode != 0 and "has saved a checkpoint" in text, text

    # both processes leave a damaged checkpoint alone, and use the one before it
    newest = max((tmp_path / "broken" / "save").glob("CKPT*"), key=lambda path: path.stat().st_mtime)
    (newest / "layer.ckpt").write_bytes(b"")
    process, log = launch("broken", 0)
    text = finish(process, log)
    assert process.returncode == 0 and text.count("is damaged and is not used") == 1, text
    assert len(re.findall(r"batch 1:6 of", text)) == 2
    assert torch.equal(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    rows = [[{**row, "seconds": 0} for row in table(tmp_path / name)] for name in ("whole", "broken")]
    for row, expected in zip(*rows, strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx({k: float(v) for k, v in expected.items()})
