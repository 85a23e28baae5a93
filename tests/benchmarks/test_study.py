"""Studies: the order of what is run, budgets and resuming, equal time, and what a wrong file is told."""

from __future__ import annotations

import csv
import json
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

import sharing
import study
import tune
from quality import clock, items, runner, study_file, tables, training_run

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


@pytest.mark.slow
def test_a_study_from_its_file_to_its_items(toy, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        study.main([str(toy), "--out", str(out), "--folder", f"speech={tmp_path}", "--publish", str(tmp_path / "docs")])
        == 0
    )
    trials = rows_of(out / "tuning" / "trials.csv")
    assert [(row["system"], row["trial"]) for row in trials] == [(s, t) for t in "01" for s in ("quick", "slow")]
    assert trials[2]["lr"] == trials[3]["lr"] != "0.5"
    runs = rows_of(out / "runs.csv")
    assert [row["status"] for row in runs] == ["done"] * 8
    assert {row["settings"] for row in runs} == {f"lr={trials[2]['lr']}"}  # nearer to 1, which the toy likes best
    epochs = {(row["comparison"], row["system"]): int(row["epochs"]) for row in runs}
    assert epochs[runner.STEPS, "quick"] == epochs[runner.STEPS, "slow"] == epochs[runner.TIME, "quick"] == 4
    assert 1 <= epochs[runner.TIME, "slow"] <= 3  # about half of the time is taken by an epoch of the other
    found = rows_of(out / "items.csv")
    assert len(found) == 8 * 12 and {row["length"] for row in found} == {"1.0", "2.0", "3.0", "4.0"}
    assert f"corpus: {tmp_path}" in (out / "hparams" / "toy" / "quick.yaml").read_text()
    summary = {(row["comparison"], row["system"]): row for row in rows_of(out / "summary.csv")}
    assert 1 < float(summary[runner.STEPS, "quick"]["mean"]) < 2 < float(summary[runner.STEPS, "slow"]["mean"]) < 3
    (difference, _) = rows_of(out / "differences.csv")
    assert float(difference["difference"]) == pytest.approx(-1) and float(difference["high"]) < -0.9
    assert (out / "figure.png").stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert f"| {runner.STEPS} | slow | 0.00 M | 2 | 4 |" in shown and "| quick - slow | SI-SNRi, dB | -1.00 |" in shown
    (out / "summary.csv").unlink()
    assert study.main([str(toy), "--out", str(out), "--tables_only"]) == 0 and (out / "summary.csv").exists()
    published = rows_of(tmp_path / "docs" / "toy_study" / "items.csv")
    assert len(published) == len(found) and float(published[0]["si_snr_i"]) == pytest.approx(
        float(found[0]["si_snr_i"]), rel=1e-3
    )


@pytest.mark.slow
def test_a_budget_stops_a_training_and_the_same_command_resumes_it(toy, tmp_path, capsys):
    text = STUDY.replace("epochs: 4", "epochs: 6\nequal_time: false").replace("trials: 2", "trials: 1")
    toy.write_text(text.replace("seeds: [1, 2]", "seeds: [1]"))
    out = tmp_path / "out"
    command = [str(toy), "--out", str(out)]
    while True:
        assert study.main([*command, "--budget", "1.5"]) == 0
        if "the same command goes on" not in capsys.readouterr().out:
            break
    runs = rows_of(out / "runs.csv")
    assert [(row["seed"], row["system"], row["status"]) for row in runs] == [
        ("1", system, "done") for system in ("quick", "slow")
    ]
    seconds = [float(row["seconds_per_epoch"]) for row in runs]
    assert all(0 < value < 1 for value in seconds), seconds
    assert len(rows_of(out / "items.csv")) == len(runs) * 12
    assert len(rows_of(out / "tuning" / "trials.csv")) == 2


@pytest.mark.slow
def test_two_processes_share_a_study(toy, tmp_path, monkeypatch):
    """Two threads, which claim as processes do: no command is run twice, and both end with all results."""
    monkeypatch.setattr(sharing, "POLL", 0.02)
    toy.write_text(STUDY.replace("epochs: 4", "epochs: 2\nequal_time: false"))
    out, started, popen = tmp_path / "out", [], training_run.subprocess.Popen
    monkeypatch.setattr(
        training_run.subprocess, "Popen", lambda command, **k: started.append(command) or popen(command, **k)
    )
    found = study_file.read_study(toy, out, {"speech": str(tmp_path)})
    complete = []
    threads = [threading.Thread(target=lambda: complete.append(runner.Runner(found, out, 60).work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert complete == [True, True]
    folders = [command[command.index("--output_folder") + 1] for command in started]
    assert len(folders) == len(set(folders)) == 1 + 4 + 4  # data, trials, runs
    assert [row["status"] for row in rows_of(out / "runs.csv")] == ["done"] * 4
    trials = rows_of(out / "tuning" / "trials.csv")
    assert [(row["system"], row["trial"]) for row in trials] == [(s, t) for t in "01" for s in ("quick", "slow")]
    assert not (out / "claims").exists() and not (out / "tuning" / "claims").exists()


def test_seeds_are_repeated_with_options(toy, tmp_path, monkeypatch):
    text = STUDY.replace("seeds: [1, 2]", "seeds: [1, 2]\nrepeated_with: {a: {fails: false}, b: {fails: true}}")
    toy.write_text(text.replace("{trials: 2, epochs: 1, space: [lr=0.9:1.1]}", "{}"))
    own = study_file.read_study(toy, tmp_path / "out")
    commands = []

    def train(command, folder, *_):
        commands.append(command)
        (folder / "save").mkdir(exist_ok=True)
        (folder / "save" / "test.csv").write_text("ID,duration\nm1,1\nm2,2\n")
        (folder / "test").mkdir()
        score = 3 * (folder.parts[-2] == "b") + int(folder.name)
        (folder / "test" / "results.csv").write_text(f"id,si_snr_i,unscored\nm1,{score},\nm2,{score},\n")
        outcome = training_run.Outcome("done", clock="CPU time", seconds_per_epoch=1.0)
        (folder / "outcome.json").write_text(json.dumps(asdict(outcome)))
        return outcome

    monkeypatch.setattr(runner, "run_training", train)
    given = runner.Runner(own, tmp_path / "out", 60)
    monkeypatch.setattr(given, "prepare", lambda: None)
    assert given.work()
    runs = rows_of(tmp_path / "out" / "runs.csv")
    order = [(row["seed"], row["with"], row["system"]) for row in runs if row["comparison"] == runner.STEPS]
    assert order == [(seed, name, system) for seed in "12" for name in "ab" for system in ("quick", "slow")]
    options = [dict(zip(command[3::2], command[4::2])) for command in commands]
    assert [each["--fails"] for each in options] == ["False", "False", "True", "True"] * 2
    assert len({each["--output_folder"] for each in options}) == 8
    tables.make_tables(own, tmp_path / "out")
    by_name = [row for row in rows_of(tmp_path / "out" / "by_name.csv") if row["system"] == "quick"]
    assert [(row["with"], row["mean"], row["runs"]) for row in by_name[:2]] == [("a", "1.5", "2"), ("b", "4.5", "2")]
    summary = rows_of(tmp_path / "out" / "summary.csv")
    assert (summary[0]["mean"], summary[0]["runs"], summary[0]["items"]) == ("3", "4", "2")
    assert "| quick | 1.50 ± 0.71 (2) | 4.50 ± 0.71 (2) |" in tables.name_markdown(own, tmp_path / "out")
    assert "| parameters | runs |" in tables.summary_markdown(own, tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title: A toy", "titel: A toy", "does not know titel and lacks title"),
        ("baseline: slow", "baseline: best", "baseline best, but must name one of its systems"),
        ("hparams: one}", "file: one}", "The system quick has the keys file, but must have hparams"),
        ("hparams: one}", "hparams: two}", "which is not there"),
        ("lr=0.9:1.1", "lr", "is no range"),
        (
            "seeds: [1, 2]",
            "repeated_with: {a: }",
            "has repeated_with without options: give NAME: {KEY: VALUE} for each",
        ),
        ("seeds: [1, 2]", "repeated_with: {a: {quicker: 1}}", "quicker"),
        ("seeds: [1, 2]", "people: {column: speaker}", "but must have a pattern, or tables and a column"),
        ("{slow: true}}", "{slower: true}}", "slower"),
        ("{slow: true}}", "{modules: {a: !new:torch.nn.Linear [3, 5]}}}", "systems of one study differ by 3% at most"),
    ],
)
def test_mistakes_in_a_file(toy, tmp_path, old, new, words, capsys):
    toy.write_text(STUDY.replace(old, new))
    assert study.main([str(toy), "--out", str(tmp_path / "out")]) == 1
    assert words in capsys.readouterr().err


def test_mistakes_in_a_command(toy, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert study.main([str(toy), *out, "--folder", "music=x"]) == 1
    assert "has no folder music: its folders are speech" in capsys.readouterr().err
    assert study.main(["nothing", *out]) == 1
    assert "There is no study 'nothing': give a file, or one of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        study.main([str(toy), *out, "--folder", "music"])
    assert "give NAME=FOLDER" in capsys.readouterr().err


def test_other_settings_in_the_same_folder_are_refused(toy, tmp_path, capsys):
    command = [str(toy), "--out", str(tmp_path / "out"), "--budget", "0"]
    assert study.main(command) == 0
    toy.write_text(STUDY.replace("{slow: true}", "{slow: 2}"))
    assert study.main(command) == 1
    assert "has other settings than the study now: give another --out" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted((Path(study_file.__file__).parents[1] / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_studies_of_the_house_can_be_read(path, tmp_path):
    own = study_file.read_study(path, tmp_path)
    assert len(own.repeats) >= 3 and own.question.endswith("?")
    assert own.items in items.READERS
    given = runner.Runner(own, tmp_path, 0)
    given.write_hparams()  # options exist, sizes agree
    space = [tune.Range.parse(part) for part in own.tuning.space]
    if space:
        files = [given.hparams(system) for system in own.systems]
        tune.check_keys({file: tune.own_values(file, space) for file in files}, space)  # ends if no file has a key


def test_a_study_that_is_stopped_stops_its_training(tmp_path, monkeypatch):
    started = []
    popen = training_run.subprocess.Popen
    monkeypatch.setattr(training_run.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0])
    monkeypatch.setattr(tune, "read_best", lambda folder: study.end_tidily(15, None) if started else None)
    with pytest.raises(KeyboardInterrupt):
        training_run.run_training([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "run", 1, 60)
    assert started[0].returncode == -signal.SIGTERM
    assert training_run.read_outcome(tmp_path / "run") is None  # the same command starts it again


def test_a_training_that_fails_says_why(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('error: the data are gone.')"]
    outcome = training_run.run_training(command, tmp_path / "run", 1, 60)
    assert (outcome.status, outcome.reason) == ("failed", "It ended with exit code 1: error: the data are gone.")
    assert training_run.run_training(["no such program"], tmp_path / "run", 1, 60) == outcome  # and is not repeated


def test_epochs_are_timed_without_the_start_of_a_process():
    watch = clock.EpochClock()
    assert watch.per_epoch() is None
    watch.see(1, 30.0)
    assert watch.per_epoch() == 30  # the best that is known
    watch.see(2, 40.0)
    watch.see(4, 60.0)  # one went by between two looks
    assert watch.seconds == [10, 10, 10] and watch.per_epoch() == 10


def test_epochs_that_nobody_watched_share_their_time():
    watch = clock.EpochClock(done=2)
    watch.see(5, 60.0)  # who watched was stopped meanwhile
    assert watch.seconds == [] and watch.per_epoch() == 20


def test_words_and_characters_are_counted(tmp_path):
    folder = tmp_path / "test" / "digits"
    folder.mkdir(parents=True)
    (folder / "results.csv").write_text('id,greedy_wer,greedy,reference\na,50,ONE two,"one, three"\nb,0,,FOUR\n')
    first, second = items.recognition_items(tmp_path)
    assert (first["item"], first["greedy_word_errors"], first["words"], first["length"]) == ("a", 1, 2, 2)
    assert (second["greedy_word_errors"], second["greedy_character_errors"], second["characters"]) == (1, 4, 4)
