"""Studies: the order of what is run, budgets and resuming, equal time, and what a wrong file is told."""

from __future__ import annotations

import csv

import pytest
import study
import tune
from quality import runner, study_file, training_run

TRAINING = """
import csv, json, os, random, signal, sys, time
from pathlib import Path
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
text = Path(sys.argv[1]).read_text()
folder, seed, slow = Path(options["--output_folder"]), int(options["--seed"]), "slow: true" in text
(folder / "save").mkdir(parents=True, exist_ok=True)
if "--data_prep_only" in options:
    rows = "\\n".join(f"m{i},{1 + i % 4}" for i in range(12))
    (folder / "save" / "test.csv").write_text(f"ID,duration\\n{rows}\\n")
    sys.exit()
assert options["--skip_prep"] == "True" and (folder / "save" / "test.csv").exists()
lr, epochs = float(options.get("--lr", 0.5)), int(options["--number_of_epochs"])
if "fails: true" in text and folder.parts[-2] != "trial_0":
    sys.exit("error: the loss is not finite any more.")
table, done = "epoch,valid_si_snr", 0
if (folder / "training.csv").exists():
    table = (folder / "training.csv").read_text()
    done = len(table.splitlines()) - 1
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
for epoch in range(done + 1, epochs + 1):
    end = time.process_time() + (0.3 if slow else 0.15)
    while time.process_time() < end:
        pass
    table += f"\\n{epoch},{epoch - (lr - 1) ** 2}"
    (folder / "new").write_text(table)
    os.replace(folder / "new", folder / "training.csv")
    if stop:
        sys.exit(143)
(folder / "test").mkdir(exist_ok=True)
draw = random.Random(seed)
with open(folder / "test" / "results.csv", "w") as file:
    file.write("id,si_snr_i,unscored\\n")
    for i in range(12):
        file.write(f"m{i},{(2 if slow else 1) + draw.random()},\\n")
(folder / "finished.json").write_text(json.dumps({"epochs": epochs}))
"""

STUDY = """
title: A toy
question: Which is better?
task: toy
items: separation
folders: {speech: data/speech}
options: {corpus: "{speech}"}
shared_data: {seed: 1}
systems:
    quick: {hparams: one}
    slow: {hparams: one, options: {slow: true}}
baseline: slow
tuning: {trials: 2, epochs: 1, space: [lr=0.9:1.1]}
seeds: [1, 2]
epochs: 4
measures:
    - {name: si_snr_i, label: "SI-SNRi, dB", better: higher}
length_edges: [2, 3]
"""

HPARAMS = "lr: 0.5\nslow: false\nfails: false\ncorpus: x\nmodules: {a: !new:torch.nn.Linear [3, 4]}\n"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A task whose training takes a second, and the file of a study of two of its systems."""
    for module in (runner, study_file, tune):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(tune, "POLL", 0.02)
    monkeypatch.setattr(training_run, "POLL", 0.02)
    (tmp_path / "recipes" / "toy").mkdir(parents=True)
    (tmp_path / "recipes" / "toy" / "train.py").write_text(TRAINING)
    (tmp_path / "hparams" / "toy").mkdir(parents=True)
    (tmp_path / "hparams" / "toy" / "one.yaml").write_text(HPARAMS)
    path = tmp_path / "toy_study.yaml"
    path.write_text(STUDY)
    return path


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_study_from_its_file_to_its_items(toy, tmp_path, capsys):
    out = tmp_path / "out"
    assert study.main([str(toy), "--out", str(out), "--folder", f"speech={tmp_path}"]) == 0
    trials = rows_of(out / "tuning" / "trials.csv")
    assert [(row["system"], row["trial"]) for row in trials] == [(s, t) for t in "01" for s in ("quick", "slow")]
    assert trials[2]["lr"] == trials[3]["lr"] != "0.5"
    runs = rows_of(out / "runs.csv")
    assert [row["status"] for row in runs] == ["done"] * 8
    assert {row["settings"] for row in runs} == {f"lr={trials[2]['lr']}"}  # nearer to 1, which the toy likes best
    epochs = {(row["comparison"], row["system"]): int(row["epochs"]) for row in runs}
    assert epochs[runner.STEPS, "quick"] == epochs[runner.STEPS, "slow"] == epochs[runner.TIME, "quick"] == 4
    assert 1 <= epochs[runner.TIME, "slow"] <= 3  # about half of the time is taken by an epoch of the other
    items = rows_of(out / "items.csv")
    assert len(items) == 8 * 12 and {row["length"] for row in items} == {"1.0", "2.0", "3.0", "4.0"}
    assert f"corpus: {tmp_path}" in (out / "hparams" / "toy" / "quick.yaml").read_text()


def test_a_budget_stops_a_training_and_the_same_command_resumes_it(toy, tmp_path, capsys):
    toy.write_text(STUDY.replace("epochs: 4", "epochs: 6\nequal_time: false"))
    out = tmp_path / "out"
    command = [str(toy), "--out", str(out)]
    while True:
        assert study.main([*command, "--budget", "1.2"]) == 0
        if "the same command goes on" not in capsys.readouterr().out:
            break
    runs = rows_of(out / "runs.csv")
    assert [(row["seed"], row["system"], row["status"]) for row in runs] == [
        (seed, system, "done") for seed in "12" for system in ("quick", "slow")
    ]
    assert all(float(row["seconds_per_epoch"]) < 1 for row in runs), runs
    assert len(rows_of(out / "items.csv")) == 4 * 12
    assert len(rows_of(out / "tuning" / "trials.csv")) == 4
