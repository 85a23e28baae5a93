"""What the training of all recognizers shares: data, features, word errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import speechbrain as sb
from sentencepiece import SentencePieceProcessor
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler
from torch import Tensor

from speechbrain_mamba.corpora.preparation import prepare_recognition, recognition_manifests
from speechbrain_mamba.dataio.manifests import read_manifest
from speechbrain_mamba.dataio.selection import encoder_frames, select_usable
from speechbrain_mamba.dataio.speech_datasets import recognition_dataset
from speechbrain_mamba.evaluation.recognition_report import RecognitionReport
from speechbrain_mamba.lobes.models.recognition.speech_features import compute_padded_features
from speechbrain_mamba.text.tokenizer import load_or_train_tokenizer
from speechbrain_mamba.training.brain import Datasets, TrainingBrain


class RecognitionBrain(TrainingBrain):
    """A recognizer up to its encoder: data, features, word errors. Subclasses add losses and searches."""

    needs = ("matplotlib",)
    best_by = "WER"
    evaluation_totals: ClassVar[tuple[str, ...] | None] = ("report",)

    def prepare_data(self, hparams: Mapping[str, Any]) -> None:
        """Make the manifests of the corpus."""
        prepare_recognition(hparams)

    def make_datasets(self, hparams: Mapping[str, Any]) -> Datasets:
        """Get the tokenizer, and the usable utterances for training, validation and each test set."""
        manifests = recognition_manifests(hparams)
        items = {name: read_manifest(path, hparams["data_folder"]) for name, path in manifests.items()}
        self.tokenizer = get_tokenizer(hparams, [item["wrd"] for item in items["train"].values()])
        rate, hop = hparams["sample_rate"], hparams["compute_features"].compute_STFT.hop_length
        datasets: dict[str, DynamicItemDataset] = {}
        for name, part in items.items():
            frames, perturb = None, None
            if name == "train":
                frames, perturb = lambda item: encoder_frames(item["duration"], rate, hop), hparams["speed_perturb"]
            usable = select_usable(part, self.tokenizer, f"utterances of {name}", frames)
            datasets[name] = recognition_dataset(
                usable, self.tokenizer, rate, hparams["bos_index"], hparams["eos_index"], speed_perturb=perturb
            )
        return Datasets(datasets.pop("train"), datasets.pop("valid"), datasets)

    def loader_options(self, stage: sb.Stage, dataset: DynamicItemDataset) -> dict[str, Any]:
        """Batches of utterances of similar length, limited in seconds; single utterances in tests."""
        if stage == sb.Stage.TEST:
            return {"batch_size": 1}
        is_train = stage == sb.Stage.TRAIN
        sampler = DynamicBatchSampler(
            dataset,
            self.hparams.max_batch_length_train if is_train else self.hparams.max_batch_length_valid,
            self.hparams.num_buckets,
            length_func=lambda item: item["duration"],
            batch_ordering="random",
            max_batch_ex=self.hparams.max_batch_ex,
            seed=self.hparams.seed,
        )
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
            self.report = RecognitionReport(self.output_folder / "test" / name)

    def report_words(self, batch: Any, hypotheses: list[Any]) -> None:
        """Count the errors of a batch of token lists or texts."""
        for name, hypothesis, reference in zip(batch.id, hypotheses, batch.wrd):
            text = hypothesis if isinstance(hypothesis, str) else self.tokenizer.decode(hypothesis)
            self.report.add(name, text, reference)

    def stage_scores(self, stage: sb.Stage, loss: float) -> dict[str, float]:
        """The loss, and outside of training the error rates in percent."""
        if stage == sb.Stage.TRAIN:
            return {"loss": loss}
        rates = self.report.summarize()
        return {"loss": loss, "WER": rates["wer"], "CER": rates["cer"]}

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
        """The error rates of each test set, and where to look."""
        lines, folder = [], self.output_folder / "test"
        for name in self.hparams.test_splits:
            summary = json.loads((folder / name / "summary.json").read_text(encoding="utf-8"))
            rates = f"WER {summary['wer']:6.2f} %   CER {summary['cer']:6.2f} %"
            lines.append(f"{name:12s} {rates}   {summary['utterances']} utterances")
        lines += ["", f"alignments, table and summary: {folder}"]
        return "\n".join([*lines, f"training curves:               {self.output_folder / 'training.png'}"])


def get_tokenizer(hparams: Mapping[str, Any], transcripts: list[str]) -> SentencePieceProcessor:
    """Get the tokenizer of ``tokenizer_folder``, or one trained on the transcripts, which a resumed run finds again."""
    options = {key: hparams[key] for key in ("token_type", "character_coverage", "bos_index", "eos_index")}
    source, folder, size = (hparams[key] for key in ("tokenizer_folder", "save_folder", "output_neurons"))
    return load_or_train_tokenizer(source, folder, transcripts, size, **options)
