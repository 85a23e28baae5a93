#!/usr/bin/env python3
"""Train a small codec of the EnCodec architecture where the published one cannot be downloaded or does not fit.

    python recipes/codec/train.py hparams/codec/mini_codec.yaml --manifest_folder /path/to/manifests

Every hyper-parameter of the file can be replaced on the command line (``--adversarial True``), and so can SpeechBrain's
own options (``--help`` lists both). The same command again resumes from the last checkpoint. The codec is left in
``<output_folder>/codec`` for ``load_codec``, reconstructed test examples with pictures in ``<output_folder>/test``.
"""

from speechbrain_mamba.training.command_line import check_command_line

if __name__ == "__main__":
    check_command_line(__file__)  # before the imports that take seconds

import json
import logging
from contextlib import contextmanager

import speechbrain as sb
import torch
import torch.nn.functional as F

from speechbrain_mamba.codecs import save_codec
from speechbrain_mamba.corpora.preparation import check_manifests
from speechbrain_mamba.dataio.manifests import find_manifests, read_manifest
from speechbrain_mamba.dataio.speech_datasets import piece_dataset
from speechbrain_mamba.dataio.tables import keep_items
from speechbrain_mamba.evaluation.codec_report import CodecReport
from speechbrain_mamba.evaluation.report import format_summary
from speechbrain_mamba.inference.judges import load_recognizer
from speechbrain_mamba.ops import absolute_lengths, mask_frames
from speechbrain_mamba.training.brain import Datasets, TrainingBrain
from speechbrain_mamba.training.fine_tuning import trainable
from speechbrain_mamba.training.run import run_recipe
from speechbrain_mamba.training.script import run_script
from speechbrain_mamba.utils.distributed import any_process

logger = logging.getLogger(__name__)


class CodecBrain(TrainingBrain):
    """Reconstruction, commitment, and with ``adversarial`` a discriminator to deceive."""

    needs = ("matplotlib", "encodec")
    best_by = "mel"
    evaluation_totals = ("report",)
    epoch_totals = ("report.totals", "report.used")
    may_change = frozenset({"recognizer", "judge_sources"})
    recognize = None

    def set_up(self):
        """Load the recognizer of the test, which may be missing."""
        if self.hparams.recognizer:
            sources = self.hparams.judge_sources or ()
            self.recognize = load_recognizer(self.hparams.recognizer, str(self.device), sources=sources)

    def prepare_data(self, hparams):
        """Check all audio that the manifests list."""
        check_manifests(hparams)

    def make_datasets(self, hparams):
        """Pieces for training, whole utterances for validation and test."""
        train, valid, self.test_data = (make_dataset(hparams, split) for split in ("train", "valid", "test"))
        return Datasets(train, valid, {"test": self.test_data})

    def init_optimizers(self):
        """An optimizer for the codec, and one for the discriminator."""
        self.optimizer = self.opt_class(trainable(self.modules.codec, "codec"))
        discriminator = trainable(self.modules.discriminator, "discriminator")
        self.discriminator_optimizer = self.hparams.discriminator_optimizer(discriminator)
        self.optimizers_dict = {"codec": self.optimizer, "discriminator": self.discriminator_optimizer}
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(f"{name}_optimizer", optimizer)

    def freeze_optimizers(self, optimizers):
        """Without an adversary the discriminator's optimizer rests."""
        return optimizers if self.hparams.adversarial else {"codec": self.optimizer}

    def compute_forward(self, batch, stage):
        """Waveforms, their lengths, reconstructions, the commitment loss and the codes of each one's valid frames."""
        wavs, lens = batch.to(self.device).sig
        lengths = absolute_lengths(lens, wavs.shape[1])
        reconstruction, commitment, codes = self.modules.codec(wavs, lengths)
        wavs = F.pad(wavs, (0, reconstruction.shape[1] - wavs.shape[1]))
        frames = self.hparams.codec.count_frames(lengths).tolist()
        codes = [one[:count] for one, count in zip(codes, frames)]
        return mask_frames(wavs, lengths), lengths, mask_frames(reconstruction.float(), lengths), commitment, codes

    def train_adversary(self, outputs, should_step):
        """Teach the discriminator to tell recordings from reconstructions, before the codec's loss asks it."""
        wavs, _, reconstruction, *_ = outputs
        if not self.hparams.adversarial or any_process(not bool(reconstruction.isfinite().all()), self.device):
            return  # a batch without a finite loss is skipped
        with self.training_ctx:
            real, _ = self.modules.discriminator(wavs[:, None])
            fake, _ = self.modules.discriminator(reconstruction.detach()[:, None])
            loss = hinge(real, 1) + hinge(fake, -1)
        self.scaler.scale(loss / self.grad_accumulation_factor).backward()
        if should_step:
            self.clip_and_step(self.discriminator_optimizer)

    def compute_objectives(self, predictions, batch, stage):
        """The codec's loss."""
        if stage != sb.Stage.TRAIN:
            return self.measure(predictions, batch)
        wavs, lengths, reconstruction, commitment, codes = predictions
        with torch.autocast(self.device_type, enabled=False):
            mel = self.modules.mel_loss(reconstruction, wavs, lengths)
        terms = {
            "mel": (self.hparams.mel_weight, mel),
            "time": (self.hparams.time_weight, (reconstruction - wavs).abs().mean()),
            "commitment": (self.hparams.commitment_weight, commitment),
        }
        if self.hparams.adversarial:
            adversarial, features = self.deceive(reconstruction, wavs)
            terms |= {"adversarial": (self.hparams.adversarial_weight, adversarial)}
            terms |= {"features": (self.hparams.feature_weight, features)}
        loss = sum(weight * value for weight, value in terms.values())
        if loss.isfinite():
            values = {name: value.item() for name, (_, value) in terms.items()}
            self.report.add_losses(values, torch.cat(codes), int(lengths.sum()))
        return loss

    def measure(self, predictions, batch):
        """The losses of each utterance on its own, so that their mean over samples does not depend on batches.

        Silent recordings, and reconstructions that are not finite, are left out.
        """
        wavs, lengths, reconstruction, _, codes = predictions
        for place, (name, samples) in enumerate(zip(batch.id, lengths.tolist())):
            ours, theirs = (signals[place : place + 1, :samples] for signals in (reconstruction, wavs))
            if not theirs.any():
                self.report.add_unscored(name, "the recording is silent")
                continue
            with torch.autocast(self.device_type, enabled=False):
                mel = self.modules.mel_loss(ours, theirs, lengths[place : place + 1])
            terms = {"mel": mel.item(), "time": (ours - theirs).abs().mean().item()}
            self.report.add_utterance_losses(name, terms, codes[place], samples)
        return torch.zeros(())  # what counts is in the report

    def deceive(self, reconstruction, wavs):
        """The loss of reconstructions that the discriminator hears as such, and of layers that differ on recordings."""
        # unwrapped where several processes train: they share no gradients of it here
        discriminator = getattr(self.modules.discriminator, "module", self.modules.discriminator)
        with frozen(discriminator):
            logits, fake = discriminator(reconstruction[:, None])
            with torch.no_grad():
                _, real = discriminator(wavs[:, None])
        pairs = [(theirs.float(), ours.float()) for pair in zip(real, fake) for theirs, ours in zip(*pair)]
        features = sum((ours - theirs).abs().mean() / theirs.abs().mean() for theirs, ours in pairs) / len(pairs)
        return hinge(logits, 1), features

    def on_stage_start(self, stage, epoch=None):
        """Begin a report."""
        super().on_stage_start(stage, epoch)
        folder, codec, rate = self.output_folder / "test", self.hparams.codec, self.hparams.sample_rate
        self.report = CodecReport(folder, codec, rate, self.recognize, self.hparams.n_examples)

    def stage_scores(self, stage, loss):
        """Means of the terms of the loss, and the perplexity of the codes."""
        losses, unscored = self.report.losses(), self.report.unscored()
        if stage == sb.Stage.VALID and not losses:
            reasons = ", ".join(f"{name}: {reason}" for name, reason in unscored[:5])
            raise RuntimeError(f"No utterance of the validation can be compared with its reconstruction: {reasons}.")
        if stage == sb.Stage.VALID and unscored:
            logger.warning("%d utterances of the validation are left out: %s, ...", len(unscored), unscored[0])
        return losses

    def panels(self, row):
        """Distance and codes in use."""
        return {"mel distance": ["train_mel", "valid_mel"], "codes in use": ["valid_perplexity"]}

    def write_results(self, scores):
        """Write ``test/``: scores, examples to look at and listen to, and word errors if wanted."""
        self.report.add_dataset(self.test_data)
        self.report.write()

    def export(self):
        """Write ``codec/``, which ``load_codec`` loads."""
        save_codec(self.hparams.codec, self.output_folder / "codec")

    def results(self):
        """The scores of the test, and where to look and listen."""
        folder = self.output_folder / "test"
        found = [folder / f"{name}.json" for name in ("reconstruction", "word_errors")]
        summaries = [json.loads(path.read_text(encoding="utf-8")) for path in found if path.exists()]
        lines = [*map(format_summary, summaries), f"look and listen: {folder / 'examples'}"]
        return "\n\n".join(lines) + f"\ncodec to load:   {self.output_folder / 'codec'}"


def hinge(logits, side):
    """How far logits, a tensor per scale, are from being 1 or more on their side, which is 1 or -1."""
    return sum((1 - side * logit.float()).relu().mean() for logit in logits) / len(logits)


@contextmanager
def frozen(module):
    """Let gradients pass through a module, but not into its parameters."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    yield
    for parameter in trained:
        parameter.requires_grad_(True)


def make_dataset(hparams, split):
    """Utterances of a split, in training a random piece of each."""
    path = find_manifests(hparams["manifest_folder"], [split])[split]
    items = read_manifest(path, hparams["data_root"])
    if split != "train":
        return piece_dataset(items, hparams["sample_rate"], keys=["wrd"])
    least = hparams["min_seconds"]
    chosen = keep_items(items, lambda _, item: item["duration"] >= least)
    if not chosen:
        raise ValueError(
            f"None of the {len(items)} utterances in '{path}' has {least} seconds: set min_seconds to less."
        )
    if len(chosen) < len(items):
        logger.info("%d of %d utterances are shorter than min_seconds.", len(items) - len(chosen), len(items))
    return piece_dataset(chosen, hparams["sample_rate"], hparams["crop_seconds"])


def main(arguments: list[str] | None = None) -> None:
    """Train, reconstruct the test set, and leave the codec to be loaded."""
    run_recipe(CodecBrain, arguments)


if __name__ == "__main__":
    run_script(main)
