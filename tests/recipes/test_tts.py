"""The synthesis recipe from end to end, on tokens made up."""

import csv
import json
import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch

from speechbrain_mamba.dataio.audio import audio_info
from speechbrain_mamba.dataio.codec_tokens import read_tokens

pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.codecs import EnCodec, save_codec
from speechbrain_mamba.codecs.tokenize_speech import codec_checksum
from speechbrain_mamba.decoders.sampling import TokenSampler
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer
from speechbrain_mamba.utils.stamps import Stamp
from tests.recipes.tts_spies import assert_resumed, load_script, make_predictable_speech, make_trainer, run_script

TINY = {
    "n_phonemes": 12, "n_codebooks": 3, "codebook_size": 16, "num_layers": 1, "d_model": 32, "d_ffn": 32, "nhead": 2,
    "attention_interval": 1, "dropout": 0.0, "number_of_epochs": 2, "num_workers": 0, "num_buckets": 1,
    "max_batch_frames": 200, "n_warmup_steps": 5, "lr": 0.01, "precision": "fp32", "n_test_utterances": 0,
    "recognizer": "null", "speaker_encoder": "null", "epochs_alone": 1, "nar_interval": 1,
    "curriculum_epochs": 0,
}  # fmt: skip
PROMPTS = ("prompt", "other_prompt")


@pytest.fixture
def tokens(tmp_path):
    """Speech that says each phoneme for three frames."""
    return make_predictable_speech(tmp_path / "tokens")


@pytest.fixture
def run(tokens, tmp_path):
    """Run the recipe with a hyper-parameter file and options; its output folder is returned."""

    def call(name, **options):
        options = {"token_folder": tokens, "output_folder": tmp_path / "out", **TINY, **options}
        run_script("tts/train", f"tts/{name}", options)
        return options["output_folder"]

    return call


def table(out) -> list[dict]:
    """The course of the training."""
    with open(out / "training.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["valle", "vallm", "vallm_hybrid", "mini_vallm"])
def test_models_learn_what_follows_from_the_text(run, name):
    out = run(name, number_of_epochs=4)
    rows = table(out)
    assert rows[-1]["valid_nar_accuracy"] > 50  # by chance 6
    assert rows[-1]["valid_ar_loss"] < 2  # by chance 2.8
    assert (out / "training.png").exists()
    scores = json.loads((out / "test" / "prediction.json").read_text())
    assert scores["nar_accuracy"] > 50


def trained(out):
    """The weights, the optimizer's averages and the schedule of the last checkpoint."""
    last = max(out.glob("save/CKPT*/CKPT.yaml"), key=lambda path: path.stat().st_mtime_ns).parent
    kept = {name: torch.load(last / f"{name}.ckpt", weights_only=True) for name in ("ar", "nar", "optimizer")}
    averages = {
        f"{i}.{key}": value for i, state in kept.pop("optimizer")["state"].items() for key, value in state.items()
    }
    return averages | {f"{part}.{name}": value for part, state in kept.items() for name, value in state.items()}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(tokens, tmp_path, workers):
    """With all that is random: prompts and their share, noise in codes, target codebooks, dropout, batches of a
    curriculum; and a non-autoregressive model that rests."""
    options = {
        "dropout": 0.2, "code_noise": 0.3, "prompt_share": 0.6, "epochs_alone": 1, "nar_interval": 2,
        "first_seconds": 0.1, "curriculum_epochs": 2, "num_buckets": 4, "max_batch_ex": 6,
    }  # fmt: skip
    train = make_trainer("tts/train", "tts/mini_vallm", {"token_folder": tokens} | TINY | options)
    assert_resumed(train, tmp_path, trained, num_workers=workers)


@pytest.mark.parametrize("batches", [{"max_batch_ex": 1}, {"max_batch_frames": 30}])
def test_scores_of_the_validation_do_not_depend_on_batches(run, tmp_path, batches):
    options = {"number_of_epochs": 1, "lr": 0.0}
    whole, other = (table(run("vallm", output_folder=tmp_path / name, **options, **sizes)) for name, sizes in
                    {"whole": {}, "other": batches}.items())  # fmt: skip
    for name in ("valid_loss", "valid_ar_loss", "valid_ar_accuracy", "valid_nar_loss", "valid_nar_accuracy"):
        assert other[0][name] == pytest.approx(whole[0][name], rel=1e-5)


def test_the_test_set_is_spoken_in_voices_of_its_speakers(run, tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    torch.manual_seed(0)
    sizes = {"n_codebooks": 4, "codebook_size": 16, "dimension": 4, "n_filters": 2, "lstm": 1}
    save_codec(EnCodec(8000, (8, 5, 4), **sizes), tmp_path / "codec")  # has one codebook more than the tokens
    sampled, judges, sample = [], [], TokenSampler.__call__

    def note(sampler, logits, history):
        sampled.append((len(logits), sampler.seed, sampler.top_p, sampler.repetition_window, sampler.repetition_ratio))
        return sample(sampler, logits, history)

    monkeypatch.setattr(TokenSampler, "__call__", note)
    for kind, judge in (("recognizer", lambda *_: "one"), ("speaker_encoder", lambda wav, _: wav[:1] + 1)):
        load = lambda *a, sources, judge=judge, **_: (judges.append((*a, sources)), judge)[1]  # noqa: E731
        monkeypatch.setattr(f"speechbrain_mamba.inference.judges.load_{kind}", load)
    options = {"number_of_epochs": 1, "n_test_utterances": 5, "test_batch_size": 2, "max_seconds": 0.6, "seed": 77}
    options |= {"recognizer": "hearer", "speaker_encoder": "voices", "judge_sources": "a/b", "device": "cpu:0"}
    out = run("mini_vallm", codec=tmp_path / "codec", **options)
    with open(out / "test" / "synthesis.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["ID"] for row in rows) == [f"test{i}" for i in range(5)]
    for row in rows:
        number = int(row["ID"][4:])
        prompt, other = (int(row[column].removeprefix("test").removesuffix(".wav")) for column in PROMPTS)
        assert prompt != number and prompt % 2 == number % 2 != other % 2
        info = audio_info(row["wav"], 8000)
        assert info.seconds == float(row["duration"]) <= 0.6
        assert row["finished"] == "True" or info.seconds == 0.6
        assert row["reference"] == f"test{number}.wav"
    assert {size for size, *_ in sampled} == {1, 2}
    assert {tuple(choices) for _, *choices in sampled} == {(77, 0.9, 10, 0.3)}
    assert judges == [("hearer", "cpu:0", ["a/b"]), ("voices", "cpu:0", ["a/b"])]
    summary = json.loads((out / "test" / "summary.json").read_text())
    assert summary["utterances"] == 5 and summary["rtf"] > 0 and "wer" in summary
    said = f"5 test utterances were spoken, {[row['finished'] for row in rows].count('False')} of which did not end"
    assert said in caplog.text
    assert "utterances             5" in capsys.readouterr().out
    synthesizer = SpeechSynthesizer.from_hparams(source=str(out / "inference"), savedir=str(tmp_path / "cache"))
    speech = synthesizer.synthesize_batch(["abc"], torch.randn(1, 1600), prompt_texts=["def"])
    assert 0 < int(speech.lengths[0]) <= 0.6 * 8000


def test_a_codec_or_judge_that_does_not_fit_stops_before_the_training(run, tmp_path):
    save_codec(EnCodec(8000, (5, 4), n_codebooks=3, codebook_size=16, dimension=4, n_filters=2), tmp_path / "codec")
    with pytest.raises(ValueError, match=r"a frame_rate of 50\.0, but the codec given has 400\.0"):
        run("vallm", codec=tmp_path / "codec", n_test_utterances=1)
    with pytest.raises(FileNotFoundError, match="There is no folder 'made up'"):
        run("vallm", n_test_utterances=1)
    sizes = {"n_codebooks": 3, "codebook_size": 16, "dimension": 4, "n_filters": 2, "lstm": 1}
    save_codec(EnCodec(8000, (8, 5, 4), **sizes), tmp_path / "right")
    for judge in ("recognizer", "speaker_encoder"):
        with pytest.raises(FileNotFoundError, match="nobody"):
            run("vallm", codec=tmp_path / "right", n_test_utterances=1, **{judge: tmp_path / "nobody"})
    assert not (tmp_path / "out" / "training.csv").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_codebooks": 4}, "n_codebooks of 3, but the hyper-parameters say 4"),
        ({"codebook_size": 1024}, "codebook_size of 16, but the hyper-parameters say 1024"),
        ({"n_phonemes": 9}, "has 10 symbols: set n_phonemes, which is 9"),
        ({"train_parts": ["asr"]}, "train_parts is"),
        ({"train_parts": ["ar", "asr"]}, "train_parts is"),
        ({"train_parts": []}, "train_parts is"),
        ({"prompts": "noise"}, "prompts is 'noise', but must be one of utterance, speaker"),
        ({"prompt_order": "interleaved"}, "set prompts to speaker"),
        ({"nar_interval": 99}, "nar_interval is 99, but an epoch has"),
        ({"prompts": "speaker", "prompt_seconds": 0.02}, "their speaker says nothing else"),
        ({"max_seconds": 0.02}, "None of the 40 utterances for train"),
    ],
)
def test_what_does_not_fit_is_named(run, options, words):
    with pytest.raises(ValueError, match=words):
        run("vallm", **options)


@pytest.fixture
def brain():
    """The recipe's Brain as far as its draws need it, which computes nowhere."""
    module = load_script("tts/train")
    brain = SimpleNamespace(device="meta", hparams=SimpleNamespace(n_codebooks=4), places={"a": 0, "b": 1, "c": 2})
    draws = ("prompt_shares", "target_stage", "compute_objectives", "stage_scores")
    return SimpleNamespace(
        base=brain, **{name: partial(getattr(module.CodecLanguageModelBrain, name), brain) for name in draws}
    )


def test_the_prompt_is_an_eighth_to_a_half_in_training_and_a_quarter_otherwise(brain):
    brain.base.device = "cpu"
    drawn = brain.prompt_shares(5000, sb.Stage.TRAIN)
    assert 0.125 <= drawn.min() < 0.13 and 0.49 < drawn.max() <= 0.5
    assert drawn.median().item() == pytest.approx(0.3125, abs=0.02)
    assert brain.prompt_shares(2, sb.Stage.VALID).tolist() == [0.25, 0.25]


def test_losses_that_are_not_finite_are_named_and_count_nowhere(brain, caplog):
    torch.manual_seed(0)
    base, targets = brain.base, torch.tensor([[1, 2, 0], [3, -1, -1], [2, 2, -1]])
    logits, batch = torch.randn(3, 3, 4), SimpleNamespace(id=["a", "b", "c"])
    logits[1, 0, 2] = float("nan")
    base.counts, base.broken = {}, []
    right, losses = 0, []
    for row, count in ((0, 3), (2, 2)):
        losses += [torch.nn.functional.cross_entropy(logits[row, :count], targets[row, :count], reduction="none")]
        right += int((logits[row, :count].argmax(1) == targets[row, :count]).sum())
    brain.compute_objectives({"ar": (logits, targets)}, batch, sb.Stage.VALID)
    scores = {"ar_loss": float(torch.cat(losses).mean()), "ar_accuracy": 100 * right / 5}
    assert brain.stage_scores(sb.Stage.TEST, 0.0) == pytest.approx({"unscored": 1, **scores})
    assert brain.stage_scores(sb.Stage.VALID, 0.0) == pytest.approx({**scores, "loss": scores["ar_loss"]})
    assert "1 utterances have no finite loss and are left out of the scores: b" in caplog.text
    base.counts, base.broken = {}, []
    brain.compute_objectives({"ar": (logits * float("nan"), targets)}, batch, sb.Stage.VALID)
    with pytest.raises(RuntimeError, match="the training has diverged"):
        brain.stage_scores(sb.Stage.VALID, 0.0)
    base.counts = {}
    loss = brain.compute_objectives({"ar": (logits, targets)}, batch, sb.Stage.TRAIN)
    assert not loss.isfinite() and base.counts["ar"].tolist() == [0, 0, 0]  # a batch that is skipped


def test_draws_are_made_where_the_run_computes(brain):
    for stage in (sb.Stage.TRAIN, sb.Stage.VALID):
        assert brain.target_stage(["a", "b", "c"], stage).is_meta
        assert brain.prompt_shares(3, stage).is_meta


def test_a_codec_of_other_weights_than_that_of_the_tokens_is_named(run, tokens, tmp_path):
    sizes = {"n_codebooks": 3, "codebook_size": 16, "dimension": 4, "n_filters": 2, "lstm": 1}
    codec = EnCodec(8000, (8, 5, 4), **sizes)
    stamp = Stamp(tokens / "prepared.json", {"weights": codec_checksum(codec)})
    stamp.finish(counts={})
    save_codec(EnCodec(8000, (8, 5, 4), **sizes), tmp_path / "codec")
    options = {"n_test_utterances": 1, "codec": tmp_path / "codec", "debug": None}
    with pytest.raises(ValueError, match="has other weights than the one that made the tokens in"):
        run("vallm", **options)
    save_codec(codec, tmp_path / "codec")
    run("vallm", **options)


def test_tokens_of_an_unfinished_preparation_stop_the_training(run, tokens):
    Stamp(tokens / "prepared.json", {}).begin()
    with pytest.raises(ValueError, match="was not finished"):
        run("vallm")


def test_damaged_tokens_stop_the_training(run, tokens):
    (tokens / "valid.codes.bin").write_bytes(b"1234")
    with pytest.raises(ValueError, match="it was cut off"):
        run("vallm")
    assert read_tokens(tokens, "train")[0]


@pytest.mark.slow
def test_weights_of_another_inventory_are_taken_symbol_by_symbol(run, tokens, tmp_path, caplog):
    """A second run on tokens whose inventory has the symbols in another order, and one more; from a checkpoint."""
    first = run("mini_vallm", number_of_epochs=1)
    other = tmp_path / "other"
    shutil.copytree(tokens, other)
    inventory = json.loads((tokens / "text.json").read_text())
    symbols = inventory["symbols"]
    (other / "text.json").write_text(json.dumps({**inventory, "symbols": [*reversed(symbols), "ʒ"]}))
    options = {"token_folder": other, "output_folder": tmp_path / "second", "number_of_epochs": 1, "lr": 0}
    with pytest.raises(ValueError, match=rf"The tokenizer there has {len(symbols)} symbols .* --init_skip 'tokenizer'"):
        run("mini_vallm", **options, init_from=first)
    with caplog.at_level("INFO"):
        second = run("mini_vallm", **options, init_from=first, init_skip="tokenizer", freeze="nar")
    assert "tokenizer: another one; codec: that of the source" in caplog.text
    before, after = (trained(out) for out in (first, second))
    name = "ar.phoneme_embedding.embedding.weight"
    count = len(symbols)
    assert torch.equal(after[name][:count], before[name][:count].flip(0))
    assert not torch.equal(after[name][count], before[name][count])
    same = [key for key in before if key.startswith(("ar.", "nar.")) and "phoneme_embedding.embedding" not in key]
    assert same and all(torch.equal(before[key], after[key]) for key in same)
