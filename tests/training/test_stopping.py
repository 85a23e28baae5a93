"""A run that is told to end."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from speechbrain_mamba.training.stopping import Stop, ignore_signals
from tests.training.test_run import table, trained

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(autouse=True)
def _listening():
    """Signals that are not ignored, as SIGINT is in the background jobs of a shell."""
    before = {number: signal.getsignal(number) for number in CODES}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def tell(number=signal.SIGTERM):
    """Send a signal to this process."""
    os.kill(os.getpid(), number)


@pytest.fixture
def stopped(toy):
    """Run the toy recipe until it is told to end at a place; returns the exit code."""

    def run(place, number=signal.SIGTERM, **options):
        disturb, evaluate = toy.Brain.disturb, toy.Brain.evaluate_batch

        def train(brain, loss):
            if f"{brain.epoch}:{brain.step}" == place:
                tell(number)
            return loss

        def validate(brain, batch, stage):
            if f"{brain.epoch}:{stage.name}:{brain.step}" == place:
                tell(number)
            return evaluate(brain, batch, stage)

        toy.Brain.disturb, toy.Brain.evaluate_batch = staticmethod(train), validate
        handlers = [signal.getsignal(number) for number in CODES]
        with pytest.raises(SystemExit) as ended:
            toy("broken", **options)
        assert [signal.getsignal(number) for number in CODES] == handlers
        assert not (toy.brain.output_folder / ".lock").exists()
        toy.Brain.disturb, toy.Brain.evaluate_batch = staticmethod(disturb), evaluate
        return ended.value.code

    return run


@pytest.mark.parametrize(
    ("place", "number", "accumulation", "last"),
    [
        ("1:2", signal.SIGTERM, 1, "1:2"),
        ("2:3", signal.SIGINT, 1, "2:3"),
        ("1:3", signal.SIGTERM, 2, "1:4"),  # a step has two batches
        ("2:5", signal.SIGTERM, 2, "2:5"),  # the epoch ends before the step
        ("2:VALID:2", signal.SIGINT, 1, "2:5"),
    ],
)
def test_a_checkpoint_is_saved_and_the_resumed_run_equals_an_uninterrupted_one(
    toy, stopped, capfd, caplog, place, number, accumulation, last
):
    options = {"dropout": 0.5, "n_train": 10, "grad_accumulation_factor": accumulation, "number_of_epochs": 3}
    whole = toy("whole", **options)
    assert stopped(place, number, **options) == CODES[number]
    assert trained(toy.Brain.calls)[-1] == last
    assert f"{number.name}: a checkpoint is saved, then this run ends" in capfd.readouterr().err
    assert "This run was told to end, and has saved a checkpoint. The same command resumes it." in caplog.text
    meta = toy.brain.checkpointer.find_checkpoint().meta
    assert not meta["end-of-epoch"]
    broken = toy("broken", **options)
    first = trained(broken.calls)[0]
    assert first == (f"{place[0]}:{int(last[2:]) + 1}" if int(last[2:]) < 5 else f"{int(place[0]) + 1}:1")
    assert torch.equal(broken.weights, whole.weights)
    ours, theirs = ([{**row, "seconds": 0} for row in table(run.folder)] for run in (broken, whole))
    assert ours == theirs


def test_at_the_end_of_an_epoch_its_checkpoint_is_the_last(toy, stopped, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            toy.Brain, "stage_scores", lambda b, stage, loss: (stage.name == "VALID" and tell()) or {"loss": loss}
        )
        assert stopped("never") == 143
    assert toy.brain.checkpointer.find_checkpoint().meta["epoch"] == 1
    assert trained(toy("broken").calls) == ["2:1", "2:2", "2:3"]


@pytest.mark.parametrize("place", ["prepare_data", "make_datasets", "write_results"])
def test_elsewhere_the_run_ends_at_once(toy, stopped, monkeypatch, place, capfd):
    done = []
    with monkeypatch.context() as patch:
        patch.setattr(toy.Brain, place, lambda *_: (tell(), done.append(place)))
        assert stopped("never") == 143
    assert not done and "SIGTERM: this run ends." in capfd.readouterr().err
    assert "export" in toy("broken").calls


SCRIPT = """
import os, signal, sys, time
from speechbrain_mamba.training.stopping import Stop
with Stop().listening() as stop:
    stop.wait(True)
    print("ready", flush=True)
    while not stop.is_requested():
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(float(sys.argv[1]))
    stop.end()
"""


@pytest.mark.parametrize("number", CODES)
def test_a_second_signal_ends_it_at_once(number):
    command = [sys.executable, "-c", SCRIPT, "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(number)
        assert process.wait(600) == -number


def test_of_several_processes_each_may_receive_it_twice(monkeypatch):
    command, environment = [sys.executable, "-c", SCRIPT, "0.5"], {**os.environ, "RANK": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **streams) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)  # by the scheduler, and by torchrun
        assert process.wait(600) == 143 and process.stderr.read() == ""  # the main process says it


def test_signals_that_are_ignored_stay_ignored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop().listening() as stop:
            tell(signal.SIGINT)
            assert not stop.is_requested() and signal.getsignal(signal.SIGTERM) == stop._handle
    finally:
        signal.signal(signal.SIGINT, before)


def test_processes_that_load_data_leave_it_to_the_one_that_trains(toy):
    for stage, make in (("train", "make_train_loader"), ("valid", "make_evaluation_loader")):
        kept = []
        original = getattr(toy.Brain, make)

        def note(brain, *args, original=original, kept=kept):
            kept.append(original(brain, *args))
            return kept[-1]

        setattr(toy.Brain, make, note)
        toy(stage)
        assert kept[0].worker_init_fn is ignore_signals
    with Stop().listening() as stop:
        child = os.fork()
        if not child:
            stop._handle(signal.SIGTERM, None)
            ignore_signals()
            tell(signal.SIGTERM)
            tell(signal.SIGINT)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_in_another_thread_no_signals_are_caught():
    import threading

    seen = []

    def listen():
        with Stop().listening() as stop:
            seen.append(stop.is_requested())

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [False] and signal.getsignal(signal.SIGTERM) == before


def test_a_request_that_waited_ends_the_process_when_nothing_is_trained_any_more():
    stop = Stop()
    stop.wait(True)
    stop._handle(signal.SIGTERM, None)
    with pytest.raises(SystemExit) as ended:
        stop.wait(False)
    assert ended.value.code == 143
    with pytest.raises(SystemExit) as ended:
        Stop().end()  # only another process was told
    assert ended.value.code == 143
