"""What the recognition recipes decide: what the model is given and learns from, which weights are tested, and how."""

import csv
import inspect
import json
import logging
import math
import shutil
from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM
from speechbrain.nnet.schedulers import NoamScheduler
from speechbrain.utils.epoch_loop import EpochCounter
from torch import nn
from torch.nn import functional as F

from speechbrain_mamba.training.brain import Datasets
from speechbrain_mamba.utils.hparams import load_hparams
from tests.conftest import HPARAMS
from tests.recipes.asr_spies import (
    BLANK,
    BOS,
    EOS,
    FIRST,
    N_TOKENS,
    Alphabet,
    Decoder,
    Doubling,
    Features,
    Head,
    Passing,
    QuickCheckpointer,
    Search,
    Turning,
    importer,
    spoken,
)

CTC, S2S = "mini_conmamba_ctc", "mini_conmambamamba_s2s"
TINY = {
    "d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1, "n_mels": 16, "cnn_channels": 4,
    "cnn_out_channels": 4, "dropout": 0.0, "output_neurons": N_TOKENS, "num_buckets": 2,
    "max_batch_ex": 1, "fea_augment": None,
}  # fmt: skip
TRAIN, VALID, TEST = sb.Stage.TRAIN, sb.Stage.VALID, sb.Stage.TEST
WORDS = "A B C D E F G H I J K L M N O P Q R S T"  # 20 words of 39 tokens


@pytest.fixture
def recipe(monkeypatch):
    """Import a module of the recipes."""
    return importer(monkeypatch)


@pytest.fixture
def make(recipe, tmp_path, monkeypatch):
    """Make a recognizer and its hyper-parameters as the recipe does, tiny."""
    monkeypatch.setattr(Search, "made", ())
    drawn = []
    monkeypatch.setattr("speechbrain_mamba.training.record.plot_curves", lambda *args: drawn.append(args))

    def call(name, hparams=None, **options):
        layers = {"num_decoder_layers": 1} if name == S2S else {}
        options = {"output_folder": str(tmp_path / "out"), **TINY, **layers, **options}
        hparams = load_hparams(HPARAMS / "asr" / f"{name}.yaml", options) | (hparams or {})
        (tmp_path / "out").mkdir(exist_ok=True)
        kind = recipe("objectives").CTCBrain if name == CTC else recipe("objectives").S2SBrain
        recognition = kind(
            modules=hparams["modules"], opt_class=hparams["optimizer"], hparams=hparams,
            run_opts={"device": "cpu", "noprogressbar": True}, checkpointer=hparams["checkpointer"],
        )  # fmt: skip
        recognition.tokenizer, recognition.drawn = Alphabet(), drawn
        recognition.set_up()
        return recognition, hparams

    return call


@pytest.fixture
def make_reader(make, tmp_path):
    """Make a recognizer whose networks read audio that spells; its weight is the number of the epoch."""

    def call(name, errors=None, hparams=None, **options):
        counter = EpochCounter(options.get("number_of_epochs", 2))
        head = Head(counter, errors)
        model = nn.ModuleList([head])
        modules = {"CNN": Passing(), "normalize": Passing(), "ctc_lin": head}
        modules |= {"Encoder": Passing(torch.bfloat16)} if name == CTC else {"Transformer": Decoder(), "seq_lin": head}
        replaced = modules | {
            "compute_features": Features(), "epoch_counter": counter, "modules": modules, "model": model,
            "searcher": Search, **(hparams or {}),
        }  # fmt: skip
        options = {"loss_reduction": "batchmean", "number_of_epochs": 2, **options}
        recoverables = {"model": model, "counter": counter}
        replaced["checkpointer"] = QuickCheckpointer(tmp_path / "out" / "save", recoverables)
        recognition, hparams = make(name, replaced, **options)
        follow(recognition, head)
        return recognition, hparams, head

    return call


def follow(recognition, head):
    """Record batches, losses, learning rates and the weights in tests of a recognizer."""
    recognition.batches, recognition.rates, recognition.tested = [], [], []
    fit_batch, evaluate_batch, step = recognition.fit_batch, recognition.evaluate_batch, recognition.optimizers_step

    def fit(batch):
        loss = fit_batch(batch)
        recognition.batches.append((TRAIN, recognition.hparams.epoch_counter.current, batch.id, loss.item()))
        return loss

    def evaluate(batch, stage):
        if stage == VALID:
            head.weight.data.fill_(recognition.hparams.epoch_counter.current)
        else:
            recognition.tested.append(head.weight.item())
        loss = evaluate_batch(batch, stage)
        recognition.batches.append((stage, recognition.hparams.epoch_counter.current, batch.id, loss.item()))
        return loss

    def rate():
        recognition.rates.append(recognition.optimizer.param_groups[0]["lr"])
        step()

    recognition.fit_batch, recognition.evaluate_batch, recognition.optimizers_step = fit, evaluate, rate


def run(recognition, datasets):
    """Train and test; the scores by test set."""
    return recognition.fit_and_test(Datasets(*datasets))


def of_stage(recognition, stage, epoch=None):
    """The names in the batches of a stage."""
    return [names for s, e, names, _ in recognition.batches if s == stage and epoch in (None, e)]


DATASETS = (spoken("AB", "CAB", "B"), spoken(WORDS), {"clean": spoken("DAD", "AD A")})


def table(tmp_path):
    """The course of the training."""
    with open(tmp_path / "out/training.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def waves():
    """Three utterances of different lengths."""
    datasets = spoken("ABBA", "CADAB", "B")
    examples = [datasets[i] for i in range(3)]
    for example, samples in zip(examples, (5003, 8000, 3333)):
        example["sig"] = torch.randn(samples)
    return PaddedBatch(examples)


# ---------------------------------------------------------------- what the model is given


class Wrapped(nn.Module):
    """A module as it is on several GPUs: only its call is passed on."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("stage", [TRAIN, VALID, TEST])
@pytest.mark.parametrize("name", [CTC, S2S])
def test_each_utterance_is_heard_as_if_it_were_alone(make, name, stage):
    recognition, hparams = make(name)
    mean, std = torch.randn(16), torch.rand(16) + 0.5
    hparams["normalize"]._load_statistics_dict({"count": 9, "glob_mean": mean, "glob_std": std})
    hparams["epoch_counter"].current = 9
    network = recognition.modules["Encoder" if name == CTC else "Transformer"]
    recognition.modules["CNN"], given = Wrapped(hparams["CNN"]), []
    for module in (hparams["CNN"], network):
        module.register_forward_pre_hook(
            lambda module, args, kwargs: given.append(inspect.signature(module.forward).bind(*args, **kwargs).args),
            with_kwargs=True,
        )
    batch = waves()
    recognition.modules.train(stage == TRAIN)
    recognition.compute_forward(batch, stage)
    (feats, feat_lens, *_), (src, *others) = given
    lens = others[0] if name == CTC else others[1]
    for i, samples in enumerate((5003, 8000, 3333)):
        alone = (hparams["compute_features"](batch.sig.data[i : i + 1, :samples])[0] - mean) / std
        frames = round(feat_lens[i].item() * feats.shape[1])
        assert frames == len(alone) == samples // 160 + 1
        torch.testing.assert_close(feats[i, :frames], alone, atol=1e-3, rtol=1e-3)
        assert round(lens[i].item() * src.shape[1]) == -(-frames // 4)
    if name == S2S:
        assert others[0].tolist() == batch.tokens_bos.data.tolist()


@pytest.mark.parametrize("pad_index", [0, 7])
def test_the_decoder_is_told_what_is_padding(make_reader, pad_index):
    recognition, hparams, _ = make_reader(S2S, pad_index=pad_index)
    run(recognition, DATASETS)
    assert {call.pad_idx for call in hparams["Transformer"].fed} == {pad_index}


@pytest.mark.parametrize("name, epoch, counted", [(CTC, 1, True), (CTC, 4, False), (S2S, 3, True), (S2S, 4, False)])
def test_statistics_are_of_the_training_without_padding_until_an_epoch(make, name, epoch, counted):
    recognition, hparams = make(name)
    hparams["normalize"]._load_statistics_dict({"count": 9, "glob_mean": torch.zeros(16), "glob_std": torch.ones(16)})
    hparams["epoch_counter"].current = epoch
    for stage in (VALID, TEST, TRAIN):
        assert hparams["normalize"].count == 9
        recognition.modules.train(stage == TRAIN)
        recognition.compute_forward(waves(), stage)
    assert hparams["normalize"].count == 9 + counted * sum(samples // 160 + 1 for samples in (5003, 8000, 3333))


@pytest.mark.parametrize("wav_augment, fea_augment, copies", [(True, False, 2), (False, True, 2), (True, True, 4)])
@pytest.mark.parametrize("name", [CTC, S2S])
def test_training_alone_is_augmented_and_labels_follow(make_reader, name, wav_augment, fea_augment, copies):
    augmentations = {"wav_augment": Doubling() if wav_augment else None, "fea_augment": None}
    if fea_augment:
        augmentations["fea_augment"] = Chain(Doubling(), Turning())
    recognition, hparams, _ = make_reader(name, hparams=augmentations, max_batch_ex=3, num_buckets=6)
    run(recognition, (spoken("AB", "CABCAB", "B"), *DATASETS[1:]))
    for augmentation in filter(None, augmentations.values()):
        assert len(augmentation.batches) == 2  # one of each epoch
    assert all(loss < 0.1 for *_, loss in recognition.batches)  # the targets are those of the copies
    heard = hparams["normalize"].calls
    sizes = [len(call.x) for call in (hparams["Encoder"].calls if name == CTC else of_src(hparams["Transformer"].fed))]
    assert sizes == [3 * copies, 1, 3 * copies, 1, 1, 1]
    assert [call.x.ndim for call in heard] == [3] * 6
    if wav_augment:
        assert augmentations["wav_augment"].batches[0].ndim == 2  # waveforms
    if fea_augment:
        assert augmentations["fea_augment"].batches[0].ndim == 3  # features


@pytest.mark.parametrize("name", [CTC, S2S])
def test_a_file_need_not_name_augmentations(make_reader, name):
    recognition, *_ = make_reader(name)
    del recognition.hparams.wav_augment, recognition.hparams.fea_augment
    run(recognition, DATASETS)
    assert len(recognition.batches) == 10


class Chain(Turning):
    """Two augmentations, the second of what the first gives."""

    def __init__(self, first, second):
        super().__init__()
        self.both = (first, second)

    def __call__(self, x, lens):
        self.batches.append(x)
        for augment in self.both:
            x, lens = augment(x, lens)
        return x, lens

    def replicate_labels(self, labels):
        for augment in self.both:
            labels = augment.replicate_labels(labels)
        return labels


def of_src(calls):
    """Calls of a decoder by their source."""
    for call in calls:
        call.x = call.src
    return calls


@pytest.mark.parametrize("streaming", [False, True])
def test_chunks_are_those_of_the_stage(make_reader, streaming):
    class Sampler:
        def __call__(self, stage):
            return f"chunks of {stage.name}"

    recognition, hparams, _ = make_reader(CTC, hparams={"dynchunktrain_config_sampler": Sampler()}, streaming=streaming)
    run(recognition, (spoken("AB"), spoken("A"), {"test": spoken("DAD")}))
    chunks = [call.dynchunktrain_config for call in hparams["Encoder"].calls]
    stages = ["TRAIN", "VALID", "TRAIN", "VALID", "TEST"]
    assert chunks == [f"chunks of {stage}" if streaming else None for stage in stages]


def test_batches_of_each_epoch_hold_all_in_another_order(make_reader, tmp_path):
    texts = ["A", "B", "C", "D", "E", "F", "G", "H"]

    def orders(seed):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        recognition, *_ = make_reader(CTC, seed=seed, number_of_epochs=3)
        run(recognition, (spoken(*texts), spoken(*texts), {"clean": spoken("A")}))
        validations = [of_stage(recognition, VALID, epoch) for epoch in (1, 2, 3)]
        assert validations[0] == validations[1] == validations[2] and len(validations[0]) == 8
        return [tuple(name for names in of_stage(recognition, TRAIN, epoch) for name in names) for epoch in (1, 2, 3)]

    first = orders(1)
    assert len(set(first)) == 3 and len({frozenset(order) for order in first}) == 1 and len(set(first[0])) == 8
    assert not set(orders(20)) & set(first)


@pytest.mark.parametrize("train, valid", [(3, 16), (16, 5)])
def test_batches_hold_so_many_seconds_in_training_and_validation(make_reader, train, valid):
    options = {"max_batch_length_train": train, "max_batch_length_valid": valid, "max_batch_ex": 128}
    recognition, *_ = make_reader(CTC, num_buckets=12, **options)
    many = spoken(*"ABCDEFGHIJKLMNOPQRST")  # of a second each
    run(recognition, (many, many, {"clean": spoken("A", "B", "C")}))
    for stage, seconds in ((TRAIN, train), (VALID, valid)):
        assert seconds / 2 < max(len(names) for names in of_stage(recognition, stage)) <= seconds
    assert [len(names) for names in of_stage(recognition, TEST)] == [1, 1, 1]


def test_batches_hold_so_many_utterances_at_most(make_reader):
    options = {"max_batch_length_train": 16, "max_batch_length_valid": 16, "max_batch_ex": 4}
    recognition, *_ = make_reader(CTC, num_buckets=12, **options)
    many = spoken(*"ABCDEFGHIJKLMNOPQRST")
    run(recognition, (many, many, {"clean": spoken("A")}))
    for stage in (TRAIN, VALID):
        assert max(len(names) for names in of_stage(recognition, stage)) == 4


@pytest.mark.parametrize("buckets, mixed", [(3, True), (12, False)])
def test_buckets_part_short_from_long(make_reader, buckets, mixed):
    texts, durations = "ABCDEFGHIJKLMNOP", [0.5] * 8 + [4.0] * 8
    recognition, *_ = make_reader(CTC, max_batch_ex=128, max_batch_length_train=16, num_buckets=buckets)
    run(recognition, (spoken(*texts, durations=durations), *DATASETS[1:]))
    lengths = [{durations[texts.index(name[-1])] for name in names} for names in of_stage(recognition, TRAIN)]
    assert (max(len(batch) for batch in lengths) == 2) == mixed


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("max_batch_length_train", 0, "max_batch_length_train is 0, but must be a number of seconds above 0"),
        ("num_buckets", 0, "num_buckets is 0, but must be an integer of at least 1"),
        ("max_batch_ex", 2.5, r"max_batch_ex is 2\.5, but must be an integer of at least 1"),
        ("avg_checkpoints", 0, "avg_checkpoints is 0, but must be an integer of at least 1"),
        ("avg_tolerance", -1, "avg_tolerance is -1, but must be at least 0"),
        ("chunk_size", 0, "chunk_size is 0, but must be an integer of at least 1"),
    ],
)
def test_settings_out_of_range_are_told_at_once(make, setting, value, message):
    with pytest.raises(ValueError, match=message):
        make(CTC, **{setting: value})


def test_searches_that_could_find_nothing_are_told_at_once(make):
    for setting in ("test_beam_size", "valid_beam_size", "valid_search_interval"):
        with pytest.raises(ValueError, match=f"{setting} is 0, but must be an integer of at least 1"):
            make(S2S, {"searcher": Search}, **{setting: 0})
    with pytest.raises(ValueError, match="beam_size is 0, but must be an integer of at least 1"):
        make(CTC, test_search={"beam_size": 0})


# ---------------------------------------------------------------- what it learns from


def heads(recognition, *names):
    """Record the log-probabilities that output layers lead to."""
    outputs = {}
    for name in names:
        recognition.modules[name].register_forward_hook(
            lambda module, args, output, name=name: outputs.__setitem__(name, output.log_softmax(-1))
        )
    return outputs


def ctc_of_each(log_probs, batch):
    """The CTC loss of each utterance alone."""
    frames = [-(-(samples // 160 + 1) // 4) for samples in (5003, 8000, 3333)]
    tokens = [Alphabet().encode(words) for words in batch.wrd]
    return [
        F.ctc_loss(log_probs[i, :n, None], torch.tensor([tokens[i]]), [n], [len(tokens[i])], BLANK, reduction="sum")
        for i, n in enumerate(frames)
    ]


@pytest.mark.parametrize("stage", [TRAIN, VALID])
def test_the_ctc_loss_is_the_mean_of_each_utterances(make, stage):
    recognition, _ = make(CTC)
    outputs, batch = heads(recognition, "ctc_lin"), waves()
    recognition.on_stage_start(stage, 1)
    loss = recognition.compute_objectives(recognition.compute_forward(batch, stage), batch, stage)
    torch.testing.assert_close(loss, sum(ctc_of_each(outputs["ctc_lin"], batch)) / 3)


@pytest.mark.parametrize("ctc_weight, label_smoothing", [(0, 0.1), (0.3, 0.0), (0.3, 0.1), (1, 0.0)])
def test_both_losses_have_their_weights(make, ctc_weight, label_smoothing):
    recognition, _ = make(S2S, ctc_weight=ctc_weight, label_smoothing=label_smoothing)
    outputs, batch = heads(recognition, "ctc_lin", "seq_lin"), waves()
    recognition.on_stage_start(TRAIN, 1)
    loss = recognition.compute_objectives(recognition.compute_forward(batch, TRAIN), batch, TRAIN)
    ctc = sum(ctc_of_each(outputs["ctc_lin"], batch)) / 3
    seq = 0
    for log_probs, words in zip(outputs["seq_lin"], batch.wrd):
        for step, token in enumerate([*Alphabet().encode(words), EOS]):
            wanted = torch.full((N_TOKENS,), label_smoothing / (N_TOKENS - 1))
            wanted[token] = 1 - label_smoothing
            seq = seq + (torch.xlogy(wanted, wanted) - wanted * log_probs[step]).sum() / 3
    torch.testing.assert_close(loss, ctc_weight * ctc + (1 - ctc_weight) * seq)


@pytest.mark.parametrize("name, factor", [(CTC, 1), (S2S, 2), (CTC, 3)])
def test_the_schedule_ends_with_the_last_step_of_the_optimizer(make_reader, name, factor):
    recognition, *_ = make_reader(name, number_of_epochs=3, grad_accumulation_factor=factor, n_warmup_steps=2, lr=0.5)
    run(recognition, (spoken(*"ABCDEFG"), *DATASETS[1:]))
    total = 7 // factor * 3
    cosine = [0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / (total - 2))) for step in range(1, total - 1)]
    assert recognition.rates == pytest.approx([0.25, 0.5, *(0.5 * share for share in cosine)])


def test_a_schedule_keeps_the_length_it_was_given(make_reader):
    recognition, hparams, _ = make_reader(CTC)
    hparams["lr_scheduler"].n_total_steps = 7777
    run(recognition, DATASETS)
    assert hparams["lr_scheduler"].n_total_steps == 7777


def test_a_schedule_without_an_end_is_as_it_is(make_reader):
    recognition, hparams, _ = make_reader(CTC, hparams={"lr_scheduler": NoamScheduler(0.5, 2)})
    run(recognition, DATASETS)
    assert recognition.rates == pytest.approx([0.25, 0.5, *(0.5 * math.sqrt(2 / step) for step in range(3, 7))])
    assert not hasattr(hparams["lr_scheduler"], "n_total_steps")


def test_a_warm_up_longer_than_the_training_is_cut_off(make_reader):
    recognition, *_ = make_reader(CTC, n_warmup_steps=60, lr=0.3)
    run(recognition, DATASETS)
    assert recognition.rates == pytest.approx([0.3 * step / 60 for step in range(1, 7)])


# ---------------------------------------------------------------- what is kept, reported and tested


@pytest.mark.parametrize(
    "missed, average, tolerance, expected",
    [
        ((10, 4, 12, 5, 6), 1, 0.25, [2]),
        ((10, 4, 12, 5, 6), 3, 0.25, [2, 4]),  # 30 % is more than 1.25 times 20 %
        ((10, 4, 12, 5, 6), 3, None, [2, 4, 5]),
        ((20, 16, 18, 19, 17), 3, 0.25, [2, 5, 3]),
    ],
)
def test_the_mean_of_the_checkpoints_with_the_fewest_word_errors_is_tested(
    make_reader, tmp_path, caplog, missed, average, tolerance, expected
):
    errors = {epoch: 2 * words for epoch, words in enumerate(missed, start=1)}
    options = {"number_of_epochs": 5, "avg_checkpoints": average, "avg_tolerance": tolerance, "lr": 0.0}
    recognition, hparams, _ = make_reader(CTC, errors, **options)
    with caplog.at_level(logging.INFO):
        run(recognition, DATASETS)
    if average > 1:
        assert f"the checkpoints of these epochs: {', '.join(map(str, expected))}." in caplog.text
    assert recognition.tested == pytest.approx([sum(expected) / len(expected)] * 2)
    kept = {checkpoint.meta["epoch"] for checkpoint in hparams["checkpointer"].list_checkpoints()}
    assert kept == set(expected) | set(range(6 - max(average, 2), 6))  # and the latest, to resume
    assert [row["greedy_WER"] for row in table(tmp_path)] == [5 * words for words in missed]


@pytest.mark.parametrize("average, expected", [(1, 2), (3, 7 / 3)])
def test_the_decoders_errors_choose_its_checkpoints(make_reader, tmp_path, monkeypatch, average, expected):
    missed, searched = {1: 18, 2: 16, 3: 39, 4: 17}, {1: 20, 2: 39, 3: 0, 4: 8}
    options = {"number_of_epochs": 4, "avg_checkpoints": average, "lr": 0.0, "valid_search_interval": 1}
    recognition, hparams, _ = make_reader(S2S, missed, **options)
    counter = hparams["epoch_counter"]
    monkeypatch.setattr(Search, "missed", property(lambda self: searched[counter.current]))
    run(recognition, DATASETS)
    assert recognition.tested == pytest.approx([expected] * 2)
    rows = table(tmp_path)
    assert [row["TER"] for row in rows] == pytest.approx([100 * missed[epoch] / 40 for epoch in range(1, 5)])
    assert [row["beam_WER"] for row in rows] == [50, 100, 0, 20]


def test_the_decoders_errors_are_counted_without_padding(make_reader, tmp_path):
    options = {"max_batch_ex": 2, "max_batch_length_valid": 16, "num_buckets": 6, "number_of_epochs": 1}
    recognition, *_ = make_reader(S2S, {1: 2}, **options)
    run(recognition, (spoken("AB"), spoken("ABC", WORDS), {"clean": spoken("AB")}))
    assert len(of_stage(recognition, VALID)) == 1
    assert table(tmp_path)[0]["TER"] == pytest.approx(100 * 4 / 44)  # with an end each


@pytest.mark.parametrize("interval, searched", [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3])])
def test_validation_searches_every_few_epochs(make_reader, tmp_path, interval, searched):
    options = {"valid_search_interval": interval, "valid_beam_size": 2, "test_beam_size": 3, "number_of_epochs": 4}
    recognition, *_ = make_reader(S2S, **options)
    run(recognition, DATASETS)
    rates = [row["beam_WER"] for row in table(tmp_path)]
    assert [epoch for epoch, rate in enumerate(rates, start=1) if not math.isnan(rate)] == searched
    calls = {search.options["beam_size"]: search.calls for search in Search.made}
    assert len(calls[2]) == len(searched) and len(calls[3]) == 2  # the test searches whatever the epoch
    for call in (*calls[2], *calls[3]):
        assert call.encoder_out.dtype == torch.float32 and call.lens.tolist() == [1.0]


@pytest.mark.parametrize("name", [CTC, S2S])
def test_an_epoch_leaves_its_numbers(make_reader, monkeypatch, tmp_path, name):
    options = {"number_of_epochs": 3, "n_warmup_steps": 2, "lr": 0.5}
    options |= {"valid_search_interval": 1} if name == S2S else {}
    recognition, *_ = make_reader(name, {1: 2, 2: 4, 3: 6}, **options)
    clock = SimpleNamespace(monotonic=lambda: 5 + 0.411 * len(of_stage(recognition, TRAIN)))  # seconds of a batch
    monkeypatch.setattr("speechbrain_mamba.training.brain.time", clock)
    run(recognition, DATASETS)
    rows, batches = table(tmp_path), recognition.batches
    scores = ["greedy_WER", "greedy_CER"] if name == CTC else ["TER", "beam_WER", "beam_CER"]
    assert list(rows[0]) == ["epoch", "lr", "train_loss", "valid_loss", *scores, "skipped", "seconds"]
    for epoch, row in enumerate(rows, start=1):
        losses = {stage: [loss for s, e, _, loss in batches if (s, e) == (stage, epoch)] for stage in (TRAIN, VALID)}
        assert row["epoch"] == epoch and row["seconds"] == 1.2
        assert row["train_loss"] == pytest.approx(sum(losses[TRAIN]) / 3)
        assert row["valid_loss"] == pytest.approx(losses[VALID][0]) and row["valid_loss"] > 1
        assert row["lr"] == recognition.rates[3 * epoch - 1]
    panels = recognition.drawn[-1][-1]
    assert panels == {"loss": ["train_loss", "valid_loss"], "%": scores, "learning rate": ["lr"]}
    log = (tmp_path / "out/train_log.txt").read_text().splitlines()
    assert [line.split(" - ")[0].split(", ")[::2] for line in log[:3]] == [
        [f"epoch: {epoch}", f"steps: {3 * epoch}"] for epoch in (1, 2, 3)
    ]
    assert log[3].startswith("Epoch loaded: 1, test set: clean - test loss: ")
    assert all(score in log[0] for score in ("train loss", "valid loss", *scores))


def test_the_first_process_alone_writes(make_reader, monkeypatch, tmp_path):
    monkeypatch.setattr("speechbrain_mamba.training.brain.if_main_process", lambda: False)
    recognition, *_ = make_reader(CTC, number_of_epochs=1)
    scores = run(recognition, DATASETS)
    assert scores["clean"]["greedy_WER"] == 0
    assert not {"training.csv", "test"} & {path.name for path in (tmp_path / "out").iterdir()}


def test_a_trial_run_leaves_no_table(make_reader, tmp_path):
    recognition, *_ = make_reader(CTC)
    recognition.debug = True
    run(recognition, DATASETS)
    assert not (tmp_path / "out/training.csv").exists()


@pytest.mark.parametrize("faulty, expected", [("B", None), ("AB", math.inf)])
def test_a_validation_loss_is_of_the_batches_that_have_one(make_reader, tmp_path, faulty, expected):
    def cost(log_probs, tokens, lens, token_lens):
        letter = Alphabet().decode(tokens[0].tolist())
        return (log_probs * 0).sum() + (float("nan") if letter in faulty else 3.0)

    recognition, *_ = make_reader(CTC, hparams={"ctc_cost": cost}, number_of_epochs=1)
    run(recognition, (spoken("C"), spoken("A", "B"), {"clean": spoken("C")}))
    assert table(tmp_path)[0]["valid_loss"] == (3.0 if expected is None else expected)


@pytest.mark.parametrize("name", [CTC, S2S])
def test_each_test_set_has_its_results(make_reader, tmp_path, name):
    recognition, *_ = make_reader(name, valid_search_interval=1) if name == S2S else make_reader(name)
    searches = ["greedy", "beam"] if name == CTC else ["beam"]
    sets = {"clean": spoken("DAD", "AD A"), "other": spoken("B A C", "CAB", "A A")}
    scores = run(recognition, (*DATASETS[:2], sets))
    for test, texts in {"clean": ["DAD", "AD A"], "other": ["B A C", "CAB", "A A"]}.items():
        with open(tmp_path / f"out/test/{test}/results.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        for search in searches:
            assert [(row["id"], row[search], row["reference"]) for row in rows] == [
                (f"{i}{words}", words, words) for i, words in enumerate(texts)
            ]
        summary = json.loads((tmp_path / f"out/test/{test}/summary.json").read_text())
        rates = [f"{search}_{rate}" for search in searches for rate in ("wer", "cer")]
        assert summary == {"utterances": len(texts), "normalization": "none", **dict.fromkeys(rates, 0)}
        assert {key: rate for key, rate in scores[test].items() if "_" in key} == {
            f"{search}_{rate}": 0 for search in searches for rate in ("WER", "CER")
        }
    assert not (tmp_path / "out/test/valid").exists()


def test_errors_of_a_test_are_counted_in_words_and_characters(make_reader, tmp_path):
    recognition, *_ = make_reader(CTC, {1: 1}, number_of_epochs=1)
    scores = run(recognition, (*DATASETS[:2], {"clean": spoken("DAD A", "AB C BAD CA")}))
    for search in ("greedy", "beam"):
        assert scores["clean"][f"{search}_WER"] == pytest.approx(100 * 2 / 6)
        assert scores["clean"][f"{search}_CER"] == pytest.approx(100 * 2 / 15, abs=3)
    loss = recognition.batches[-1][-1] / 2 + recognition.batches[-2][-1] / 2
    shown = f"test loss: {loss:.2f}, test greedy_WER: 33.33, test greedy_CER: 12.50"
    assert shown in (tmp_path / "out/train_log.txt").read_text().splitlines()[-1]
    assert "test beam_WER: 33.33" in (tmp_path / "out/train_log.txt").read_text().splitlines()[-1]


@pytest.mark.parametrize("workers", [0, 3])
def test_workers_read_the_training_set(make_reader, monkeypatch, workers):
    recognition, *_ = make_reader(CTC, num_workers=workers)
    make_dataloader, asked = recognition.make_dataloader, {}

    def spy(dataset, stage, **options):
        asked[stage] = options.pop("num_workers", 0)
        return make_dataloader(dataset, stage, **options)

    monkeypatch.setattr(recognition, "make_dataloader", spy)
    run(recognition, DATASETS)
    assert asked[TRAIN] == workers


class Fixed(nn.Module):
    """Says the same of all batches: probabilities (frames, tokens)."""

    def __init__(self, probabilities):
        super().__init__()
        self.weight, self.probabilities = nn.Parameter(torch.zeros(1)), probabilities

    def forward(self, x):
        return self.probabilities[: x.shape[1]].log().expand(len(x), -1, -1) + 0 * self.weight


@pytest.mark.parametrize("options, rate", [({}, 0), ({"token_prune_min_logp": -0.5}, 100)])
def test_validation_takes_the_likeliest_frames_and_the_test_searches_beams(make_reader, tmp_path, options, rate):
    search = {"blank_index": BLANK, "beam_size": 5, "token_prune_min_logp": -1.2, **options}
    recognition, *_ = make_reader(CTC, number_of_epochs=1, test_search=search)
    probabilities = torch.full((3, N_TOKENS), 1e-6)
    probabilities[:2, BLANK], probabilities[:2, FIRST + 1], probabilities[2, BLANK] = 0.6, 0.4, 1.0
    recognition.modules["ctc_lin"] = Fixed(probabilities)
    scores = run(recognition, (spoken("A"), spoken("A"), {"clean": spoken("A")}))
    assert table(tmp_path)[0]["greedy_WER"] == scores["clean"]["greedy_WER"] == 100  # nothing, of 0.36
    assert scores["clean"]["beam_WER"] == rate  # A, of 0.64 in three ways


def test_validation_reads_no_padding(make_reader, tmp_path):
    recognition, *_ = make_reader(CTC, number_of_epochs=1, max_batch_ex=2, max_batch_length_valid=16, num_buckets=6)
    spells = torch.tensor([FIRST + 1, BLANK, FIRST + 2, BLANK, FIRST + 3, BLANK, FIRST + 4])
    recognition.modules["ctc_lin"] = Fixed(F.one_hot(spells, N_TOKENS) + 1e-6)
    run(recognition, (spoken("A"), spoken("A", "ABC"), {"clean": spoken("A")}))
    assert len(of_stage(recognition, VALID)) == 1
    assert table(tmp_path)[0]["greedy_CER"] == 50  # AB and ABCD: a letter too many each


def test_no_search_spells_tokens_without_a_text(make_reader):
    """Neither where they are the likeliest of a frame nor where a beam could take them."""
    recognition, *_ = make_reader(CTC, number_of_epochs=1, test_search={"blank_index": BLANK, "beam_size": 5})
    probabilities = torch.full((5, N_TOKENS), 1e-6)
    for frame, tokens in enumerate(([BOS, BLANK], [FIRST + 1, EOS], [EOS, FIRST + 1], [BOS, EOS], [FIRST + 2, BOS])):
        probabilities[frame, tokens] = torch.tensor([0.6, 0.4])
    recognition.modules["ctc_lin"] = Fixed(probabilities)
    run(recognition, (spoken("A"), spoken("A"), {"clean": spoken("ABC")}))
    row = recognition.report.rows[0]
    assert (row["greedy"], row["beam"]) == ("AB", "AB")


def test_a_decoders_texts_have_no_tokens_without_a_text(make_reader, monkeypatch):
    recognition, *_ = make_reader(S2S, number_of_epochs=1)
    found = [[BOS, FIRST + 1, BLANK, EOS, FIRST + 2, EOS]]
    monkeypatch.setattr(Search, "__call__", lambda self, encoder_out, lens: (found, None, None, None))
    run(recognition, (spoken("A"), spoken("A"), {"clean": spoken("AB")}))
    assert recognition.report.rows[0]["beam"] == "AB"


# ---------------------------------------------------------------- searches


@pytest.mark.parametrize("beams, temperature, weight", [((2, 5), 1.15, 0.4), ((7, 3), 0.9, 0.1)])
def test_searches_have_their_options(make_reader, beams, temperature, weight):
    options = dict(zip(("valid_beam_size", "test_beam_size"), beams))
    recognition, hparams, _ = make_reader(
        S2S, **options, test_temperature=temperature, ctc_weight_decode=weight, blank_index=0, eos_index=2
    )
    run(recognition, DATASETS)
    made = {search.options["beam_size"]: search.options for search in Search.made}
    assert set(made) == set(beams)
    for beam, wanted in zip(beams, (1.0, temperature)):
        assert made[beam]["temperature"] == wanted
        scorer = made[beam]["scorer"]
        assert {name: value for name, value in scorer.weights.items() if value} == {"ctc": weight}
        ctc = scorer.full_scorers["ctc"]
        assert ctc.ctc_fc is hparams["ctc_lin"] and (ctc.blank_index, ctc.eos_index) == (0, 2)


@pytest.mark.parametrize("weight, temperature", [(0.6, 1.15), (0.2, 2.0)])
def test_the_language_model_helps_in_the_test_alone(make, tmp_path, weight, temperature):
    torch.manual_seed(1)
    small = dict(d_model=8, nhead=2, num_encoder_layers=1, num_decoder_layers=0, d_ffn=8)
    given = TransformerLM(vocab=N_TOKENS, **small)
    torch.save(given.state_dict(), tmp_path / "lm.ckpt")
    make(
        S2S,
        {"searcher": Search, "lm_model": lambda: TransformerLM(vocab=N_TOKENS, **small)},
        lm_folder=str(tmp_path), lm_weight=weight, lm_temperature=temperature, valid_beam_size=2, test_beam_size=3,
    )  # fmt: skip
    scorers = {search.options["beam_size"]: search.options["scorer"] for search in Search.made}
    assert scorers[2].weights["transformerlm"] == 0 and "transformerlm" not in scorers[2].full_scorers
    assert scorers[3].weights["transformerlm"] == weight and scorers[3].weights["ctc"] == 0.4
    scorer = scorers[3].full_scorers["transformerlm"]
    assert scorer.temperature == temperature and not scorer.lm.training
    for key, value in scorer.lm.state_dict().items():
        assert torch.equal(value, given.state_dict()[key])


def test_a_language_model_of_the_hub_is_kept_with_the_run(make, monkeypatch, tmp_path):
    small, asked = dict(vocab=N_TOKENS, d_model=8, nhead=2, num_encoder_layers=1, num_decoder_layers=0, d_ffn=8), []
    torch.save(TransformerLM(**small).state_dict(), tmp_path / "lm.ckpt")

    def fetch(file_name, source, savedir, **options):
        asked.append((file_name, source, str(savedir)))
        return tmp_path / file_name

    monkeypatch.setattr("speechbrain_mamba.utils.pretrained.fetch", fetch)
    make(S2S, {"searcher": Search, "lm_model": lambda: TransformerLM(**small)}, lm_folder="someone/lm")
    assert set(asked) == {("lm.ckpt", "someone/lm", str(tmp_path / "out/save"))}


def test_a_language_model_is_read_and_not_run(make, tmp_path):
    torch.save({"weight": Search}, tmp_path / "lm.ckpt")  # what unpickling would have to import
    with pytest.raises(ValueError, match=r"the Python object .*Search, which could run code"):
        make(S2S, {"searcher": Search}, lm_folder=str(tmp_path))


def test_a_language_model_of_another_architecture_is_named(make, tmp_path):
    small = dict(vocab=N_TOKENS, d_model=8, nhead=2, num_decoder_layers=0, d_ffn=8)
    torch.save(TransformerLM(**small, num_encoder_layers=1).state_dict(), tmp_path / "lm.ckpt")
    replaced = {"searcher": Search, "lm_model": lambda: TransformerLM(**small, num_encoder_layers=2)}
    with pytest.raises(ValueError, match=r"the language model in .* [0-9]+ missing \(encoder\.layers\.1\."):
        make(S2S, replaced, lm_folder=str(tmp_path))
