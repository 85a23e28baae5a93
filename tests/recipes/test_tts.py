"""The synthesis recipe from end to end, on tokens made up."""

import csv
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import speechbrain as sb
import torch

from speechbrain_mamba.dataio.audio import audio_info
from speechbrain_mamba.dataio.codec_tokens import TokenFacts, read_tokens, token_dataset, write_tokens
from speechbrain_mamba.dataio.prompted_batch import Padded, PromptedBatch, Utterances
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.hparams import load_hparams
from tests.conftest import HPARAMS

pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.codecs import EnCodec, save_codec
from speechbrain_mamba.decoders.sampling import TokenSampler
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer
from tests.recipes.tts_spies import load_script, run_script

TINY = {
    "n_phonemes": 12, "n_codebooks": 3, "codebook_size": 16, "num_layers": 1, "d_model": 32, "d_ffn": 32, "nhead": 2,
    "attention_interval": 1, "dropout": 0.0, "number_of_epochs": 2, "num_workers": 0, "num_buckets": 1,
    "max_batch_frames": 200, "n_warmup_steps": 5, "lr": 0.01, "precision": "fp32", "n_test_utterances": 0,
    "recognizer": "null", "speaker_encoder": "null", "epochs_alone": 1, "nar_interval": 1,
    "curriculum_epochs": 0,
}  # fmt: skip
PROMPTS = ("prompt", "other_prompt")


@pytest.fixture(scope="module")
def recipe():
    """The recipe as a module."""
    return load_script("tts/train")


@pytest.fixture
def tokens(tmp_path):
    """Speech that says each phoneme for three frames, by tokens that follow from it."""
    rng = np.random.default_rng(0)
    facts = TokenFacts("made up", sample_rate=8000, frame_rate=50.0, n_codebooks=3, codebook_size=16)
    TextTokenizer(list("abcdefghij"), "characters").save(tmp_path / "tokens" / "text.json")
    for split, count in {"train": 40, "valid": 6, "test": 6}.items():
        utterances = []
        for i in range(count):
            phonemes = rng.integers(10, size=rng.integers(2, 6))
            codes = np.stack([phonemes, phonemes + 3, 15 - phonemes], 1).repeat(3, 0)
            utterance = {"ID": f"{split}{i}", "spk_id": "ab"[i % 2], "wrd": "", "wav": f"{split}{i}.wav"}
            utterances.append(utterance | {"phonemes": phonemes, "codes": codes})
        write_tokens(tmp_path / "tokens", split, utterances, facts)
    return tmp_path / "tokens"


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


@pytest.mark.slow
def test_a_resumed_run_has_the_schedule_of_an_uninterrupted_one(run, tmp_path):
    run("vallm", output_folder=tmp_path / "whole")
    path = next((tmp_path / "whole" / "save").glob("CKPT*/lr_scheduler.ckpt"))
    steps = torch.load(path, weights_only=True)["num_training_steps"]
    run("vallm", number_of_epochs=1, n_total_steps=steps)
    whole, resumed = table(tmp_path / "whole"), table(run("vallm", n_total_steps=steps))
    assert len(resumed) == 2
    for key in ("epoch", "lr"):
        assert [row[key] for row in resumed] == [row[key] for row in whole]


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
        load = lambda *arguments, judge=judge: (judges.append(arguments), judge)[1]  # noqa: E731
        monkeypatch.setattr(f"speechbrain_mamba.inference.judges.load_{kind}", load)
    options = {"number_of_epochs": 1, "n_test_utterances": 5, "test_batch_size": 2, "max_seconds": 0.6, "seed": 77}
    options |= {"recognizer": "hearer", "speaker_encoder": "voices", "device": "cpu:0"}
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
    assert judges == [("hearer", "cpu:0"), ("voices", "cpu:0")]
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
    with pytest.raises(FileNotFoundError, match="'made up' is not a folder"):
        run("vallm", n_test_utterances=1)
    sizes = {"n_codebooks": 3, "codebook_size": 16, "dimension": 4, "n_filters": 2, "lstm": 1}
    save_codec(EnCodec(8000, (8, 5, 4), **sizes), tmp_path / "right")
    for judge in ("recognizer", "speaker_encoder"):
        with pytest.raises(FileNotFoundError, match="nobody"):
            run("vallm", codec=tmp_path / "right", n_test_utterances=1, **{judge: tmp_path / "nobody"})
    assert not (tmp_path / "out" / "training.csv").exists()


def test_speech_goes_behind_other_speech_of_its_speaker(recipe, tokens):
    hparams = load_hparams(HPARAMS / "tts" / "mini_vallm.yaml", {**TINY, "token_folder": str(tokens)})
    tokenizer = recipe.load_tokenizer(hparams)
    dataset, *_ = recipe.make_dataset(hparams, "valid", tokenizer)
    items, codes, _ = read_tokens(tokens, "valid")
    alone = {example["id"]: example for example in token_dataset(items, codes)}
    for example in dataset:
        own = alone[example["id"]]
        assert all(torch.equal(example[key], own[key]) for key in ("codes", "phonemes"))
        prompt = [other for other in alone.values() if torch.equal(other["codes"], example["prompt_codes"])]
        assert items[prompt[0]["id"]]["spk_id"] == items[example["id"]]["spk_id"]
        assert torch.equal(example["prompt_phonemes"], prompt[0]["phonemes"])


def test_a_share_of_the_training_stands_alone(recipe, tokens):
    hparams = load_hparams(HPARAMS / "tts" / "mini_vallm.yaml", {**TINY, "token_folder": str(tokens)})
    tokenizer = recipe.load_tokenizer(hparams)
    train, prompts, _ = recipe.make_dataset(hparams, "train", tokenizer)
    items, codes, _ = read_tokens(tokens, "train")
    alone = {example["id"]: example for example in token_dataset(items, codes)}
    torch.manual_seed(0)
    assert all(len(example["prompt_codes"]) for example in train)
    prompts.share = 0.5
    examples = list(train)
    without = [example for example in examples if len(example["prompt_codes"]) == 0]
    assert 0 < len(without) < len(examples)
    assert not any(len(example["prompt_phonemes"]) for example in without)
    for key in ("codes", "phonemes"):
        assert all(torch.equal(example[key], alone[example["id"]][key]) for example in examples)
    valid, *_ = recipe.make_dataset(hparams, "valid", tokenizer)
    assert all(len(example["prompt_codes"]) for example in valid)


def test_short_speech_comes_first(recipe, tokens):
    hparams = load_hparams(HPARAMS / "tts" / "mini_vallm.yaml", {**TINY, "token_folder": str(tokens)})
    dataset, *_ = recipe.make_dataset(hparams, "train", recipe.load_tokenizer(hparams))
    sampler = recipe.batch_sampler(
        dataset, {**hparams, "num_buckets": 8, "max_batch_frames": 16}, first_length=6, curriculum_epochs=2
    )
    longest, batches = {}, {}
    for epoch in range(1, 5):
        sampler.set_epoch(epoch)
        batches[epoch] = list(sampler)
        longest[epoch] = max(max(sampler.get_durations(batch)) for batch in batches[epoch])
    assert longest[1] == 6 and 6 < longest[2] < 15 and longest[3] == 15
    assert len({len(epoch) for epoch in batches.values()}) == 1
    assert batches[3] != batches[4]


def test_noise_takes_a_share_of_the_tokens(recipe):
    tokens = torch.full((50, 100), 16)
    noisy = recipe.replace_some(tokens, 0.3, 16)
    assert (noisy != tokens).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert noisy[noisy != tokens].unique().tolist() == list(range(16))
    assert torch.equal(recipe.replace_some(tokens, 0.0, 16), tokens)


@pytest.mark.parametrize(("seconds", "most"), [(3, 150), (20, 200)])
def test_the_prompt_is_an_eighth_to_a_half_in_training_and_a_quarter_otherwise(recipe, seconds, most):
    brain = SimpleNamespace(device="cpu", hparams=SimpleNamespace(prompt_seconds=seconds), frame_rate=50.0)

    def take_prompts(lengths, stage):
        codes = Padded(torch.arange(600).repeat(len(lengths), 1)[..., None], torch.tensor(lengths))
        speech = Utterances(Padded.collate([[1, 2]] * len(lengths)), codes)
        batch = PromptedBatch([], speech.emptied(), speech)
        prompt, rest = recipe.CodecLanguageModelBrain.take_prompts(brain, batch, stage)
        assert not prompt.phonemes.lengths.any() and rest.phonemes == speech.phonemes
        for *parts, length in zip(prompt.codes.values, rest.codes.values, prompt.codes.lengths, lengths):
            first, second, count = parts
            assert [*first[:count, 0], *second[: length - count, 0]] == list(range(length))
        return prompt.codes.lengths

    drawn = take_prompts([400] * 500, sb.Stage.TRAIN).float()
    assert 50 <= drawn.min() < 55 and 0.95 * most < drawn.max() <= most
    assert drawn.median().item() == pytest.approx(125, abs=8)
    assert take_prompts([2, 400, 560], sb.Stage.VALID).tolist() == [1, 100, 140]


def test_draws_are_made_where_the_run_computes(recipe):
    brain = SimpleNamespace(device="meta", hparams=SimpleNamespace(n_codebooks=4), n_examples=0)
    lengths = torch.arange(9, 12)
    for stage in (sb.Stage.TRAIN, sb.Stage.VALID):
        assert recipe.CodecLanguageModelBrain.target_stage(brain, 3, stage).is_meta
    assert recipe.replace_some(lengths.to("meta"), 0.5, 16).is_meta
    brain = SimpleNamespace(device="cpu", hparams=SimpleNamespace(prompt_seconds=3), frame_rate=50.0)
    speech = Utterances(Padded.collate([[1]]), Padded(torch.zeros(1, 9, 4, dtype=torch.long), torch.tensor([9])))
    batch = PromptedBatch([], speech.emptied(), speech)
    for stage, device in itertools.product((sb.Stage.TRAIN, sb.Stage.VALID), ("cpu", "meta")):
        with torch.device(device):  # what is made on the default device would not go with the others
            prompt, _ = recipe.CodecLanguageModelBrain.take_prompts(brain, batch, stage)
        assert prompt.codes.values.device.type == "cpu"
    assert recipe.end_at(torch.zeros(2, 3, dtype=torch.long, device="meta"), lengths[:2].to("meta"), 3).is_meta


FRAMES = {"a1": 1, "a2": 2, "a3": 10, "a4": 11, "mute": 5, "b1": 9, "b2": 12, "c1": 7, "c2": 6}
READING = {"n_codebooks": 1, "codebook_size": 8, "max_seconds": 0.2, "prompt_seconds": 0.14, "prompts": "utterance"}


@pytest.fixture
def mixed(tmp_path):
    """Utterances of one frame to more than max_seconds, one of them without text, as training and as test."""
    facts = TokenFacts("made up", sample_rate=8000, frame_rate=50.0, n_codebooks=1, codebook_size=8)
    for split in ("train", "test"):
        utterances = [
            {
                "ID": name,
                "spk_id": name[0],
                "wrd": "",
                "phonemes": [] if name == "mute" else [1],
                "codes": [[3]] * frames,
            }
            for name, frames in FRAMES.items()
        ]
        write_tokens(tmp_path / "mixed", split, utterances, facts)
    return {**READING, "token_folder": tmp_path / "mixed"}


def test_what_is_too_short_or_mute_is_left_out_and_of_the_training_what_is_too_long(recipe, mixed, caplog):
    items, prompts, codes, facts = recipe.read_split(mixed, "train")
    assert set(items) == set(FRAMES) - {"a1", "a4", "mute", "b2"}
    assert (len(codes), facts.n_codebooks) == (sum(FRAMES.values()), 1)
    assert "4 of 9 utterances for train are left out" in caplog.text and "a1, a4, mute, b2." in caplog.text
    assert prompts.items == items
    items, *_ = recipe.read_split(mixed, "test")
    assert set(items) == set(FRAMES) - {"a1", "mute"}
    caplog.clear()
    recipe.read_split({**mixed, "max_seconds": 0.02 * 2}, "train")
    assert "8 of 9" in caplog.text and "a1, a3, a4, mute, b1, ..." in caplog.text
    with pytest.raises(ValueError, match="None of the 9 utterances for train"):
        recipe.read_split({**mixed, "max_seconds": 0.02}, "train")


def test_behind_other_speech_goes_what_its_speaker_says_more_of(recipe, mixed):
    """A prompt has at most 7 frames: a2, c1 or c2; a longer utterance may stand behind one."""
    items, prompts, *_ = recipe.read_split({**mixed, "prompts": "speaker"}, "test")
    assert set(items) == {"a3", "a4", "c1", "c2"}
    assert {prompts.draw(name) for name in items} == {"a2", "c1", "c2"}
    items, prompts, *_ = recipe.read_split({**mixed, "prompts": "speaker", "prompt_seconds": 0.12}, "test")
    assert set(items) == {"a3", "a4", "c1"}


def test_nothing_is_said_of_data_that_can_all_be_used(recipe, tokens, caplog):
    hparams = load_hparams(HPARAMS / "tts" / "vallm.yaml", {**TINY, "token_folder": str(tokens)})
    assert len(recipe.read_split(hparams, "train")[0]) == 40
    assert "left out" not in caplog.text
    assert len(recipe.load_tokenizer({**hparams, "n_phonemes": 10})) == 10


def test_batches_follow_from_seed_and_epoch(recipe, tokens):
    hparams = load_hparams(HPARAMS / "tts" / "vallm.yaml", {**TINY, "token_folder": str(tokens), "num_buckets": 4})
    dataset, *_ = recipe.make_dataset(hparams, "train", recipe.load_tokenizer(hparams))

    def batches(seed, epoch):
        sampler = recipe.batch_sampler(dataset, {**hparams, "seed": seed, "max_batch_ex": 3})
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 5) == batches(1, 5) != batches(2, 5)
    assert sorted(map(sorted, batches(1, 5))) != sorted(map(sorted, batches(1, 6)))
    assert max(map(len, batches(1, 5))) == 3


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


def test_targets_end_after_the_last_token(recipe):
    targets = recipe.end_at(torch.tensor([[3, 4, 5], [6, 0, 0]]), torch.tensor([3, 1]), 9)
    assert targets.tolist() == [[3, 4, 5, 9], [6, 9, -1, -1]]


def test_damaged_tokens_stop_the_training(run, tokens):
    (tokens / "valid.codes.bin").write_bytes(b"1234")
    with pytest.raises(ValueError, match="it was cut off"):
        run("vallm")
    assert read_tokens(tokens, "train")[0]
