"""Runs of two processes that are told to end, and resumed."""

import os
import re
import signal
import time

import pytest
import torch

from tests.training.conftest import HPARAMS
from tests.training.test_run import table

SCRIPT = """
import atexit, contextlib, os, sys, time
from speechbrain_mamba.training.run import run_recipe
from speechbrain_mamba.training.script import run_script
from tests.training.conftest import ToyBrain

ToyBrain.calls = []
pause = float(sys.argv.pop())

def disturb(brain, loss):
    print(f"batch {brain.epoch}:{brain.step} of {brain.rank} in {os.getpid()}", flush=True)
    time.sleep(pause)
    return loss

def evaluate_batch(brain, batch, stage, evaluate=ToyBrain.evaluate_batch):
    print(f"{stage.name} {brain.epoch} of {brain.rank} in {os.getpid()}", flush=True)
    time.sleep(pause)
    return evaluate(brain, batch, stage)

@atexit.register
def tell():
    names = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            names.append(open(f"/proc/self/task/{task}/comm").read().strip())
    os.write(1, f"ends with {' '.join(sorted(names))}\\n".encode())  # at once, as two processes write

ToyBrain.disturb, ToyBrain.evaluate_batch = staticmethod(disturb), evaluate_batch
run_script(lambda: run_recipe(ToyBrain))
"""


@pytest.fixture
def launch(forked, tmp_path):
    """Start the toy recipe in two processes; returns the process that has started both."""
    (tmp_path / "toy.yaml").write_text(HPARAMS)
    (tmp_path / "train.py").write_text(SCRIPT)
    started = []

    def start(output, pause):
        options = {"output_folder": tmp_path / output, "n_train": 24, "dropout": 0.5, "device": "cpu"}
        pairs = [f"--{key}={value}" for key, value in options.items()]
        command = [tmp_path / "train.py", tmp_path / "toy.yaml", *pairs, "--distributed_backend=gloo"]
        log = tmp_path / f"{output}{len(started)}.txt"
        started.append(forked.start([*command, "--noprogressbar", str(pause)], log, processes=2))
        return started[-1]

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)


def wait_for(pattern, process, seconds=600):
    """Wait until something is printed; returns the match."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = re.search(pattern, process.said())
        if found:
            return found
        assert process.poll() is None, process.said()
        time.sleep(0.02)
    raise AssertionError(process.said())


def finish(process):
    process.wait()
    return process.said()


def weights(folder):
    path = max(folder.glob("save/CKPT*/layer.ckpt"), key=lambda path: path.stat().st_mtime)
    return torch.load(path, weights_only=True)["weight"]


@pytest.mark.slow
def test_two_processes_end_together_and_resume_exactly(launch, tmp_path):
    process = launch("whole", 0)
    text = finish(process)
    assert process.returncode == 0, text
    threads = re.findall("ends with (.*)", text)  # those of the group would be of danger while Python ends
    assert len(threads) == 2 and "gloo" not in "".join(threads), threads

    # a signal to the second process alone in training, and one to what has started both in the validation
    process = launch("broken", 0.3)
    second = int(wait_for(r"batch 1:2 of 1 in (\d+)", process)[1])
    os.kill(second, signal.SIGTERM)
    text = finish(process)
    assert process.returncode != 0 and "has saved a checkpoint" in text, text
    assert not (tmp_path / "broken" / ".lock").exists()
    process = launch("broken", 0.3)
    assert int(wait_for(r"batch 1:(\d) of 1", process)[1]) > 1  # it was resumed within the epoch
    wait_for(r"VALID 1 of 0", process)
    process.send_signal(signal.SIGTERM)
    text = finish(process)
    assert process.returncode != 0 and "has saved a checkpoint" in text, text

    # both processes leave a damaged checkpoint alone, and use the one before it
    newest = max((tmp_path / "broken" / "save").glob("CKPT*"), key=lambda path: path.stat().st_mtime)
    (newest / "layer.ckpt").write_bytes(b"")
    process = launch("broken", 0)
    text = finish(process)
    assert process.returncode == 0 and text.count("is damaged and is not used") == 1, text
    assert len(re.findall(r"batch 1:6 of", text)) == 2
    assert torch.equal(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    rows = [[{**row, "seconds": 0} for row in table(tmp_path / name)] for name in ("whole", "broken")]
    for row, expected in zip(*rows, strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx({k: float(v) for k, v in expected.items()})
