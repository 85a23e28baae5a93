#!/usr/bin/env python3
"""Train a small speaker encoder (ECAPA-TDNN) that judges voices where no published one can be downloaded or fits.

    python recipes/speaker/train.py hparams/speaker/mini_speaker.yaml --manifest_folder /path/to/manifests

It learns to tell the speakers of ``train.csv`` apart, by the column ``spk_id``. Validation and test compare pairs of
utterances, also of other speakers. Every hyper-parameter of the file can be replaced on the command line, and so can
SpeechBrain's own options (``--help`` lists both). The same command again resumes from the last checkpoint. The folder
``<output_folder>/inference`` is for SpeechBrain's ``EncoderClassifier.from_hparams``, which then names the training
speakers too (``classify_file``).
"""

from speechbrain_mamba.training.command_line import check_command_line

if __name__ == "__main__":
    check_command_line(__file__)  # before the imports that take seconds

import json
import logging
from collections import Counter

import speechbrain as sb
import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.distributed import main_process_only

from speechbrain_mamba.corpora.preparation import check_manifests
from speechbrain_mamba.dataio.manifests import find_manifests, read_manifest
from speechbrain_mamba.dataio.speech_datasets import piece_dataset
from speechbrain_mamba.evaluation.report import format_summary
from speechbrain_mamba.evaluation.speaker_report import SpeakerReport
from speechbrain_mamba.inference.speaker import export_speaker_encoder
from speechbrain_mamba.training.brain import Datasets, TrainingBrain
from speechbrain_mamba.training.run import run_recipe
from speechbrain_mamba.training.script import run_script
from speechbrain_mamba.utils.files import write_json

logger = logging.getLogger(__name__)

SHORTEST = 0.1
"""Seconds of the shortest utterance that is used: the encoder's convolutions mirror frames of its ends."""


class SpeakerBrain(TrainingBrain):
    """Classification of speakers in training, verification of pairs otherwise."""

    needs = ("matplotlib",)
    best_by = "EER"
    evaluation_totals = ("report",)

    def prepare_data(self, hparams):
        """Check all audio that the manifests list."""
        check_manifests(hparams)

    def make_datasets(self, hparams):
        """Read the three splits, and number the training speakers."""
        (train, speakers), (valid, _), (test, _) = (
            make_dataset(hparams, split) for split in ("train", "valid", "test")
        )
        if len(speakers) > hparams["n_speakers"]:
            raise ValueError(
                f"There are {len(speakers)} training speakers, but n_speakers is {hparams['n_speakers']}: set it "
                "higher."
            )
        self.labels = {speaker: index for index, speaker in enumerate(speakers)}
        self.check_source()
        hooks = self.check_speakers, main_process_only(self.save_speakers)
        self.checkpointer.add_recoverable("speakers", self, *hooks, optional_load=True)
        return Datasets(train, valid, {"test": test})

    def check_source(self):
        """Refuse a classifier that was trained for other speakers, or for unknown ones, as the first weights."""
        taken = sorted(name for name in self.taken if name.startswith("classifier."))
        if taken and read_speakers(self.source)[: len(self.labels)] != list(self.labels):
            raise ValueError(
                f"The classifier of {self.source.description} was trained for other speakers than those of train.csv, "
                "or it is unknown for which: start with a new one by --init_skip 'classifier'."
            )

    def save_speakers(self, _, path):
        """Write the speakers of the classifier's outputs, for :meth:`check_speakers`."""
        write_json(path, list(self.labels))

    def check_speakers(self, _, path, end_of_epoch):
        """Refuse to resume with other speakers: the classifier's outputs would be given to others."""
        before, now = json.loads(path.read_text(encoding="utf-8")), list(self.labels)
        if before != now:
            changed = ", ".join(sorted(set(before).symmetric_difference(now))[:5])
            raise ValueError(
                f"The run in '{self.output_folder}' was trained for {len(before)} speakers, but train.csv has "
                f"{len(now)} (not in both: {changed}): give its manifests, or another --output_folder."
            )

    def compute_forward(self, batch, stage):
        """Embeddings (batch, 1, channels)."""
        wavs, lens = batch.to(self.device).sig
        feats = self.modules.mean_var_norm(self.modules.compute_features(wavs), lens)
        return self.modules.embedding_model(feats, lens)

    def compute_objectives(self, embeddings, batch, stage):
        """The loss of additive angular margins; outside of training embeddings are kept to be compared."""
        if stage != sb.Stage.TRAIN:
            for name, speaker, embedding, wav in zip(batch.id, batch.spk_id, embeddings[:, 0], batch.sig[0]):
                if wav.any():
                    self.report.add(name, speaker, embedding)
                else:
                    self.report.add_unscored(name, "the recording is silent", spk_id=speaker)
            return torch.zeros(())
        labels = torch.tensor([[self.labels[name]] for name in batch.spk_id], device=self.device)
        with torch.autocast(self.device_type, enabled=False):  # cosines rounded up to above 1 have no sine
            return self.hparams.compute_cost(self.modules.classifier(embeddings.float()), labels)

    def on_stage_start(self, stage, epoch=None):
        """Begin a report."""
        super().on_stage_start(stage, epoch)
        self.report = SpeakerReport(self.output_folder / "test")

    def stage_scores(self, stage, loss):
        """The loss in training, the equal error rate of all pairs in percent otherwise."""
        return {"loss": loss} if stage == sb.Stage.TRAIN else {"EER": self.report.summarize()["EER"]}

    def panels(self, row):
        """Loss and errors."""
        return {"loss": ["train_loss"], "%": ["valid_EER"]}

    def write_results(self, scores):
        """Write ``test/``."""
        self.report.write()

    def export(self):
        """Write ``inference/``, which SpeechBrain's ``EncoderClassifier`` loads."""
        export_speaker_encoder(
            self.output_folder / "inference", self.text, self.hparams.modules, self.labels, self.hparams.n_speakers
        )

    def results(self):
        """The scores of the test, and where the encoder is."""
        summary = json.loads((self.output_folder / "test" / "verification.json").read_text(encoding="utf-8"))
        return (
            f"{format_summary(summary)}\n\n"
            f"training curves:         {self.output_folder / 'training.png'}\n"
            f"speaker encoder to load: {self.output_folder / 'inference'}"
        )


def read_speakers(source):
    """The speakers of a classifier that is a source of weights, by its outputs; none if the source does not say."""
    if file := source.find_file("speakers.ckpt"):  # of a checkpoint
        return json.loads(file.read_text(encoding="utf-8"))
    if file := source.find_file("label_encoder.ckpt") or source.find_file("label_encoder.txt"):
        labels = CategoricalEncoder()
        labels.load(file)
        return [labels.ind2lab[index] for index in range(len(labels))]
    return []


def make_dataset(hparams, split):
    """Utterances of a split, in training a random piece of each, with their speakers."""
    items = read_manifest(find_manifests(hparams["manifest_folder"], [split])[split], hparams["data_root"])
    without = [name for name, item in items.items() if not item.get("spk_id")]
    if without:
        raise ValueError(f"The manifest for {split} has no spk_id for '{without[0]}': name the speaker of each.")
    short = [name for name, item in items.items() if item["duration"] < SHORTEST]
    if short:
        logger.warning(
            "%d of %d utterances for %s are left out, as they are shorter than %s s: %s%s",
            len(short), len(items), split, SHORTEST, ", ".join(short[:5]), ", ..." if len(short) > 5 else ".",
        )  # fmt: skip
        items = {name: item for name, item in items.items() if item["duration"] >= SHORTEST}
    if not items:
        raise ValueError(f"The manifest for {split} has no utterance of at least {SHORTEST} s.")
    counts = Counter(item["spk_id"] for item in items.values())
    if split != "train" and (len(counts) < 2 or max(counts.values()) < 2):
        raise ValueError(
            f"The manifest for {split} has {len(items)} utterances of {len(counts)} speakers, but the equal error rate "
            "needs two speakers, and two utterances of one of them."
        )
    seconds = hparams["crop_seconds"] if split == "train" else None
    return piece_dataset(items, hparams["sample_rate"], seconds, ["spk_id"]), sorted(counts)


def main(arguments: list[str] | None = None) -> None:
    """Train, verify, and leave the encoder to be loaded."""
    run_recipe(SpeakerBrain, arguments)


if __name__ == "__main__":
    run_script(main)
