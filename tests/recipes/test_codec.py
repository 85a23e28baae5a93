"""The codec's recipe, and the preparation of tokens with what it leaves, from end to end."""

import csv
import json
import math
from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch
from torch import nn

pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.codecs import EnCodec, load_codec
from speechbrain_mamba.codecs.losses import MultiScaleMelLoss
from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.codec_tokens import read_tokens
from speechbrain_mamba.dataio.manifests import find_manifests, write_manifest
from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from speechbrain_mamba.utils.weights import read_weights
from tests.recipes.tts_spies import assert_resumed, load_script, make_trainer, note_loaders

TINY = {
    "ratios": [4, 4, 4], "n_codebooks": 2, "codebook_size": 16, "dimension": 8, "n_filters": 4, "batch_size": 4,
    "crop_seconds": 0.4, "min_seconds": 0.35, "n_warmup_steps": 2, "n_examples": 1,
}  # fmt: skip


@pytest.fixture
def manifests(tmp_path):
    """Tones of different pitch and length."""
    for split, count in {"train": 12, "valid": 3, "test": 3}.items():
        rows = []
        for i in range(count):
            t = torch.arange(2400 + 800 * (i % 3)) / 8000
            path = tmp_path / "wavs" / f"{split}{i}.wav"
            write_audio(path, 0.3 * torch.sin(2 * torch.pi * (200 + 50 * i) * t), 8000)
            rows.append({"ID": path.stem, "duration": len(t) / 8000, "wav": path, "wrd": "one two", "spk_id": "tone"})
        write_manifest(tmp_path / "lists" / f"{split}.csv", rows)
    return tmp_path / "lists"


@pytest.fixture
def train(manifests, tmp_path):
    """Run the recipe with options; its output folder is returned."""
    paths = {"manifest_folder": manifests, "output_folder": tmp_path / "out"}
    return make_trainer("codec/train", "codec/mini_codec", paths | TINY)


def table(out) -> list[dict]:
    """The course of the training."""
    with open(out / "training.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def cosine(step, total, lr=0.002, warmup=2, ratio=0.05):
    """The learning rate of a step."""
    if step <= warmup:
        return lr * step / warmup
    return lr * (ratio + (1 - ratio) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))))


@pytest.fixture
def heard(monkeypatch):
    """What codecs are given in training and otherwise: lengths and sums of samples, and the size of their weights."""
    heard, forward = [], EnCodec.forward

    def note(codec, wavs, lengths):
        weight = sum(float(parameter.detach().double().abs().sum()) for parameter in codec.parameters())
        sums = [round(float(wav.double().abs().sum()), 4) for wav in wavs]
        heard.append(SimpleNamespace(training=codec.training, lengths=lengths.tolist(), sums=sums, weight=weight))
        return forward(codec, wavs, lengths)

    monkeypatch.setattr(EnCodec, "forward", note)
    return heard


def test_a_codec_is_trained_and_makes_tokens(train, heard, manifests, monkeypatch, tmp_path, capsys):
    said, judges = iter(["one two", "ONE", ""] * 3), []
    judge = lambda *arguments, sources: (judges.append((*arguments, sources)), lambda wav, rate: next(said))[1]  # noqa: E731
    monkeypatch.setattr("speechbrain_mamba.inference.judges.load_recognizer", judge)
    out = train(number_of_epochs=3, recognizer="somebody", judge_sources="a/b,c/d", device="cpu:0")
    rows = table(out)
    assert rows[-1]["valid_mel"] < rows[0]["valid_mel"]
    assert [row["lr"] for row in rows] == pytest.approx([cosine(step, 6) for step in (2, 4, 6)])
    training = [lengths for batch in heard if batch.training for lengths in batch.lengths]
    assert sorted(training) == [3200] * 24  # four are shorter than min_seconds
    others = [sorted(batch.lengths) for batch in heard if not batch.training]
    assert others == [[2400, 3200, 4000]] * 4  # three validations and a test
    scores = json.loads((out / "test" / "reconstruction.json").read_text())
    assert scores["mel"] > 0 and 1 <= scores["perplexity"] <= 16
    scores = json.loads((out / "test" / "word_errors.json").read_text())
    assert scores == {"utterances": 3, "reference_wer": 0, "wer": 50, "first_codebook_wer": 100}
    shown = " ".join(capsys.readouterr().out.split())
    assert "mel " in shown and "perplexity " in shown and "first_codebook_wer 100.0 %" in shown
    assert judges == [("somebody", "cpu:0", ["a/b", "c/d"])]
    examples = sorted(path.name for path in (out / "test" / "examples").iterdir())
    assert examples == ["test0.png", "test0_original.wav", "test0_reconstruction.wav"]

    load_script("tts/prepare_tokens").main(
        [str(manifests), str(tmp_path / "tokens"), "--codec", str(out / "codec"), "--kind", "characters",
         "--n_codebooks", "1"]
    )  # fmt: skip
    assert "train: 12 utterances, valid: 3 utterances, test: 3 utterances" in capsys.readouterr().out
    items, codes, facts = read_tokens(tmp_path / "tokens", "test")
    assert (facts.n_codebooks, facts.frame_rate) == (1, 125.0)
    expected, _ = load_codec(out / "codec", 1).encode(read_audio(tmp_path / "wavs" / "test1.wav", 8000)[None])
    first, frames = items["test1"]["first_frame"], items["test1"]["frames"]
    assert (codes[first : first + frames] == expected[0].numpy()).all()


def repeat_each(values, times):
    """Each value some times: the validation and the test have as many utterances."""
    return [value for value in values for _ in range(times)]


def test_an_adversary_is_trained_too_and_a_run_resumes_with_the_best_codec_kept(train, heard, monkeypatch):
    """The codec of the first epoch is the best, by what its loss is made to be out of training."""
    distances, loss = iter(repeat_each([2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 3)), MultiScaleMelLoss.forward
    monkeypatch.setattr(
        MultiScaleMelLoss,
        "forward",
        lambda self, *signals: loss(self, *signals) if self.training else torch.tensor(next(distances)),
    )
    options = {"adversarial": True, "discriminator_lr": 0.001, "n_total_steps": 12, "n_examples": 9}
    out = train(number_of_epochs=1, **options)
    before = torch.load(next(out.glob("save/CKPT*/discriminator.ckpt")), weights_only=True)
    best = next(batch.weight for batch in heard if not batch.training)
    first = len(heard)
    train(number_of_epochs=3, **options)
    rows = table(out)
    assert [row["epoch"] for row in rows] == [1, 2, 3] and [row["valid_mel"] for row in rows] == [2, 4, 5]
    assert {"train_adversarial", "train_features"} <= rows[0].keys()
    assert "valid_adversarial" not in rows[0]
    assert [row["lr"] for row in rows] == pytest.approx([cosine(step, 12) for step in (2, 4, 6)])
    resumed = heard[first:]
    tested = resumed[-1]
    assert not tested.training and tested.weight == best
    weights = [batch.weight for batch in resumed if not batch.training]
    assert len(set(weights)) == 3
    codec = read_weights(out / "codec" / "codec.safetensors")
    kept = [torch.load(path, weights_only=True) for path in out.glob("save/CKPT*/codec.ckpt")]
    assert any(all(torch.equal(codec[name], value) for name, value in weights.items()) for weights in kept)
    last = max(out.glob("save/CKPT*"), key=lambda path: path.stat().st_mtime)
    after = torch.load(last / "discriminator.ckpt", weights_only=True)
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    for name in ("codec", "discriminator"):
        state = torch.load(last / f"{name}_optimizer.ckpt", weights_only=True)["state"]
        assert {int(parameter["step"]) for parameter in state.values()} == {6}
        shapes = [value.shape for value in torch.load(last / f"{name}.ckpt", weights_only=True).values()]
        assert all(parameter["exp_avg"].shape in shapes for parameter in state.values())
    assert json.loads((out / "test" / "reconstruction.json").read_text())["mel"] == 6
    assert len(list((out / "test" / "examples").glob("*.png"))) == 3


def test_each_epoch_has_other_batches(train, heard):
    loaders = []

    def prepare(module, patch):
        loaders.append(note_loaders(patch))
        patch.setattr("time.monotonic", lambda: 1.26 * len(heard))

    out = train(prepare, number_of_epochs=2, batch_size=2, min_seconds=0.2, crop_seconds=1, num_workers=3)
    assert sorted(set(loaders[0]), key=str) == [(stage, 3) for stage in (sb.Stage.TEST, sb.Stage.TRAIN, sb.Stage.VALID)]
    assert [row["seconds"] for row in table(out)] == [10.1, 10.1]  # of eight batches
    assert "crop_seconds: 1" in (out / "hyperparams.yaml").read_text()
    log = (out / "train_log.txt").read_text().splitlines()
    assert "train mel: " in log[0] and "valid mel: " in log[0] and "test mel: " in log[2]
    batches = [sorted(batch.sums) for batch in heard if batch.training]
    assert len(batches) == 12
    first, second = ([wav for batch in epoch for wav in batch] for epoch in (batches[:6], batches[6:]))
    assert sorted(first) == sorted(second)
    assert sorted(batches[:6]) != sorted(batches[6:])


def test_short_utterances_are_left_out_of_the_training(manifests):
    codec = load_script("codec/train")
    hparams = {"manifest_folder": manifests, "data_root": None, "sample_rate": 8000, "crop_seconds": 9}
    lengths = [len(example["sig"]) for example in codec.make_dataset({**hparams, "min_seconds": 0.35}, "train")]
    assert sorted(lengths) == [3200] * 4 + [4000] * 4
    assert len(codec.make_dataset({**hparams, "min_seconds": 0.35}, "valid")) == 3
    assert len(codec.make_dataset({**hparams, "min_seconds": 0.4}, "train")) == 8
    with pytest.raises(ValueError, match=r"None of the 12 utterances in '.*train\.csv' has 9\.5 seconds"):
        codec.make_dataset({**hparams, "min_seconds": 9.5}, "train")


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take long to draw: empty files stand for them."""


class Gain(nn.Module):
    """A codec of two samples a frame that only scales: by a half at first."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def count_frames(self, samples):
        return -(-samples // 2)

    def forward(self, wavs, lengths):
        wavs = nn.functional.pad(wavs, (0, wavs.shape[1] % 2), value=9.0)
        codes = torch.arange(wavs.shape[1] // 2)[None, :, None].expand(len(wavs), -1, 2) % 3
        return wavs * self.gain + 0.1, (self.gain - 2).square(), codes


class Listener(nn.Module):
    """A discriminator of two scales with one and two layers."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))
        self.calls = 0

    def forward(self, wavs):
        self.calls += 1
        assert wavs.dim() == 3
        heard = wavs.mean(-1) * self.scale
        return [heard, 2 * heard - 0.2], [[wavs * self.scale], [wavs.square(), 1 + wavs.abs() * self.scale]]


class Distance(nn.Module):
    """A distance that tells both signals and their lengths apart."""

    def forward(self, reconstruction, wavs, lengths):
        return ((3 * reconstruction - 2 * wavs).sum(1) / lengths).square().sum()


WEIGHTS = ("mel", "time", "commitment", "adversarial", "feature")
SIGNALS = torch.tensor([[1.0, -2.0, 3.0, 0.5, 1.0], [0.7, 0.9, 0.0, 0.0, 0.0]])


@pytest.fixture
def brain(tmp_path):
    """The training of a codec of one weight against a discriminator of one weight, with all weights of the loss 0."""

    def make(against=True, max_grad_norm=1e6, **weights):
        modules = {"codec": Gain(), "discriminator": Listener(), "mel_loss": Distance()}
        hparams = {f"{name}_weight": weights.get(name, 0.0) for name in WEIGHTS}
        hparams |= {"adversarial": against, "max_grad_norm": max_grad_norm, "sample_rate": 8000, "n_examples": 0}
        hparams |= {"codec": modules["codec"], "output_folder": str(tmp_path)}
        hparams |= {"train_logger": SimpleNamespace(log_stats=lambda *_, **__: None)}
        hparams |= {"lr_scheduler": lambda optimizer: optimizer.param_groups[0].update(lr=0.01)}
        hparams |= {"discriminator_optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.2)}
        opt_class = lambda parameters: torch.optim.SGD(parameters, lr=7.0)  # noqa: E731
        options = {"hparams": hparams, "checkpointer": AtomicCheckpointer(tmp_path / "save")}
        brain = load_script("codec/train").CodecBrain(modules, opt_class, **options)
        brain.init_optimizers()
        brain.modules.train()
        brain.on_stage_start(sb.Stage.TRAIN, 1)
        return brain

    return make


class Batch(SimpleNamespace):
    """Two signals of 5 and 2 samples."""

    id = "long", "short"
    sig = SIGNALS, torch.tensor([1.0, 0.4])

    def to(self, device):
        return self


def hinge(*values):
    return torch.stack([(1 - value).relu().mean() for value in values]).mean()


def loss_terms(gain, scale):
    """The terms of the codec's loss by name, for weights of both."""
    valid = torch.tensor([[1.0] * 5 + [0.0], [1.0] * 2 + [0.0] * 4])
    wavs = nn.functional.pad(SIGNALS, (0, 1)) * valid
    ours = (wavs * gain + 0.1) * valid
    (logits, fake), (_, real) = (describe(x, scale) for x in (ours, wavs))
    far = [(theirs.detach() - mine).abs().mean() / theirs.detach().abs().mean() for mine, theirs in zip(fake, real)]
    return {
        "mel": ((3 * ours - 2 * wavs).sum(1) / torch.tensor([5, 2])).square().sum(),
        "time": (ours - wavs).abs().mean(),
        "commitment": (gain - 2).square(),
        "adversarial": hinge(*logits),
        "feature": sum(far) / 3,
    }, (wavs, ours)


def describe(wavs, scale):
    """What the discriminator says, and its layers one after the other."""
    logits, layers = wavs.mean(-1) * scale, (wavs * scale, wavs.square(), 1 + wavs.abs() * scale)
    return (logits, 2 * logits - 0.2), layers


@pytest.mark.parametrize("weights", [{name: 1.0} for name in WEIGHTS] + [dict(zip(WEIGHTS, (1, 2, 4, 8, 16)))])
def test_each_weight_counts_its_term(brain, weights):
    gain, scale = torch.tensor(0.5, requires_grad=True), torch.tensor(0.3)
    terms, _ = loss_terms(gain, scale)
    training = brain(**weights)
    outputs = training.compute_forward(Batch(), sb.Stage.TRAIN)
    loss = training.compute_objectives(outputs, Batch(), sb.Stage.TRAIN)
    expected = sum(weight * terms[name] for name, weight in weights.items())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (wanted,) = torch.autograd.grad(expected, gain)
    (slope,) = torch.autograd.grad(loss, training.modules.codec.gain)
    assert slope.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_nobody_is_deceived_without_an_adversary(brain):
    weights = dict(zip(WEIGHTS, (1, 2, 4, 8, 16)))
    training, stage = brain(**weights, against=False), sb.Stage.TRAIN
    loss = training.compute_objectives(training.compute_forward(Batch(), stage), Batch(), stage)
    terms, _ = loss_terms(torch.tensor(0.5), torch.tensor(0.3))
    expected = sum(weights[name] * terms[name] for name in ("mel", "time", "commitment"))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert training.modules.discriminator.calls == 0


def utterance_losses(gain):
    """The distances of the longer and of the shorter signal on its own, and their mean over samples."""
    rows = []
    for wav, samples in zip(SIGNALS, (5, 2)):
        ours, theirs = wav[:samples] * gain + 0.1, wav[:samples]
        rows.append([float((3 * ours - 2 * theirs).sum() / samples) ** 2, float((ours - theirs).abs().mean())])
    return rows, [(5 * long + 2 * short) / 7 for long, short in zip(*rows)]


def test_out_of_training_each_utterance_is_measured_on_its_own(brain):
    training = brain(mel=1.0)
    for stage in (sb.Stage.VALID, sb.Stage.TEST):
        training.on_stage_start(stage)
        training.compute_objectives(training.compute_forward(Batch(), stage), Batch(), stage)
        rows, (mel, distance) = utterance_losses(0.5)
        scores = training.stage_scores(stage, 0.0)
        assert scores == pytest.approx({"mel": mel, "time": distance, "perplexity": 2**1.5}, rel=1e-5)
        for row, (own_mel, own_distance) in zip(training.report.rows, rows):
            assert (row["mel"], row["time"]) == pytest.approx((own_mel, own_distance), rel=1e-5)
        assert [row["id"] for row in training.report.rows] == ["long", "short"]
    assert training.modules.discriminator.calls == 0


def test_silence_and_broken_reconstructions_are_left_out(brain, caplog):
    training, batch = brain(), Batch()
    training.on_stage_start(sb.Stage.VALID, 1)
    batch.sig = torch.tensor([[0.0] * 5, [0.7, float("inf"), 0, 0, 0]]), Batch.sig[1]
    training.compute_objectives(training.compute_forward(batch, sb.Stage.VALID), batch, sb.Stage.VALID)
    with pytest.raises(RuntimeError, match=r"compared .*: long: the recording is silent, short: .* not finite\."):
        training.stage_scores(sb.Stage.VALID, 0.0)
    assert training.stage_scores(sb.Stage.TEST, 0.0) == {}
    batch.id = "third", "fourth"
    batch.sig = Batch.sig
    training.compute_objectives(training.compute_forward(batch, sb.Stage.VALID), batch, sb.Stage.VALID)
    assert training.stage_scores(sb.Stage.VALID, 0.0)["mel"] == pytest.approx(utterance_losses(0.5)[1][0], rel=1e-5)
    assert "2 utterances of the validation are left out: ('long', " in caplog.text


def test_the_discriminator_steps_first_and_then_the_codec(brain):
    weights = dict(zip(WEIGHTS, (1, 2, 4, 8, 16)))
    training = brain(**weights)
    gain, scale = torch.tensor(0.5, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    for _ in range(2):
        _, (wavs, ours) = loss_terms(gain.detach(), scale)
        real, fake = (describe(x, scale)[0] for x in (wavs, ours))
        (slope,) = torch.autograd.grad(hinge(*real) + hinge(*(-logit for logit in fake)), scale)
        scale = (scale - 0.2 * slope).detach().requires_grad_()
        terms, _ = loss_terms(gain, scale.detach())
        expected = sum(weights[name] * terms[name] for name in WEIGHTS)
        (slope,) = torch.autograd.grad(expected, gain)
        gain = (gain - 0.01 * slope).detach().requires_grad_()
        assert training.fit_batch(Batch()).item() == pytest.approx(expected.item(), rel=1e-4)
        assert training.modules.discriminator.scale.item() == pytest.approx(scale.item(), rel=1e-4)
        assert training.modules.codec.gain.item() == pytest.approx(gain.item(), rel=1e-4)


def test_without_an_adversary_the_codec_alone_steps(brain):
    training = brain(mel=1.0, against=False)
    training.fit_batch(Batch())
    assert training.modules.codec.gain.item() != 0.5
    assert training.modules.discriminator.scale.item() == pytest.approx(0.3)
    assert training.modules.discriminator.calls == 0


@pytest.mark.parametrize("most", [0.5, 2.0])
def test_the_step_of_the_codec_is_clipped(brain, most):
    training = brain(mel=100.0, max_grad_norm=most)
    training.fit_batch(Batch())
    assert abs(training.modules.codec.gain.item() - 0.5) == pytest.approx(0.01 * most, rel=1e-3)


def test_gradients_that_are_not_finite_move_nothing(brain):
    training = brain(mel=float("inf"))
    training.fit_batch(Batch())
    assert training.modules.codec.gain.item() == 0.5


def test_the_table_has_means_of_the_terms_and_the_perplexity_of_valid_codes(brain, undrawn, tmp_path):
    training = brain(mel=3.0)
    terms, _ = loss_terms(torch.tensor(0.5), torch.tensor(0.3))
    training.compute_objectives(training.compute_forward(Batch(), sb.Stage.TRAIN), Batch(), sb.Stage.TRAIN)
    with torch.no_grad():
        training.modules.codec.gain.fill_(0.8)
    training.compute_objectives(training.compute_forward(Batch(), sb.Stage.TRAIN), Batch(), sb.Stage.TRAIN)
    training.on_stage_end(sb.Stage.TRAIN, 0.0, 1)
    training.on_stage_start(sb.Stage.VALID, 1)
    training.compute_objectives(training.compute_forward(Batch(), sb.Stage.VALID), Batch(), sb.Stage.VALID)
    training.on_stage_end(sb.Stage.VALID, 0.0, 1)
    later, _ = loss_terms(torch.tensor(0.8), torch.tensor(0.3))
    (row,) = table(tmp_path)
    for name in ("mel", "time", "commitment", "adversarial"):
        assert row[f"train_{name}"] == pytest.approx((terms[name] + later[name]).item() / 2, rel=1e-5)
    assert row["train_features"] == pytest.approx((terms["feature"] + later["feature"]).item() / 2, rel=1e-5)
    mel, distance = utterance_losses(0.8)[1]
    assert (row["valid_mel"], row["valid_time"]) == pytest.approx((mel, distance), rel=1e-5)
    # three frames of the longer signal, with codes 0, 1 and 2, and one of the shorter: shares 1/2, 1/4 and 1/4
    assert row["train_perplexity"] == row["valid_perplexity"] == pytest.approx(2**1.5, rel=1e-4)
    assert (row["epoch"], row["lr"]) == (1, 7.0)
    training.debug = True
    training.on_stage_end(sb.Stage.VALID, 0.0, 2)
    assert len(table(tmp_path)) == 1
    assert training.checkpointer.find_checkpoint(min_key="mel").meta["mel"] == pytest.approx(mel)


def test_missing_manifests_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no train\.csv and no train\.json"):
        find_manifests(tmp_path)


def weights(folder):
    return read_weights(folder / "codec" / "codec.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("against", [False, True])
def test_killed_and_resumed_equals_uninterrupted(train, tmp_path, against):
    assert_resumed(train, tmp_path, weights, adversarial=against, batch_size=2, n_examples=0)


def test_a_finished_run_shows_its_results(train, capsys):
    out = train(number_of_epochs=1)
    before, shown = (out / "test" / "reconstruction.json").stat().st_mtime_ns, capsys.readouterr().out
    assert f"look and listen: {out / 'test' / 'examples'}\ncodec to load:   {out / 'codec'}\n" in shown
    train(number_of_epochs=1)
    assert (out / "test" / "reconstruction.json").stat().st_mtime_ns == before
    assert "codec to load" in capsys.readouterr().out


@pytest.mark.parametrize("against", [False, True])
def test_options_of_all_recipes_hold(train, heard, monkeypatch, against):
    pytest.importorskip("tensorboard")
    seen, forward = [], EnCodec.forward
    note = lambda self, *args: (seen.append(torch.is_autocast_enabled("cpu")), forward(self, *args))[1]  # noqa: E731
    monkeypatch.setattr(EnCodec, "forward", note)
    options = {"precision": "bf16", "grad_accumulation_factor": 3, "tensorboard": True, "batch_size": 2}
    out = train(number_of_epochs=1, adversarial=against, discriminator_lr=0.01, **options)
    assert seen == [True] * 4 + [False] * 4  # four batches of eight utterances, each once; validation and test
    assert "steps: 1 - train mel" in (out / "train_log.txt").read_text()
    assert list((out / "tensorboard").iterdir())
    assert all(value.isfinite().all() for value in weights(out).values())
    assert all(math.isfinite(value) for value in table(out)[0].values())


def test_debugging_leaves_no_table(train):
    out = train(debug=None)
    assert not (out / "training.csv").exists() and not list(out.rglob("CKPT*"))


@pytest.mark.parametrize("against", [True, False])
def test_accumulated_batches_step_as_one(brain, against):
    """Both models step once, by the mean gradient of their batches."""
    weights = dict(zip(WEIGHTS, (1, 2, 4, 8, 16)))
    once, thrice = brain(**weights, against=against), brain(**weights, against=against)
    once.fit_batch(Batch())
    thrice.grad_accumulation_factor = 3
    gains = []
    for _ in range(3):
        gains.append((thrice.modules.codec.gain.item(), thrice.modules.discriminator.scale.item()))
        thrice.fit_batch(Batch())
    assert gains == [pytest.approx((0.5, 0.3))] * 3
    assert thrice.modules.discriminator.scale.item() == pytest.approx(once.modules.discriminator.scale.item())
    if against:  # the discriminator has stepped before the last batch alone
        assert thrice.modules.discriminator.scale.item() != pytest.approx(0.3)
    else:
        assert thrice.modules.codec.gain.item() == pytest.approx(once.modules.codec.gain.item())
    assert thrice.optimizer_step == once.optimizer_step == 1


def test_the_codec_leaves_no_gradients_in_the_discriminator(brain):
    training = brain(adversarial=1.0)
    training.grad_accumulation_factor = 2
    training.fit_batch(Batch())
    scale = torch.tensor(0.3, requires_grad=True)
    _, (wavs, ours) = loss_terms(torch.tensor(0.5), torch.tensor(0.3))
    real, fake = (describe(x, scale)[0] for x in (wavs, ours))
    (slope,) = torch.autograd.grad((hinge(*real) + hinge(*(-logit for logit in fake))) / 2, scale)
    assert training.modules.discriminator.scale.grad.item() == pytest.approx(slope.item())
    assert training.modules.discriminator.scale.requires_grad
    training.fit_batch(Batch())
    assert training.modules.discriminator.scale.grad is None


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_scaler_of_the_gradients_changes_no_step(brain, accumulation):
    """FP16 has one."""
    weights, reached = dict(zip(WEIGHTS, (1, 2, 4, 8, 16))), []
    for enabled in (False, True):
        training = brain(**weights)
        training.scaler = torch.GradScaler("cpu", init_scale=1024.0, enabled=enabled)
        training.grad_accumulation_factor = accumulation
        for _ in range(4):
            training.fit_batch(Batch())
        assert training.optimizer_step == 4 / accumulation
        reached.append([parameter.item() for parameter in training.modules.parameters()])
    assert reached[0] == pytest.approx(reached[1], rel=1e-4)


def test_a_batch_without_a_finite_loss_has_no_part_in_the_means(brain):
    training = brain(mel=1.0)
    training.fit_batch(Batch())
    means = training.stage_scores(sb.Stage.TRAIN, 0.0)
    spoilt, scale = Batch(), training.modules.discriminator.scale.item()
    spoilt.sig = (SIGNALS * math.nan, spoilt.sig[1])
    assert training.fit_batch(spoilt).isnan()
    assert training.stage_scores(sb.Stage.TRAIN, 0.0) == means
    assert training.modules.codec.gain.isfinite() and training.n_skipped == 1
    assert training.modules.discriminator.scale.item() == pytest.approx(scale)


def test_a_discriminator_with_infinite_gradients_does_not_step(brain):
    training = brain(mel=1.0)
    training.modules.discriminator.scale.register_hook(lambda gradient: gradient * math.inf)
    training.fit_batch(Batch())
    assert training.modules.discriminator.scale.item() == pytest.approx(0.3)
    assert training.modules.codec.gain.item() != 0.5
    assert training.n_skipped == 1


@pytest.mark.slow
def test_the_decoder_alone_is_trained_on(train, undrawn, tmp_path):
    """The example of the recipe's README: tokens stay what they are, although the discriminator is new."""
    first = train(number_of_epochs=1)
    options = {"output_folder": tmp_path / "second", "init_from": first / "codec", "number_of_epochs": 1}
    with pytest.raises(ValueError, match=r"Missing there: discriminator\..* --init_skip 'discriminator'"):
        train(**options)
    second = train(
        **options, init_skip="discriminator", freeze="codec.encoder,codec.quantizer", adversarial=True, lr=0.01
    )
    before, after = (load_codec(out / "codec").state_dict() for out in (first, second))
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
