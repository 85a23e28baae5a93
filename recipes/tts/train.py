#!/usr/bin/env python3
"""Train a codec language model for speech synthesis: VALL-M, its baseline VALL-E, or a hybrid of both.

    python recipes/tts/train.py hparams/tts/vallm.yaml --token_folder /path/to/tokens

The token folder is written by one of the ``prepare_*.py``. Both models are trained together, or one of them with
``--train_parts '[ar]'``. Every hyper-parameter of the file can be replaced on the command line, and so can
SpeechBrain's own options (``--help`` lists both); ``torchrun --nproc_per_node=N`` in place of ``python`` uses N GPUs.
The same command again resumes from the last checkpoint.

If both models are trained, test sentences are spoken into ``test/`` in the end and judged there, and ``inference/`` is
written for ``SpeechSynthesizer.from_hparams``.
"""

from speechbrain_mamba.training.command_line import check_command_line

if __name__ == "__main__":
    check_command_line(__file__)  # before the imports that take seconds

import json
import logging

import speechbrain as sb
import torch
import torch.nn.functional as F

from speechbrain_mamba.codecs import load_codec
from speechbrain_mamba.codecs.tokenize_speech import codec_checksum
from speechbrain_mamba.dataio.codec_tokens import read_tokens, token_dataset
from speechbrain_mamba.dataio.prompted_batch import Padded, PromptedBatch, Utterances
from speechbrain_mamba.dataio.shards import ShardDataset
from speechbrain_mamba.dataio.token_splits import (
    batch_sampler,
    check_preparation,
    load_tokenizer,
    make_dataset,
    read_split,
    shard_dataset,
)
from speechbrain_mamba.dataio.voice_prompts import VoicePrompts
from speechbrain_mamba.evaluation.report import format_summary
from speechbrain_mamba.evaluation.speaking import speak_test_set
from speechbrain_mamba.evaluation.synthesis_report import judge_speech
from speechbrain_mamba.inference.judges import load_judges
from speechbrain_mamba.inference.synthesis import export_synthesizer
from speechbrain_mamba.lobes.models.synthesis import VallE
from speechbrain_mamba.lobes.models.synthesis.targets import IGNORED, end_at, mark_padding, replace_some, take_prompts
from speechbrain_mamba.training.brain import Datasets, TrainingBrain
from speechbrain_mamba.training.requirements import speaks_test
from speechbrain_mamba.training.run import run_recipe
from speechbrain_mamba.training.script import run_script
from speechbrain_mamba.training.seeding import seeded
from speechbrain_mamba.training.token_sources import compare_tokens, read_inventory, rearrange_embeddings
from speechbrain_mamba.utils.files import write_json

logger = logging.getLogger(__name__)

PARTS = ("ar", "nar")
PROMPTS = ("utterance", "speaker")
SHORTEST_PROMPT, LONGEST_PROMPT = 0.125, 0.5
"""Fraction of an utterance that is its prompt in the training of the non-autoregressive model."""


class CodecLanguageModelBrain(TrainingBrain):
    """Trains one model or both to predict codec tokens."""

    needs = ("matplotlib",)
    best_by = "loss"
    evaluation_totals = ("counts", "broken")
    epoch_totals = ("counts",)
    may_change = frozenset(
        {"n_test_utterances", "test_batch_size", "codec", "recognizer", "speaker_encoder", "judge_sources", "sampler"}
    )

    def __init__(self, modules, opt_class, hparams, **options):
        check_settings(hparams)
        super().__init__({part: modules[part] for part in hparams["train_parts"]}, opt_class, hparams, **options)

    def set_up(self):
        """Check the tokens, and load the codec and the judges of the test, before a training that would be in vain."""
        hparams, self.codec = vars(self.hparams), None
        self.prepared = check_preparation(hparams["token_folder"], ["train"] if hparams.get("train_shards") else [])
        if speaks_test(hparams):
            _, _, facts = read_tokens(hparams["token_folder"], "test")
            source = hparams["codec"] or facts.codec
            self.codec = load_codec(source, facts.n_codebooks)
            facts.check(self.codec)
            if self.prepared.get("weights") not in (None, codec_checksum(self.codec)):
                raise ValueError(
                    f"The codec '{source}' has other weights than the one that made the tokens in "
                    f"'{hparams['token_folder']}': give that one, or prepare the tokens again with this one."
                )
            self.judges = load_judges(
                hparams["recognizer"], hparams["speaker_encoder"], str(self.device), hparams["judge_sources"] or ()
            )

    def part_names(self):
        """The inventory of the texts and the codec of the tokens belong to the weights."""
        return ("tokenizer", "codec")

    def compare_parts(self, source):
        """What is wrong with both of a source of weights for the tokens of this run."""
        return compare_tokens(source, self.hparams.token_folder, self.prepared.get("weights"))

    def translate_weights(self, weights, source):
        """If other texts are wanted, take the embeddings of the symbols that both inventories have."""
        theirs = read_inventory(source) if self.is_skipped("tokenizer") else None
        if theirs is not None:
            here, ours = self.named_weights().tensors, load_tokenizer(vars(self.hparams))
            rearrange_embeddings(weights.tensors, here, theirs, ours)

    def make_datasets(self, hparams):
        """Read the tokens of the three splits."""
        self.tokenizer = load_tokenizer(hparams)
        (valid, _, self.frame_rate), (test, *_) = (
            make_dataset(hparams, split, self.tokenizer) for split in ("valid", "test")
        )
        if hparams.get("train_shards"):
            train, self.prompts = shard_dataset(hparams, self.frame_rate, seeded), VoicePrompts({})
        else:
            train, self.prompts, _ = make_dataset(hparams, "train", self.tokenizer)
        return Datasets(train, valid, {"test": test})

    def loader_options(self, stage, dataset):
        """Batches of utterances of similar length: in training with a curriculum, otherwise always the same ones."""
        hparams, options = vars(self.hparams), {"collate_fn": PromptedBatch.collate}
        if stage != sb.Stage.TRAIN:
            self.places = {name: place for place, name in enumerate(dataset.data_ids)}
            return options | {"batch_sampler": batch_sampler(dataset, hparams, shuffle=False)}
        if isinstance(dataset, ShardDataset):
            return {"batches_per_epoch": hparams["shard_batches"], "num_workers": hparams["num_workers"]}
        first, epochs = hparams["first_seconds"] * self.frame_rate, hparams["curriculum_epochs"]
        sampler = batch_sampler(dataset, hparams, first_length=first, curriculum_epochs=epochs)
        return options | {"batch_sampler": sampler, "num_workers": hparams["num_workers"]}

    def make_train_loader(self, dataset):
        """Make the loader, and refuse an interval that no epoch reaches."""
        loader, interval = super().make_train_loader(dataset), self.hparams.nar_interval
        if len(self.hparams.train_parts) == 2 and len(loader) < interval:
            raise ValueError(
                f"nar_interval is {interval}, but an epoch has {len(loader)} batches: the non-autoregressive model "
                "would never be trained. Set it lower, or the batches smaller."
            )
        return loader

    def compute_forward(self, batch, stage):
        """Logits (batch, frames, tokens) and targets (batch, frames) of each part that is trained."""
        batch = batch.to(self.device)
        outputs = {}
        if "ar" in self.hparams.train_parts:
            outputs["ar"] = self.predict_first_codebook(batch, stage)
        rests = stage == sb.Stage.TRAIN and outputs and self.step % self.hparams.nar_interval
        if "nar" in self.hparams.train_parts and not rests:
            outputs["nar"] = self.predict_further_codebook(batch, stage)
        return outputs

    def predict_first_codebook(self, batch, stage):
        """Logits and targets of the autoregressive model, first of the prompts and then of the speech."""
        prompt, speech = batch.prompt.first_codebook(), batch.speech.first_codebook()
        targets = [mark_padding(prompt.codes), end_at(speech.codes, self.hparams.codebook_size)]
        if stage == sb.Stage.TRAIN:
            noise = self.hparams.code_noise, self.hparams.codebook_size
            prompt, speech = (
                Utterances(part.phonemes, Padded(replace_some(part.codes.values, *noise), part.codes.lengths))
                for part in (prompt, speech)
            )
        return torch.cat(self.modules.ar(prompt, speech), 1), torch.cat(targets, 1)

    def predict_further_codebook(self, batch, stage):
        """Logits and targets of the non-autoregressive model, of one codebook of each example."""
        most = round(self.hparams.prompt_seconds * self.frame_rate)
        prompt, speech = take_prompts(batch.prompt, batch.speech, self.prompt_shares(len(batch), stage), most)
        target_stage = self.target_stage(batch.id, stage)
        logits = self.modules.nar(prompt, speech, target_stage)
        codes, lengths = speech.codes
        targets = codes.gather(2, target_stage[:, None, None].expand(-1, codes.shape[1], 1))[..., 0]
        return logits, mark_padding(Padded(targets, lengths))

    def prompt_shares(self, batch_size, stage):
        """Fraction of each utterance that is its prompt if it has none: random in training, a quarter otherwise."""
        shares = torch.full((batch_size,), 0.25, device=self.device)
        if stage == sb.Stage.TRAIN:
            shares.uniform_(SHORTEST_PROMPT, LONGEST_PROMPT)
        return shares

    def target_stage(self, names, stage):
        """The codebook that each example predicts: random in training, otherwise by its place in the data, in turn.

        The batches in which it comes make no difference, so that losses of validations can be compared.
        """
        books = self.hparams.n_codebooks
        if stage == sb.Stage.TRAIN:
            return torch.randint(1, books, (len(names),), device=self.device)
        return torch.tensor([self.places[name] % (books - 1) + 1 for name in names], device=self.device)

    def compute_objectives(self, outputs, batch, stage):
        """The sum of the parts' cross-entropies; right tokens are counted.

        Out of training, utterances whose loss is not finite are named and left out; in training the batch is skipped.
        """
        losses = []
        for part, (logits, targets) in outputs.items():
            valid = targets != IGNORED
            each = F.cross_entropy(
                logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
            ).view_as(targets)
            loss = each.sum() / valid.sum()
            if stage != sb.Stage.TRAIN:
                broken = ~each.isfinite().all(1)
                self.broken += [name for name, wrong in zip(batch.id, broken.tolist()) if wrong]
                valid, each = valid & ~broken[:, None], each.masked_fill(broken[:, None], 0)
            losses.append(loss)
            right = (logits.argmax(-1) == targets) & valid
            count = self.counts.setdefault(part, torch.zeros(3, dtype=torch.double))
            if loss.isfinite() or stage != sb.Stage.TRAIN:  # others are not trained on
                count += torch.stack([right.sum(), each.detach().sum(), valid.sum()]).double().cpu()
        return sum(losses)

    def on_stage_start(self, stage, epoch=None):
        """Get the counters of a stage ready, and the fraction of utterances with a prompt."""
        super().on_stage_start(stage, epoch)
        self.counts, self.broken = {}, []
        if stage == sb.Stage.TRAIN:
            self.prompts.share = self.hparams.prompt_share if epoch > self.hparams.epochs_alone else 0.0

    def stage_scores(self, stage, loss):
        """Cross-entropy in nats and right tokens in percent, of each part; in validation the sum to choose by.

        They are means over tokens, whatever the batches. A test has the number of utterances without a finite loss.
        """
        broken = list(dict.fromkeys(self.broken))
        if broken:
            named = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
            logger.warning("%d utterances have no finite loss and are left out of the scores: %s", len(broken), named)
            if stage == sb.Stage.VALID and not all(count for _, _, count in self.counts.values()):
                raise RuntimeError("No utterance of the validation has a finite loss: the training has diverged.")
        scores = {"unscored": len(broken)} if broken and stage == sb.Stage.TEST else {}
        for part, (right, total, count) in self.counts.items():
            scores |= {f"{part}_loss": float(total / count), f"{part}_accuracy": float(100 * right / count)}
        losses = [scores[f"{part}_loss"] for part in self.counts]
        return scores | ({"loss": sum(losses) if losses else loss} if stage == sb.Stage.VALID else {})

    def panels(self, row):
        """Cross-entropies, right tokens, and the learning rate."""
        scores = [f"{stage}_{part}" for stage in ("train", "valid") for part in self.hparams.train_parts]
        losses, shares = ([f"{name}_{kind}" for name in scores] for kind in ("loss", "accuracy"))
        return {"nats": losses, "% right": shares, "learning rate": ["lr"]}

    def write_results(self, scores):
        """Write what the models predict, and if both are trained speak the test set and judge the speech."""
        folder = self.output_folder / "test"
        write_json(folder / "prediction.json", scores)
        if self.codec is not None:
            self.speak_test(folder)
            judge_speech(folder, n_examples=self.hparams.n_examples, **self.judges)

    @torch.no_grad()
    def speak_test(self, folder):
        """Say the first ``n_test_utterances`` that have a prompt, each in the voice of another one of its speaker."""
        hparams = vars(self.hparams)
        items, prompts, codes, facts = read_split({**hparams, "prompts": "speaker"}, "test")
        rows = speak_test_set(
            VallE(hparams["ar"], hparams["nar"]).to(self.device).eval(),
            self.codec.to(self.device),
            dict(list(items.items())[: hparams["n_test_utterances"]]),
            {item["id"]: item["codes"] for item in token_dataset(prompts.items, codes)},
            self.tokenizer,
            prompts,
            folder,
            round(hparams["max_seconds"] * facts.frame_rate),
            hparams["sampler"],
            hparams["test_batch_size"],
        )
        unfinished = sum(not row["finished"] for row in rows)
        logger.info("%d test utterances were spoken, %d of which did not end on their own.", len(rows), unfinished)

    def export(self):
        """Write ``inference/``, if there is a codec to speak with."""
        if self.codec is not None:
            modules = {part: self.hparams.modules[part] for part in PARTS}
            export_synthesizer(self.output_folder / "inference", self.text, modules, self.tokenizer, self.codec)

    def results(self):
        """The scores of the speech, or of the tokens if nothing is spoken."""
        folder, spoken = self.output_folder / "test", speaks_test(vars(self.hparams))
        scores = json.loads((folder / ("summary.json" if spoken else "prediction.json")).read_text(encoding="utf-8"))
        place = f"look and listen: {folder}" if spoken else f"training curves: {self.output_folder / 'training.png'}"
        return f"{format_summary(scores)}\n\n{place}"


def check_settings(hparams):
    """Raise a ValueError for settings that do not go together."""
    parts = hparams["train_parts"]
    if hparams["prompts"] not in PROMPTS:
        raise ValueError(f"prompts is '{hparams['prompts']}', but must be one of {', '.join(PROMPTS)}.")
    if hparams["prompt_order"] == "interleaved" and hparams["prompts"] != "speaker":
        raise ValueError("prompt_order 'interleaved' is learned from prompts of the speaker: set prompts to speaker.")
    if not parts or any(part not in PARTS for part in parts):
        raise ValueError(f"train_parts is {parts}, but must be [ar], [nar] or [ar, nar].")


def main(arguments: list[str] | None = None) -> None:
    """Train, and measure on the test set."""
    run_recipe(CodecLanguageModelBrain, arguments)


if __name__ == "__main__":
    run_script(main)
