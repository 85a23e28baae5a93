"""The speaker encoder's recipe from end to end."""

import csv
import json
import math
from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch
import torch.nn.functional as F
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.nnet.losses import LogSoftmaxWrapper

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.manifests import write_manifest
from speechbrain_mamba.utils.hparams import load_hparams
from tests.conftest import HPARAMS
from tests.evaluation.test_speaker_report import sorted_equal_error_rate
from tests.recipes.tts_spies import assert_resumed, load_script, make_trainer, note_loaders

TINY = {
    "batch_size": 6, "crop_seconds": 0.3, "n_warmup_steps": 2, "n_speakers": 4, "emb_dim": 8, "number_of_epochs": 10,
    "lr": 0.003,
}  # fmt: skip


def speech(speaker):
    """Noise with bursts at low or at high frequencies: a voice's color, which does not go with the mean."""
    noise, burst = 0.05 * torch.randn(2, 4001)
    burst = burst[1:] + {"a": 0.9, "b": -0.9}[speaker] * burst[:-1]
    return 0.1 * noise[1:] + burst * (torch.arange(4000) // 400 % 2)


@pytest.fixture
def manifests(tmp_path):
    """Utterances of two speakers."""
    for split, count in {"train": 24, "valid": 6, "test": 6}.items():
        rows = []
        for i in range(count):
            path = tmp_path / "wavs" / f"{split}{i}.wav"
            write_audio(path, speech("ab"[i % 2]), 8000)
            rows.append({"ID": path.stem, "duration": 0.5, "wav": path, "wrd": "", "spk_id": "ab"[i % 2]})
        write_manifest(tmp_path / "lists" / f"{split}.csv", rows)
    return tmp_path / "lists"


@pytest.fixture
def train(manifests, tmp_path):
    """Run the recipe with options; its output folder is returned."""
    paths = {"manifest_folder": manifests, "output_folder": tmp_path / "out"}
    return make_trainer("speaker/train", "speaker/mini_speaker", paths | TINY)


@pytest.mark.slow
def test_voices_are_told_apart_by_what_speechbrain_loads(train, tmp_path):
    out = train()
    assert json.loads((out / "test" / "verification.json").read_text())["EER"] <= 20  # by chance 50
    encoder = EncoderClassifier.from_hparams(str(out / "inference"), savedir=str(tmp_path / "cache"))
    voices = torch.stack([speech(speaker) for speaker in "aab"])
    same, same_too, other = torch.nn.functional.normalize(encoder.encode_batch(voices)[:, 0], dim=-1)
    assert same @ same_too > same @ other


def test_what_does_not_fit_is_named(train, manifests):
    with pytest.raises(ValueError, match="There are 2 training speakers, but n_speakers is 1"):
        train(n_speakers=1)
    table = (manifests / "valid.csv").read_text()
    (manifests / "valid.csv").write_text(table.replace(",a", ","))
    with pytest.raises(ValueError, match="has no spk_id for 'valid0'"):
        train()
    for speakers in (("a", "a"), ("a", "b")):  # of one speaker, and all of different ones
        rows = [
            {"ID": f"u{i}", "duration": 0.5, "wav": "../wavs/test0.wav", "wrd": "", "spk_id": s}
            for i, s in enumerate(speakers)
        ]
        write_manifest(manifests / "valid.csv", rows)
        with pytest.raises(
            ValueError, match=rf"valid has 2 utterances of {len(set(speakers))} speakers, but the equal"
        ):
            train()
    (manifests.parent / "wavs" / "train3.wav").unlink()
    with open(manifests / "train.csv", "a") as file:
        file.write("\n")  # else it is known to be good
    with pytest.raises(ValueError, match=r"train\.csv', line 5: 'train3' cannot be used\. .* does not exist"):
        train()
    assert not list(manifests.parent.rglob("training.csv"))


def angles(*degrees):
    """Embeddings (utterances, 1, 2) of different lengths in some directions."""
    radians = torch.tensor(degrees) * math.pi / 180
    return (torch.stack([radians.cos(), radians.sin()], 1) * torch.arange(1, len(degrees) + 1)[:, None])[:, None]


@pytest.fixture
def brain():
    """The training of an encoder of two channels, of three speakers."""
    hparams = load_hparams(
        HPARAMS / "speaker" / "mini_speaker.yaml", {"manifest_folder": "unused", "n_speakers": 3, "emb_dim": 2}
    )
    brain = load_script("speaker/train").SpeakerBrain(hparams["modules"], hparams["optimizer"], hparams)
    brain.labels = {"anna": 0, "ben": 1, "cleo": 2}
    brain.on_stage_start(sb.Stage.VALID)
    return brain


def test_embeddings_are_compared_by_their_directions_whatever_their_batch(brain):
    directions = {"anna": (24, 320, 250), "ben": (254, 193), "cleo": (172, 300, 353)}
    names = [name for name, degrees in directions.items() for _ in degrees]
    degrees = [degree for own in directions.values() for degree in own]
    for part in (slice(0, 3), slice(3, 8)):  # two batches
        batch = SimpleNamespace(id=names[part], spk_id=names[part], sig=(torch.ones(8, 3), None))
        loss = brain.compute_objectives(angles(*degrees)[part], batch, sb.Stage.VALID)
        assert loss == 0
    pairs = [(i, j) for i in range(8) for j in range(i)]
    cosines = {pair: math.cos((degrees[pair[0]] - degrees[pair[1]]) * math.pi / 180) for pair in pairs}
    same, other = ([cosines[i, j] for i, j in pairs if (names[i] == names[j]) is equal] for equal in (True, False))
    expected = sorted_equal_error_rate(same, other)
    assert 20 < expected < 50
    assert brain.stage_scores(sb.Stage.VALID, 0.0)["EER"] == pytest.approx(expected, abs=1e-4)


def test_silent_recordings_are_compared_with_none(brain):
    names, wavs = ["anna", "anna", "ben", "ben"], torch.ones(4, 3)
    wavs[1] = 0
    for index in range(4):
        batch = SimpleNamespace(id=[str(index)], spk_id=names[index : index + 1], sig=(wavs[index : index + 1], None))
        brain.compute_objectives(angles(0, 90, 90, 180)[index : index + 1], batch, sb.Stage.VALID)
    assert brain.report.unscored() == [("1", "the recording is silent")]
    assert brain.report.summarize() == {"utterances": 4, "unscored": 1, "pairs": 3, "EER": pytest.approx(25)}


def test_the_loss_widens_the_angle_to_the_own_speaker_by_a_margin(brain):
    names, embeddings = ["cleo", "anna", "ben", "cleo"], angles(10, 100, 200, 300)
    loss = brain.compute_objectives(embeddings, SimpleNamespace(spk_id=names), sb.Stage.TRAIN)
    weight = next(value for value in brain.modules.classifier.parameters() if value.shape == (3, 2))
    labels = torch.tensor([2, 0, 1, 2])
    cosine = F.normalize(embeddings[:, 0], dim=1) @ F.normalize(weight, dim=1).T
    angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    widened = torch.where(angle + 0.2 < math.pi, (angle + 0.2).cos(), cosine - 0.2 * math.sin(0.2))
    logits = 30 * torch.where(F.one_hot(labels, 3).bool(), widened, cosine)
    assert loss.item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert brain.report.rows == []


def test_the_loss_is_not_rounded_in_mixed_precision(brain):
    """A cosine of 1 rounds to above 1, whose sine is not a number."""
    embeddings = torch.randn(60, 1, 2)
    batch = SimpleNamespace(spk_id=["anna", "ben", "cleo"] * 20)
    exact = brain.compute_objectives(embeddings, batch, sb.Stage.TRAIN)
    with torch.autocast("cpu", torch.bfloat16):
        assert brain.compute_objectives(embeddings, batch, sb.Stage.TRAIN) == exact


class Note(torch.nn.Module):
    """Adds one, and notes the lengths that it is given."""

    def forward(self, x, lens=None):
        self.lens = lens
        return x + 1


def test_lengths_go_where_means_are_taken(brain):
    modules = {name: Note() for name in ("compute_features", "mean_var_norm", "embedding_model")}
    brain.modules = torch.nn.ModuleDict(modules)
    batch = SimpleNamespace(sig=(torch.zeros(2, 4), torch.tensor([1.0, 0.5])))
    batch.to = lambda device: batch
    assert torch.equal(brain.compute_forward(batch, sb.Stage.TEST), torch.full((2, 4), 3.0))
    assert [module.lens if module.lens is None else module.lens.tolist() for module in modules.values()] == [
        None, [1.0, 0.5], [1.0, 0.5]
    ]  # fmt: skip


def test_training_hears_pieces_and_the_others_whole_utterances(manifests, tmp_path):
    script = load_script("speaker/train")
    hparams = {"manifest_folder": manifests, "data_root": None, "sample_rate": 8000, "crop_seconds": 0.3}
    table = (manifests / "train.csv").read_text().replace(f"{tmp_path}/wavs", "$data_root")
    (manifests / "train.csv").write_text(table.replace(",b", ",0b"))
    dataset, speakers = script.make_dataset({**hparams, "data_root": tmp_path / "wavs"}, "train")
    assert {len(example["sig"]) for example in dataset} == {2400} and len(dataset) == 24
    assert not torch.equal(dataset[0]["sig"], dataset[0]["sig"])
    assert speakers == ["0b", "a"] and dataset[1]["spk_id"] == "0b"
    for split in ("valid", "test"):
        dataset, _ = script.make_dataset(hparams, split)
        assert {len(example["sig"]) for example in dataset} == {4000}


def test_utterances_too_short_for_the_encoder_are_left_out(manifests, caplog):
    script = load_script("speaker/train")
    hparams = {"manifest_folder": manifests, "data_root": None, "sample_rate": 8000, "crop_seconds": 0.3}
    text = (manifests / "valid.csv").read_text()
    (manifests / "valid.csv").write_text(text.replace("valid0,0.5", "valid0,0.09").replace("valid3,0.5", "valid3,0.1"))
    dataset, _ = script.make_dataset(hparams, "valid")
    assert dataset.data_ids == ["valid1", "valid2", "valid3", "valid4", "valid5"]
    assert "1 of 6 utterances for valid are left out, as they are shorter than 0.1 s: valid0." in caplog.text
    (manifests / "train.csv").write_text((manifests / "train.csv").read_text().replace(",0.5,", ",0.05,"))
    with pytest.raises(ValueError, match=r"The manifest for train has no utterance of at least 0\.1 s"):
        script.make_dataset(hparams, "train")


def test_the_encoder_with_the_fewest_errors_is_kept_tested_and_exported(train, monkeypatch):
    """Out of training embeddings are made up: of six utterances of two voices the second epoch confuses fewest."""
    made_up = iter(
        [[0, 100, 90, 10, 40, 60], [0, 180, 2, 170, 5, 160], [0, 180, 90, 90, 0, 180], [0, 180, 90, 91, 10, 175]]
    )
    passes, forward = [], ECAPA_TDNN.forward

    def forced(encoder, feats, lens):
        result = forward(encoder, feats, lens)
        weight = sum(float(parameter.detach().double().abs().sum()) for parameter in encoder.parameters())
        passes.append(SimpleNamespace(training=encoder.training, size=len(feats), weight=weight))
        passes[-1].feats = round(float(feats.double().abs().sum()), 3)
        return result if encoder.training else F.pad(angles(*next(made_up)), (0, 6))

    monkeypatch.setattr(ECAPA_TDNN, "forward", forced)
    loaders, losses, wrapped = [], [], LogSoftmaxWrapper.forward

    def prepare(module, patch):
        loaders.append(note_loaders(patch))
        patch.setattr("time.monotonic", lambda: 1.26 * len(passes))
        patch.setattr(LogSoftmaxWrapper, "forward", lambda *_: (losses.append(wrapped(*_)), losses[-1])[1])

    options = {"number_of_epochs": 3, "batch_size": 10, "grad_accumulation_factor": 2, "n_warmup_steps": 1}
    out = train(prepare, **options, num_workers=3)
    assert sorted(set(loaders[0]), key=str) == [(stage, 3) for stage in (sb.Stage.TEST, sb.Stage.TRAIN, sb.Stage.VALID)]
    with open(out / "training.csv", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    rates = [row["valid_EER"] for row in rows]
    assert rates[1] == 0 and min(rates[0], rates[2]) > 5
    training = [p for p in passes if p.training]
    assert [p.size for p in training] == [10, 10, 4] * 3
    assert len({p.feats for p in training}) == 9
    # of three batches of an epoch one is left over: three steps
    assert [row["lr"] for row in rows] == pytest.approx([0.003, 0.003 * (0.01 + 0.99 / 2), 0.003 * 0.01])
    means = [sum(loss.item() for loss in losses[3 * epoch : 3 * epoch + 3]) / 3 for epoch in range(3)]
    assert [row["train_loss"] for row in rows] == pytest.approx(means, rel=1e-5)
    assert [row["seconds"] for row in rows] == [5.0] * 3  # of four batches
    log = (out / "train_log.txt").read_text().splitlines()
    assert "train loss: " in log[0] and "valid EER: " in log[0] and "test EER: " in log[3]
    assert "batch_size: 10" in (out / "hyperparams.yaml").read_text()
    first, second, third, tested = [p.weight for p in passes if not p.training]
    assert tested == second and len({first, second, third}) == 3
    exported = torch.load(out / "inference" / "embedding_model.ckpt", weights_only=True)
    kept = [torch.load(path, weights_only=True) for path in (out / "save").glob("CKPT*/embedding_model.ckpt")]
    assert sum(all(torch.equal(weights[name], value) for name, value in exported.items()) for weights in kept) == 1
    rate = json.loads((out / "test" / "verification.json").read_text())["EER"]
    assert rate not in rates and rate > 5


def weights(folder):
    return torch.load(folder / "inference" / "embedding_model.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_killed_and_resumed_equals_uninterrupted(train, tmp_path, workers):
    assert_resumed(train, tmp_path, weights, num_workers=workers)


def test_a_run_is_not_resumed_with_other_speakers(train, manifests):
    out = train(number_of_epochs=1)
    kept, text = sorted(out.rglob("CKPT*")), (manifests / "train.csv").read_text()
    (manifests / "train.csv").write_text(text.replace(",b\n", ",anna\n", 3))
    with pytest.raises(ValueError, match=r"was trained for 2 speakers, but train\.csv has 3 \(not in both: anna\)"):
        train(number_of_epochs=2)
    assert sorted(out.rglob("CKPT*")) == kept
    (manifests / "train.csv").write_text(text)
    train(number_of_epochs=2)


def test_a_finished_run_shows_its_results(train, capsys):
    out = train(number_of_epochs=1)
    before, shown = (out / "test" / "verification.json").stat().st_mtime_ns, capsys.readouterr().out
    rate = json.loads((out / "test" / "verification.json").read_text())["EER"]
    assert f"EER {rate:.1f} %" in " ".join(shown.split())
    assert f"speaker encoder to load: {out / 'inference'}\n" in shown
    train(number_of_epochs=1)
    assert (out / "test" / "verification.json").stat().st_mtime_ns == before
    assert "EER" in capsys.readouterr().out


def test_options_of_all_recipes_hold(train, monkeypatch):
    pytest.importorskip("tensorboard")
    seen, forward = [], ECAPA_TDNN.forward
    note = lambda self, *args: (seen.append(torch.is_autocast_enabled("cpu")), forward(self, *args))[1]  # noqa: E731
    monkeypatch.setattr(ECAPA_TDNN, "forward", note)
    out = train(number_of_epochs=1, precision="bf16", grad_accumulation_factor=2, tensorboard=True)
    assert seen == [True] * 4 + [False] * 2
    assert "steps: 2" in (out / "train_log.txt").read_text()
    assert list((out / "tensorboard").iterdir())
    assert all(value.isfinite().all() for value in weights(out).values())


def test_debugging_leaves_no_table(train, tmp_path):
    out = train(debug=None)
    assert not (out / "training.csv").exists() and not list(out.rglob("CKPT*"))


def test_a_classifier_of_other_speakers_is_not_taken(train, manifests, tmp_path):
    first = train(number_of_epochs=1)
    options = {"output_folder": tmp_path / "second", "init_from": first / "inference", "number_of_epochs": 1}
    for split in ("train", "valid", "test"):
        file = manifests / f"{split}.csv"
        file.write_text(file.read_text().replace(",b", ",c"))
    with pytest.raises(ValueError, match=r"trained for other speakers .* --init_skip 'classifier'"):
        train(**options)
    second = train(**options, init_skip="classifier", freeze="embedding_model")
    one, two = (torch.load(out / "inference" / "embedding_model.ckpt", weights_only=True) for out in (first, second))
    assert all(torch.equal(one[key], two[key]) for key in one)  # the statistics of batch norms too
