"""What the training of all recognizers shares: data, features, word errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
from sentencepiece import SentencePieceProcessor
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_mamba.corpora.preparation import prepare_recognition, recognition_manifests
from speechbrain_mamba.dataio.length_batches import length_sampler
from speechbrain_mamba.dataio.manifests import read_manifest
from speechbrain_mamba.dataio.selection import encoder_frames, has_room, reason_against, select_usable
from speechbrain_mamba.dataio.shards import ShardDataset, list_shards, read_shard
from speechbrain_mamba.dataio.speech_datasets import recognition_dataset, recognition_example
from speechbrain_mamba.evaluation.recognition_report import RecognitionReport
from speechbrain_mamba.evaluation.text_normalization import load_normalization
from speechbrain_mamba.lobes.models.recognition.speech_features import compute_padded_features
from speechbrain_mamba.text.tokenizer import (
    FILE_NAME,
    check_special_tokens,
    load_or_train_tokenizer,
    load_tokenizer,
    open_sentencepiece,
    spell,
)
from speechbrain_mamba.training.averaging import check_tolerance
from speechbrain_mamba.training.brain import Datasets, TrainingBrain
from speechbrain_mamba.training.init_source import InitSource
from speechbrain_mamba.training.seeding import seeded
from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.main_process import do_on_main

logger = logging.getLogger(__name__)


class RecognitionBrain(TrainingBrain):
    """A recognizer up to its encoder: data, features, word errors. Subclasses add losses and searches."""

    needs = ("matplotlib",)
    evaluation_totals: ClassVar[tuple[str, ...] | None] = ("report",)
    may_change = frozenset({"test_batch_ex", "test_normalization"})
    special_tokens: ClassVar[tuple[str, ...]] = ("blank_index",)
    """Hyper-parameters that name tokens without a text."""

    renamed_weights: ClassVar[Mapping[str, str]] = {"Encoder.transformer.": "Transformer."}
    other_weight_files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "model": ("asr",),
        # a recognizer with a decoder starts from the encoder of one without, and the other way round
        "Transformer": ("Encoder",),
        "Encoder": ("Transformer",),
    }

    def set_up(self) -> None:
        """Check settings that would end the run later."""
        check_settings(vars(self.hparams))

    def prepare_data(self, hparams: Mapping[str, Any]) -> None:
        """Make the manifests of the corpus."""
        prepare_recognition(hparams)

    def make_datasets(self, hparams: Mapping[str, Any]) -> Datasets:
        """Get the tokenizer, and the usable utterances for training, validation and each test set."""
        manifests = recognition_manifests(hparams)
        if not hparams["test_splits"]:
            logger.warning("test_splits is empty: the recognizer is exported without a test.")
        items = {name: read_manifest(path, hparams["data_folder"]) for name, path in manifests.items()}
        shards = list_shards(hparams["train_shards"]) if hparams.get("train_shards") else []
        train = (raw["facts"] for shard in shards for raw in read_shard(shard)) if shards else items["train"].values()
        do_on_main(self.adopt_tokenizer)
        self.tokenizer = get_tokenizer(hparams, (item["wrd"] for item in train))
        check_special_tokens(self.tokenizer, **{name: hparams[name] for name in self.special_tokens})
        rate, hop = hparams["sample_rate"], hparams["compute_features"].compute_STFT.hop_length
        perturb, datasets = hparams["speed_perturb"], dict[str, Any]()
        fastest = max(getattr(perturb, "speeds", [100])) / 100
        least = (hparams["CNN"].min_frames - 1) * hop / rate

        def frames_of(item: Mapping[str, Any]) -> int:
            return encoder_frames(item["duration"], rate, hop)

        room = partial(has_room, sample_rate=rate, hop=hop)
        for name, part in items.items():
            is_train = name == "train"
            limits = (frames_of, least * fastest) if is_train else (None, least)
            usable = select_usable(part, self.tokenizer, f"utterances of {name}", *limits)
            if not is_train:
                self.check_lengths(name, {utterance: frames_of(item) for utterance, item in usable.items()})
            datasets[name] = recognition_dataset(
                usable,
                self.tokenizer,
                rate,
                hparams["bos_index"],
                hparams["eos_index"],
                speed_perturb=perturb if is_train else None,
                has_room=room,
            )
        if shards:
            reason = partial(reason_against, tokenizer=self.tokenizer, frames=frames_of, least_seconds=least * fastest)
            decode = partial(
                recognition_example,
                self.tokenizer,
                hparams["bos_index"],
                hparams["eos_index"],
                perturb,
                reason,
                has_room=room,
            )
            datasets["train"] = ShardDataset(
                shards,
                decode,
                hparams["max_batch_length_train"],
                rate,
                hparams["max_batch_ex"],
                hparams["shard_buffer"],
                hparams["seed"],
                seeding=seeded,
            )
        return Datasets(datasets.pop("train"), datasets.pop("valid"), datasets)

    def part_names(self) -> tuple[str, ...]:
        """The tokenizer belongs to the weights of a recognizer."""
        return ("tokenizer",)

    def compare_parts(self, source: InitSource) -> dict[str, str]:
        """What is wrong with the tokenizer of a source of weights for this run."""
        hparams, file = self.hparams, source.find_tokenizer()
        if file is None:
            return {} if hparams.tokenizer_folder else {"tokenizer": f"is missing there ({FILE_NAME})"}
        tokenizer = open_sentencepiece(file.read_bytes(), f"'{file}'")
        size, given = tokenizer.vocab_size(), hparams.output_neurons
        if hparams.tokenizer_folder:
            ours = load_tokenizer(hparams.tokenizer_folder, given, hparams.save_folder)
            same = ours.serialized_model_proto() == tokenizer.serialized_model_proto()
            return {} if same else {"tokenizer": f"there is another one than that of '{hparams.tokenizer_folder}'"}
        return {} if size == given else {"tokenizer": f"there has {size} tokens, but output_neurons is {given}"}

    def adopt_tokenizer(self) -> None:
        """Copy the tokenizer of the source of a new run to where a resumed run finds it, unless the settings name
        another one or want a new one. In the main process."""
        if self.source is None or self.hparams.tokenizer_folder:
            return
        file, ours = self.source.find_tokenizer(), Path(self.hparams.save_folder) / FILE_NAME
        if file is None:
            return
        content = file.read_bytes()
        if not self.is_skipped("tokenizer"):
            with atomic_path(ours) as temporary:
                temporary.write_bytes(content)
        elif ours.is_file() and ours.read_bytes() == content:  # of an attempt with other settings
            ours.unlink()

    def check_lengths(self, name: str, frames: Mapping[str, int]) -> None:
        """Make sure that the utterances of a set, by their frames of the encoder, can be searched."""

    def loader_options(self, stage: sb.Stage, dataset: DynamicItemDataset) -> dict[str, Any]:
        """Batches of utterances of similar length, limited in seconds; in tests utterances in their order.

        Those of the training are drawn again in each epoch. Those of the validation are always the same, in the same
        order, so that its loss is.
        """
        if stage == sb.Stage.TEST:
            return {"batch_size": self.hparams.test_batch_ex}
        is_train = stage == sb.Stage.TRAIN
        if isinstance(dataset, ShardDataset):
            return {"batches_per_epoch": self.hparams.shard_batches, "num_workers": self.hparams.num_workers}
        longest = self.hparams.max_batch_length_train if is_train else self.hparams.max_batch_length_valid
        options = {key: getattr(self.hparams, key) for key in ("num_buckets", "max_batch_ex", "seed")}
        sampler = length_sampler(dataset, longest, shuffle=is_train, **options)
        return {"batch_sampler": sampler, "num_workers": self.hparams.num_workers if is_train else 0}

    def encode(self, batch: Any, stage: sb.Stage, labels: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Compute the encoder's input, augmented in training.

        Returns the input (batch, frames, ...), its relative lengths, and the labels repeated for augmented copies.
        """
        wavs, wav_lens, repeated = self.augment("wav_augment", stage, *batch.sig, list(labels))
        feats, feat_lens = compute_padded_features(self.hparams.compute_features, wavs, wav_lens)
        feats = self.modules.normalize(feats, feat_lens, epoch=self.hparams.epoch_counter.current)
        feats, feat_lens, repeated = self.augment("fea_augment", stage, feats, feat_lens, repeated)
        # the plain module knows the lengths, the one in self.modules may be wrapped for several GPUs
        return self.modules.CNN(feats, feat_lens), self.hparams.CNN.output_lens(feat_lens, feats.shape[1]), repeated

    def augment(
        self, name: str, stage: sb.Stage, x: Tensor, lens: Tensor, labels: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Augment a batch in training, if the hyper-parameters have the augmentation."""
        augmentation = getattr(self.hparams, name, None)
        if augmentation is None or stage != sb.Stage.TRAIN:
            return x, lens, labels
        x, lens = augmentation(x, lens)
        return x, lens, [augmentation.replicate_labels(label) for label in labels]

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Begin the report of a validation or a test."""
        super().on_stage_start(stage, epoch)
        if stage != sb.Stage.TRAIN:
            name = self.test_set if stage == sb.Stage.TEST else "valid"
            folder = self.output_folder / "test" / name
            self.report = RecognitionReport(folder, self.searches(stage), self.hparams.test_normalization)

    def searches(self, stage: sb.Stage) -> tuple[str, ...]:
        """The names of the searches of a stage, which are those of its error rates."""
        raise NotImplementedError

    def report_words(self, batch: Any, **hypotheses: list[Any]) -> None:
        """Count the errors of a batch, of the token lists or texts of each search."""
        for i, (name, reference) in enumerate(zip(batch.id, batch.wrd)):
            found = {search: each[i] for search, each in hypotheses.items()}
            texts = {
                search: words if isinstance(words, str) else spell(self.tokenizer, words)
                for search, words in found.items()
            }
            self.report.add(name, texts, reference)

    def stage_scores(self, stage: sb.Stage, loss: float) -> dict[str, float]:
        """The loss, and outside of training the error rates of each search in percent."""
        if stage == sb.Stage.TRAIN:
            return {"loss": loss}
        return {"loss": loss, **self.error_rates(stage)}

    def error_rates(self, stage: sb.Stage) -> dict[str, float]:
        """The error rates of each search in percent, as ``greedy_WER`` and ``greedy_CER``; NaN if nothing was
        searched."""
        rates = self.report.scores() if self.report.rows else {}
        return {
            f"{search}_{rate}": rates.get(f"{search}_{rate.lower()}", float("nan"))
            for search in self.searches(stage)
            for rate in ("WER", "CER")
        }

    def table_row(self, train: Mapping[str, float], valid: Mapping[str, float]) -> dict[str, float]:
        """Both losses, and the scores of the validation under their own names."""
        scores = {name: value for name, value in valid.items() if name != "loss"}
        return {"train_loss": train["loss"], "valid_loss": valid["loss"], **scores}

    def panels(self, row: Mapping[str, float]) -> dict[str, list[str]]:
        """Losses, error rates and learning rate."""
        rates = [name for name in row if name.endswith("ER")]
        return {"loss": ["train_loss", "valid_loss"], "%": rates, "learning rate": ["lr"]}

    def write_results(self, scores: dict[str, float]) -> None:
        """Write alignments, table and summary of a test set."""
        self.report.write()

    def results(self) -> str:
        """The error rates of each test set by search, and where to look."""
        lines, folder = [], self.output_folder / "test"
        for name in self.hparams.test_splits:
            summary = json.loads((folder / name / "summary.json").read_text(encoding="utf-8"))
            for search in self.searches(sb.Stage.TEST):
                rates = f"WER {summary[f'{search}_wer']:6.2f} %   CER {summary[f'{search}_cer']:6.2f} %"
                lines.append(f"{name:12s} {search:6s} {rates}   {summary['utterances']} utterances")
        if lines:
            lines += ["", f"alignments, table and summary: {folder}"]
        return "\n".join([*lines, f"training curves:               {self.output_folder / 'training.png'}"])


COUNTS = ("avg_checkpoints", "num_buckets", "max_batch_ex", "test_batch_ex", "chunk_size")
SECONDS = ("max_batch_length_train", "max_batch_length_valid")


def check_settings(hparams: Mapping[str, Any]) -> None:
    """Make sure that settings of batches, averages and chunks are in range; a ValueError names the first that is
    not."""
    for name in COUNTS:
        value = hparams.get(name)
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} is {value}, but must be an integer of at least 1.")
    for name in SECONDS:
        if not hparams[name] > 0:
            raise ValueError(f"{name} is {hparams[name]}, but must be a number of seconds above 0.")
    check_tolerance(hparams["avg_tolerance"])
    load_normalization(hparams["test_normalization"])


def get_tokenizer(hparams: Mapping[str, Any], transcripts: Iterable[str]) -> SentencePieceProcessor:
    """Get the tokenizer of ``tokenizer_folder``, or one trained on the transcripts, which a resumed run finds again."""
    options = {key: hparams[key] for key in ("token_type", "character_coverage", "bos_index", "eos_index")}
    source, folder, size = (hparams[key] for key in ("tokenizer_folder", "save_folder", "output_neurons"))
    return load_or_train_tokenizer(source, folder, transcripts, size, **options)
