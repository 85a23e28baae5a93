"""Two nodes on loopback, each started by its own torchrun with its own copy of the data, train as one process does."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.manifests import write_manifest
from tests.conftest import HPARAMS
from tests.recipes.conftest import RATE, ROOT, buzz, table

SETTINGS = {
    "separation": {
        "N_encoder_out": 16, "out_channels": 8, "n_mamba": 1, "mamba_config": {"d_state": 2}, "batch_size": 1,
        "number_of_epochs": 2, "n_warmup_steps": 2, "lr": 0.01, "n_examples": 1, "precision": "fp32",
        "corpus": "wsj0mix", "skip_prep": True, "dynamic_mixing": False, "num_workers": 0,
    },
    "asr": {
        "d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1, "number_of_epochs": 2, "avg_checkpoints": 2,
        "num_buckets": 2, "max_batch_length_train": 1.5, "max_batch_length_valid": 2, "corpus": "manifest",
        "train_splits": ["train.csv"], "valid_splits": ["valid.csv"], "test_splits": ["test.csv"],
        "token_type": "char", "output_neurons": 6, "test_search": {"beam_size": 4}, "n_mels": 20,
    },
}  # fmt: skip
COUNTS = {"train": 7, "valid": 3, "test": 4}
WORDS = ["NO", "ON", "NOON", "NO NO", "ON NO", "NO ON", "ONO"]


def make_mixtures(folder):
    """Seven mixtures for training, three for validation and four for the test, in a folder of their own."""
    rows = {}
    for split, count in COUNTS.items():
        rows[split] = []
        for i in range(count):
            s1, s2 = (buzz(f0 + 9 * i, 0.25, seed=f0 + i) for f0 in (100, 150 + 10 * len(split)))
            paths = {"mix": s1 + s2, "s1": s1, "s2": s2}
            for name, signal in paths.items():
                write_audio(folder / split / f"{i}_{name}.wav", signal, RATE)
            wavs = {f"{name}_wav": f"$data_root/{split}/{i}_{name}.wav" for name in paths}
            rows[split].append({"ID": f"{split}{i}", "duration": 0.25, **wavs})
    return rows


def make_speech(folder):
    """As many utterances, listed by relative paths, so that each copy of the folder stands for itself."""
    for split, count in COUNTS.items():
        rows = []
        for i in range(count):
            write_audio(folder / split / f"{i}.wav", buzz(90 + 20 * i, 0.5 + 0.05 * i, seed=i), 16000)
            seconds = round((0.5 + 0.05 * i) * RATE) / 16000
            rows.append({"ID": f"{split}{i}", "duration": seconds, "wav": f"{split}/{i}.wav", "wrd": WORDS[i]})
        write_manifest(folder / f"{split}.csv", rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data of both tasks, a copy for each node, and the mixtures' manifests."""
    folder = tmp_path_factory.mktemp("nodes")
    rows = make_mixtures(folder / "node0" / "separation")
    make_speech(folder / "node0" / "asr")
    shutil.copytree(folder / "node0", folder / "node1")
    # statistics over all batches so far would be those of another number of batches
    (folder / "ctc.yaml").write_text(
        f"!include:{HPARAMS}/asr/mini_conmamba_ctc.yaml\n"
        "normalize: !new:speechbrain.processing.features.InputNormalization\n    norm_type: sentence\n"
    )
    for run in ("alone", "nodes"):
        for split, listed in rows.items():
            write_manifest(folder / run / "separation" / "save" / f"{split}.csv", listed)
    return folder


def commands(folder, run, node, **options):
    """The command lines of both recipes on a node."""
    for task, name in (("separation", HPARAMS / "separation" / "mambatasnet_XS.yaml"), ("asr", folder / "ctc.yaml")):
        settings = {**SETTINGS[task], "output_folder": folder / run / task, "data_folder": folder / node / task}
        pairs = [(f"--{key}", value) for key, value in {**settings, **options}.items()]
        flags = [json.dumps(part) if isinstance(part, (list, dict)) else str(part) for pair in pairs for part in pair]
        yield [str(ROOT / "recipes" / task / "train.py"), str(name), *flags, "--noprogressbar", "--device", "cpu"]


def program(folder, name, lines):
    """What runs some command lines."""
    listed = folder / f"{name}.json"
    listed.write_text(json.dumps(lines))
    return [str(ROOT / "tests" / "distributed" / "node.py"), str(listed)]


@pytest.fixture(scope="module")
def trained(data, forked):
    """Both recipes, trained by one process that accumulates two batches and by two nodes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = []
    for node in range(2):
        rendezvous = ["--rdzv_backend", "c10d", "--rdzv_id", "7", "--rdzv_endpoint", f"127.0.0.1:{port}"]
        local = ["--rdzv_conf", f"is_host={int(node == 0)}", "--local_addr", "127.0.0.1"]
        launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", *rendezvous, *local]
        lines = commands(data, "nodes", f"node{node}", distributed_backend="gloo", grad_accumulation_factor=1)
        command = [sys.executable, *launcher, *program(data, f"node{node}", list(lines))]
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    lines = list(commands(data, "alone", "node0", grad_accumulation_factor=2))
    alone = forked.start(program(data, "alone", lines), data / "alone.txt")
    try:
        assert alone.wait() == 0, alone.said()
        for process in processes:
            said, _ = process.communicate(timeout=600)
            assert process.returncode == 0, said[-5000:]
    finally:
        for process in processes:
            process.terminate()  # not killed: torchrun has processes of its own to end
            process.wait()
    return data


def read_weights(folder):
    """What a run exports."""
    files = sorted((folder / "inference").glob("*.ckpt"))
    states = {path.stem: torch.load(path, weights_only=True) for path in files if path.stem != "tokenizer"}
    return {(name, key): value for name, state in states.items() for key, value in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["separation", "asr"])
def test_two_nodes_have_the_losses_and_parameters_of_one_process(trained, task):
    folders = [trained / run / task for run in ("alone", "nodes")]
    alone, nodes = ([{k: float(v) for k, v in row.items()} for row in table(f / "training.csv")] for f in folders)
    assert [row.keys() for row in alone] == [row.keys() for row in nodes] and len(alone) == 2
    for one, other in zip(alone, nodes):
        chosen = [name for name in one if name not in ("seconds", "train_si_snr", "train_loss")]
        assert [other[name] for name in chosen] == pytest.approx([one[name] for name in chosen], rel=1e-4, abs=1e-4)
    expected, found = map(read_weights, folders)
    assert expected.keys() == found.keys() and len(found) > 5
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_every_test_example_is_scored_once(trained):
    for results in ("separation/test/results.csv", "asr/test/test.csv/results.csv"):
        alone, nodes = (table(trained / run / results) for run in ("alone", "nodes"))
        assert [row["id"] for row in nodes] == [row["id"] for row in alone] == [f"test{i}" for i in range(4)]
        for one, other in zip(alone, nodes):
            scores = [key for key, value in one.items() if value.replace(".", "").replace("-", "").isdigit()]
            assert scores and [float(other[k]) for k in scores] == pytest.approx(
                [float(one[k]) for k in scores], abs=1e-2
            )
    pictures = [
        sorted(p.name for p in (trained / run / "separation/test/examples").iterdir()) for run in ("alone", "nodes")
    ]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 6  # one example
