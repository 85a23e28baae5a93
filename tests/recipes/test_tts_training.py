"""What the synthesis recipe decides about learning, by spies on its models and its optimizer."""

import csv
import json
from collections import Counter
from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch
import torch.nn.functional as F

from tests.recipes.tts_spies import FACTS, Watch, make_speech, note_loaders, run_script

COUNTS = {"train": 25, "valid": 7, "test": 11}
TINY = {
    "n_phonemes": 12, "n_codebooks": 4, "codebook_size": 16, "num_layers": 1, "d_model": 16, "d_ffn": 16, "nhead": 2,
    "dropout": 0.0, "num_workers": 0, "precision": "fp32", "n_test_utterances": 0, "recognizer": "null",
    "speaker_encoder": "null", "num_buckets": 8, "max_batch_frames": 60, "max_batch_ex": 5, "number_of_epochs": 3,
    "n_warmup_steps": 4, "lr": 0.01,
}  # fmt: skip
OWN = {
    "prompts": "utterance", "code_noise": 0.4, "nar_interval": 4, "grad_accumulation_factor": 3, "max_grad_norm": 0.05,
    "first_seconds": 0.1, "curriculum_epochs": 2, "prompt_seconds": 0.1, "num_workers": 3,
}  # fmt: skip
OTHER = {
    "prompts": "speaker", "prompt_share": 0.6, "epochs_alone": 1, "code_noise": 0, "nar_interval": 1,
    "max_grad_norm": 100, "curriculum_epochs": 0, "n_total_steps": 50, "seed": 7,
}  # fmt: skip
FEW_BATCHES = {"num_buckets": 1, "max_batch_frames": 400, "max_batch_ex": 24}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Train with options; returns what was seen, with the speech, the output folder and its table of epochs."""
    folder = tmp_path_factory.mktemp("speech")
    speech = make_speech(folder, COUNTS)

    def train(hparams, force=None, **options):
        out = tmp_path_factory.mktemp("out")
        options = {"token_folder": folder, "output_folder": out, **TINY, **options}
        with Watch(speech, force) as watch:

            def prepare(module, patch):
                patch.setattr("time.monotonic", lambda: 1.26 * len(watch.passes))
                watch.loaders = note_loaders(patch)

            pictures = run_script("tts/train", f"tts/{hparams}", options, prepare)
        rows = []
        if (out / "training.csv").exists():
            with open(out / "training.csv", newline="") as file:
                rows = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
        return SimpleNamespace(watch=watch, speech=speech, out=out, rows=rows, options=options, pictures=pictures)

    return train


@pytest.fixture(scope="module")
def own(train):
    """A training whose prompts are the beginnings of the utterances, with all that can be varied."""
    return train("vallm", **OWN)


@pytest.fixture(scope="module")
def other(train):
    """A training whose prompts are other utterances, with other values of all."""
    return train("mini_vallm", **OTHER)


def names(passes):
    return sorted(name for p in passes for name in p.names)


def examples(passes):
    return [example for p in passes for example in p.examples]


def usable(speech, split, speakers="abc"):
    return sorted(name for name, item in speech.items() if name.startswith(split) and item["spk_id"] in speakers)


def test_each_split_is_seen_where_it_belongs(own, other):
    for run, last, speakers in ((own, 3, "abc"), (other, 1, "ab")):  # c says one thing only
        valid, test = (usable(run.speech, split, speakers) for split in ("valid", "test"))
        for epoch in range(last, 4):
            assert names(run.watch.of("ar", "train", epoch)) == usable(run.speech, "train")
        for part in ("ar", "nar"):
            assert all(names(run.watch.of(part, "valid", epoch)) == valid for epoch in (1, 2, 3))
            assert names(run.watch.of(part, "test")) == test
    assert names(other.watch.of("nar", "train")) == names(other.watch.of("ar", "train"))


def test_batches_are_within_their_limits(own, other):
    for run in (own, other):
        for p in run.watch.passes:
            frames = [len(run.speech[name]["codes"]) for name in p.names]
            assert len(frames) <= TINY["max_batch_ex"] and max(frames) * len(frames) <= TINY["max_batch_frames"]
        assert max(len(p.names) for p in run.watch.passes) == TINY["max_batch_ex"]
        for stage in ("valid", "test"):
            assert max(len(p.names) for p in run.watch.of("ar", stage)) > 1
        assert any(len({len(run.speech[name]["codes"]) for name in p.names}) > 1 for p in run.watch.passes)


def test_each_epoch_has_other_batches(own, other):
    for run, epochs in ((own, (2, 3)), (other, (1, 2, 3))):
        batches = [{tuple(sorted(p.names)) for p in run.watch.of("ar", "train", epoch)} for epoch in epochs]
        assert all(batches[0] != later for later in batches[1:])
        assert batches[-2] != batches[-1]


def test_long_speech_comes_later_with_a_curriculum(own, other):
    def longest(run, epoch):
        return max(len(run.speech[name]["codes"]) for p in run.watch.of("ar", "train", epoch) for name in p.names)

    assert [longest(other, epoch) for epoch in (1, 2, 3)] == [14, 14, 14]
    first = FACTS.frame_rate * OWN["first_seconds"]
    assert longest(own, 1) <= first < longest(own, 2) <= first + (14 - first) / 2 < longest(own, 3) == 14
    assert len({len(own.watch.of("ar", "train", epoch)) for epoch in (1, 2, 3)}) == 1


def test_only_the_autoregressive_model_is_given_wrong_tokens_and_in_training_alone(own, other):
    def wrong(run, part, stage):
        pairs = []
        for example in examples(run.watch.of(part, stage)):
            right = [run.speech[name]["codes"] for name in (example.behind, example.name) if name]
            right = torch.cat([torch.as_tensor(codes) for codes in right])
            right = right[:, 0] if part == "ar" else right
            assert example.codes.shape == right.shape
            pairs.append((example.codes != right).flatten())
        return float(torch.cat(pairs).float().mean())

    assert wrong(own, "ar", "train") == pytest.approx(0.4 * 15 / 16, abs=0.04)  # a token in 16 is drawn again
    for part, stage in (("ar", "valid"), ("ar", "test"), ("nar", "train"), ("nar", "valid"), ("nar", "test")):
        assert wrong(own, part, stage) == 0
        assert wrong(other, part, stage) == 0
    assert wrong(other, "ar", "train") == 0


def test_prompts_in_front_come_after_the_epochs_alone_and_from_the_same_speaker(own, other):
    assert not any(example.behind for example in examples(own.watch.passes))
    assert not any(len(example.inputs["prompt_codes"]) for example in examples(own.watch.of("ar", "train")))
    assert not any(example.behind for part in ("ar", "nar") for example in examples(other.watch.of(part, "train", 1)))
    later = [e for epoch in (2, 3) for e in examples(other.watch.of("ar", "train", epoch))]
    assert 0.4 < sum(example.behind is not None for example in later) / len(later) < 0.8
    for stage in ("valid", "test"):
        assert all(example.behind for example in examples(other.watch.of("ar", stage)))
    for example in examples(other.watch.passes):
        if example.behind:
            assert example.behind != example.name
            assert other.speech[example.behind]["spk_id"] == other.speech[example.name]["spk_id"]


def test_prompts_in_front_are_drawn_anew_in_training_and_stay_the_same_otherwise(train):
    options = {"epochs_alone": 0, "prompt_share": 1.0, "train_parts": ["ar"], **FEW_BATCHES}
    run = train("mini_vallm", **{**OTHER, **options})
    for stage, same in (("train", False), ("valid", True)):
        pairs = [sorted((e.name, e.behind) for e in examples(run.watch.of("ar", stage, epoch))) for epoch in (1, 2, 3)]
        assert all(behind for epoch in pairs for _, behind in epoch)
        assert (pairs[0] == pairs[1] == pairs[2]) is same


def test_the_autoregressive_model_is_told_where_the_prompt_ends(other):
    for example in examples(other.watch.of("ar", "train") + other.watch.of("ar", "test")):
        item = other.speech.get(example.behind, {"phonemes": (), "codes": ()})
        assert example.inputs["prompt_phonemes"].tolist() == list(item["phonemes"])
        assert len(example.inputs["prompt_codes"]) == len(item["codes"])


def test_the_prompt_of_the_other_model_is_a_part_of_the_utterance_or_what_is_in_front(own, other):
    for run, most in ((own, round(OWN["prompt_seconds"] * FACTS.frame_rate)), (other, 150)):
        for stage in ("train", "valid", "test"):
            for example in examples(run.watch.of("nar", stage)):
                frames, length = len(example.inputs["prompt_codes"]), len(example.codes)
                if example.behind:
                    assert frames == len(run.speech[example.behind]["codes"])
                elif stage == "train":
                    assert max(1, length // 8) <= frames <= max(1, min(length // 2, most))
                else:
                    assert frames == max(1, length // 4)


def test_codebooks_are_drawn_in_training_and_follow_from_the_utterance_otherwise(own, other):
    for run in (own, other):
        drawn = Counter(int(example.inputs["stage"]) for example in examples(run.watch.of("nar", "train")))
        assert set(drawn) == {1, 2, 3}
        for stage in ("valid", "test"):
            everything = examples(run.watch.of("nar", stage))
            in_order = [name for name in run.speech if name in {example.name for example in everything}]
            books = {name: place % 3 + 1 for place, name in enumerate(in_order)}
            assert len(books) > 4 and all(int(example.inputs["stage"]) == books[example.name] for example in everything)
    in_turn = [index % 3 + 1 for index in range(24)]
    assert [int(e.inputs["stage"]) for e in examples(other.watch.of("nar", "train", 1))] != in_turn


def test_each_validation_has_the_same_batches(own, other):
    for run in (own, other):
        batches = [[p.names for p in run.watch.of("ar", "valid", epoch)] for epoch in (1, 2, 3)]
        assert batches[0] == batches[1] == batches[2] and len(batches[0]) > 1


def test_the_non_autoregressive_model_rests_between_its_steps(own, other):
    for run, interval in ((own, 4), (other, 1)):
        for epoch in (1, 2, 3):
            parts = [p.part for p in run.watch.passes if (p.stage, p.epoch) == ("train", epoch)]
            batches = range(1, parts.count("ar") + 1)
            assert parts == [part for batch in batches for part in ("ar", "nar")[: 1 + (batch % interval == 0)]]
    # of eight batches the fourth and the last, which is left over
    assert [step.parts for step in own.watch.steps] == 3 * [{"ar"}, {"ar", "nar"}]
    assert all(step.parts == {"ar", "nar"} for step in other.watch.steps)


def steps(run):
    """Steps of the optimizer in a run, by the batches that it had."""
    factor = run.options.get("grad_accumulation_factor", 1)
    return sum(len(run.watch.of("ar", "train", epoch)) // factor for epoch in (1, 2, 3))


def test_the_schedule_counts_steps_of_the_optimizer(own, other):
    assert len(own.watch.of("ar", "train", 1)) == 8  # of which two are left over
    for run, total in ((own, steps(own)), (other, OTHER["n_total_steps"])):
        warmup, expected = TINY["n_warmup_steps"], []
        for step in range(1, steps(run) + 1):
            factor = step / warmup if step < warmup else (total - step) / (total - warmup)
            expected.append(TINY["lr"] * factor)
        assert [step.lr for step in run.watch.steps] == pytest.approx(expected, abs=1e-12)
        last = [expected[steps(run) // 3 * epoch - 1] for epoch in (1, 2, 3)]
        assert [row["lr"] for row in run.rows] == pytest.approx(last, abs=1e-12)


def test_gradients_are_clipped_to_the_norm_of_the_file(own, other):
    assert max(step.norm for step in own.watch.steps) == pytest.approx(OWN["max_grad_norm"], rel=1e-3)
    assert 10 * OWN["max_grad_norm"] < max(step.norm for step in other.watch.steps) < OTHER["max_grad_norm"]


def expected_scores(run, passes):
    """Cross-entropy per token and right tokens in percent, of what the models predicted."""
    losses, right = [], []
    for p in passes:
        for example in p.examples:
            codes = [run.speech[name]["codes"] for name in (example.behind, example.name) if name]
            codes = torch.cat([torch.as_tensor(part) for part in codes])
            if p.part == "ar":
                targets = torch.cat([codes[:, 0], torch.tensor([FACTS.codebook_size])])
            else:
                targets = codes[len(example.inputs["prompt_codes"]) :, int(example.inputs["stage"])]
            logits = example.logits[: len(targets)]
            losses.append(F.cross_entropy(logits, targets, reduction="none"))
            right.append(logits.argmax(-1) == targets)
    return float(torch.cat(losses).mean()), 100 * float(torch.cat(right).float().mean())


def test_the_scores_of_an_epoch_are_means_over_its_tokens(own, other):
    for run in (own, other):
        assert [row["epoch"] for row in run.rows] == [1, 2, 3]
        for row in run.rows:
            for part in ("ar", "nar"):
                for stage in ("train", "valid"):
                    loss, accuracy = expected_scores(run, run.watch.of(part, stage, row["epoch"]))
                    assert row[f"{stage}_{part}_loss"] == pytest.approx(loss, rel=1e-5)
                    assert row[f"{stage}_{part}_accuracy"] == pytest.approx(accuracy, rel=1e-5)
        scores = json.loads((run.out / "test" / "prediction.json").read_text())
        for part in ("ar", "nar"):
            expected = dict(zip(("loss", "accuracy"), expected_scores(run, run.watch.of(part, "test"))))
            assert {name: scores[f"{part}_{name}"] for name in expected} == pytest.approx(expected, rel=1e-5)
    scores = {f"{stage}_{part}_" for stage in ("train", "valid") for part in ("ar", "nar")}
    panels = {
        "nats": {s + "loss" for s in scores},
        "% right": {s + "accuracy" for s in scores},
        "learning rate": {"lr"},
    }
    picture = other.pictures["training"]
    assert {label: set(lines) for label, lines in picture.items()} == panels
    for lines in picture.values():
        assert lines == {name: pytest.approx([row[name] for row in other.rows]) for name in lines}
    for row in own.rows + other.rows:
        run = own if row in own.rows else other
        epoch = [p for p in run.watch.passes if p.epoch == row["epoch"] and p.stage != "test"]
        assert row["seconds"] == pytest.approx(round(1.26 * len(epoch), 1))
    log = (other.out / "train_log.txt").read_text().splitlines()
    assert [line.split(",")[0] for line in log[:3]] == [f"epoch: {epoch}" for epoch in (1, 2, 3)]
    assert all(f"{stage} nar_{score}: " in log[0] for stage in ("train", "valid") for score in ("loss", "accuracy"))
    assert f"steps: {steps(other)}" in log[2] and log[3].startswith("Epoch loaded: ")


def test_the_settings_of_a_run_are_left_with_it(own):
    text = (own.out / "hyperparams.yaml").read_text()
    assert "code_noise: 0.4" in text and f"output_folder: {own.out}" in text


def test_the_training_has_the_workers_of_the_file(own):
    assert (sb.Stage.TRAIN, 3) in own.watch.loaders


def test_a_run_to_find_faults_leaves_no_table(train):
    run = train("vallm", train_parts=["ar"], debug=None, **FEW_BATCHES)
    assert run.watch.passes and not run.rows


@pytest.fixture(scope="module")
def spoken(train, tmp_path_factory):
    """A training whose first epoch is the best of one model, the second of the other, and the third of both; its test
    set is spoken."""
    torch.manual_seed(0)
    encodec = pytest.importorskip("speechbrain_mamba.codecs", reason="the package encodec is not installed")
    sizes = {"n_codebooks": FACTS.n_codebooks, "codebook_size": FACTS.codebook_size, "dimension": 4, "n_filters": 2}
    codec = tmp_path_factory.mktemp("codec")
    encodec.save_codec(encodec.EnCodec(FACTS.sample_rate, (8, 5, 4), **sizes, lstm=1), codec)
    wrong = {"ar": {1: 0, 2: 8, 3: 2, 4: 8}, "nar": {1: 8, 2: 0, 3: 2, 4: 8}}
    options = {"number_of_epochs": 4, "codec": codec, "n_test_utterances": 20, "max_seconds": 0.3, **FEW_BATCHES}
    return train("vallm", force=lambda part, epoch: wrong[part][epoch], **options)


def test_the_checkpoint_of_the_smallest_sum_of_both_losses_is_tested_and_exported(spoken):
    for part in ("ar", "nar"):
        losses = [row[f"valid_{part}_loss"] for row in spoken.rows]
        assert losses.index(min(losses)) == {"ar": 0, "nar": 1}[part]
        weights = [spoken.watch.of(part, "valid", epoch)[0].weight for epoch in (1, 2, 3, 4)]
        assert len(set(weights)) == 4
        assert {p.weight for p in spoken.watch.of(part, "test")} == {weights[2]}
        exported = torch.load(spoken.out / "inference" / f"{part}.ckpt", weights_only=True)
        assert sum(float(value.double().abs().sum()) for value in exported.values()) == pytest.approx(weights[2])
    assert len(list((spoken.out / "save").glob("CKPT*/CKPT.yaml"))) == 2  # the best and the last


def test_all_of_the_test_set_that_has_a_prompt_is_spoken(spoken):
    with open(spoken.out / "test" / "synthesis.csv", newline="") as file:
        said = sorted(row["ID"] for row in csv.DictReader(file))
    assert said == sorted(set(usable(spoken.speech, "test")) - {"test5"})  # whose speaker says nothing else


@pytest.mark.parametrize(("part", "other_part"), [("ar", "nar"), ("nar", "ar")])
def test_one_part_alone_learns_in_every_step(train, part, other_part):
    options = {"train_parts": [part], "nar_interval": 3, "number_of_epochs": 1, "n_test_utterances": 3}
    options |= {"recognizer": "nobody", "speaker_encoder": "nobody"}  # who need not be there
    run = train("vallm", **options, **FEW_BATCHES)
    assert not any(p.part == other_part for p in run.watch.passes)
    assert names(run.watch.of(part, "train")) == usable(run.speech, "train")
    assert len(run.watch.steps) == len(run.watch.of(part, "train"))
    assert all(step.parts == {part} for step in run.watch.steps)
    names_of_scores = {f"{stage}_{part}_{score}" for stage in ("train", "valid") for score in ("loss", "accuracy")}
    assert set(run.rows[0]) == {"epoch", "lr", "valid_loss", "skipped", "seconds"} | names_of_scores
    assert set(json.loads((run.out / "test" / "prediction.json").read_text())) == {f"{part}_loss", f"{part}_accuracy"}
    assert not (run.out / "inference").exists() and not (run.out / "test" / "synthesis.csv").exists()
