#!/usr/bin/env python3
"""Train and test a speech separation system: Mamba-TasNet, DPMamba, or the baseline SepFormer.

    python recipes/separation/train.py hparams/separation/mambatasnet_M.yaml --data_folder /path/to/wsj0-mix/2speakers \
        --base_folder_dm /path/to/wsj0/si_tr_s

Every hyper-parameter of the file can be replaced on the command line, and so can SpeechBrain's own options
(``--device``, ``--precision``, ``--debug``, ...; ``--help`` lists both). Use ``torchrun --nproc_per_node=N`` instead of
``python`` to train on N GPUs. The same command again resumes from the last checkpoint. Results:
``<output_folder>/test``.
"""

from speechbrain_mamba.training.command_line import check_command_line

if __name__ == "__main__":
    check_command_line(__file__)  # before the imports that take seconds

import json
import logging
import math
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process

from speechbrain_mamba.corpora.preparation import check_mixtures, prepare_separation
from speechbrain_mamba.dataio.dynamic_mixing import dynamic_mixtures
from speechbrain_mamba.dataio.level_laws import find_level_law
from speechbrain_mamba.dataio.mixture_dataset import separation_dataset
from speechbrain_mamba.evaluation.report import format_summary, mean
from speechbrain_mamba.evaluation.separation_report import SeparationReport
from speechbrain_mamba.evaluation.separation_scores import find_fault
from speechbrain_mamba.inference.separation import export_separator
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet.init import reset_parameters
from speechbrain_mamba.ops import absolute_lengths, mask_frames
from speechbrain_mamba.training.brain import Datasets, TrainingBrain
from speechbrain_mamba.training.run import run_recipe
from speechbrain_mamba.training.script import run_script
from speechbrain_mamba.utils.main_process import do_on_main

logger = logging.getLogger(__name__)


class SeparationBrain(TrainingBrain):
    """Permutation-invariant training of a separator, and its test."""

    needs = ("matplotlib", "fast_bss_eval")
    best_by = "si-snr"  # negative, in dB
    evaluation_totals = ("improvements", "unscored", "report")
    may_change = frozenset({"perceptual_scores"})

    def set_up(self):
        """Check the name of the law and the augmentation, and give each copy of a block its own weights at first."""
        find_level_law(self.hparams.level_law, self.hparams.corpus)
        self.check_augmentation()
        for module in self.hparams.modules.values():
            reset_parameters(module)

    def check_augmentation(self):
        """Refuse an augmentation that would have no effect, or change speeds twice."""
        if self.hparams.augmentation is not None and (self.hparams.use_speedperturb or not self.hparams.dynamic_mixing):
            raise ValueError(
                "The augmentation is for mixtures that are drawn on the fly, and changes speeds itself: set "
                "dynamic_mixing to True and use_speedperturb to False, or augmentation to null."
            )

    def prepare_data(self, hparams):
        """Make the manifests of the corpus."""
        prepare_separation(hparams)

    def make_datasets(self, hparams):
        """Mixtures for training, with dynamic mixing other ones in each epoch, for validation and for the test."""
        if hparams.get("skip_prep", False):  # nobody has checked them
            do_on_main(check_mixtures, hparams)
        folder, options = Path(hparams["save_folder"]), {key: hparams[key] for key in ("num_spks", "sample_rate")}
        dynamic = hparams["dynamic_mixing"]
        fixed = {
            split: separation_dataset(folder / f"{split}.csv", data_root=hparams["data_folder"], **options)
            for split in (["valid", "test"] if dynamic else ["train", "valid", "test"])
        }
        if dynamic:
            law = find_level_law(hparams["level_law"], hparams["corpus"])
            options |= {"seconds": hparams["mixture_seconds"], "seed": hparams["seed"], "law": law}
            options["augmentation"] = hparams["augmentation"]
            train = dynamic_mixtures(folder / "train_utterances.csv", hparams["mixtures_per_epoch"], **options)
        else:
            train = fixed["train"]
        return Datasets(train, fixed["valid"], {"test": fixed["test"]})

    def loader_options(self, stage, dataset):
        """Options of a data loader."""
        return dict(self.hparams.dataloader_opts)

    def compute_forward(self, batch, stage):
        """Separate the mixtures of a batch.

        Returns the estimates and the sources, (batch, samples, speakers), the mixtures, (batch, samples), and their
        lengths in samples.
        """
        batch = batch.to(self.device)
        mix, mix_lens = batch.mix_sig
        sources = torch.stack([batch[f"s{i + 1}_sig"].data for i in range(self.hparams.num_spks)], -1)
        if stage == sb.Stage.TRAIN:
            mix, sources, mix_lens = self.augment(mix, sources, mix_lens)
        lengths = absolute_lengths(mix_lens, mix.shape[1])
        # Equal lengths need no masks.
        estimate = separate(
            self.modules.encoder,
            self.modules.masknet,
            self.modules.decoder,
            mix,
            None if len(batch) == 1 else mix_lens,
        )
        return estimate, sources, mix, lengths

    @torch.no_grad()
    def augment(self, mix, sources, mix_lens):
        """Perturb the speed of each source on its own, cut to the training length, and mix again."""
        signals = sources
        if self.hparams.augmentation is not None:  # noise over the mixture, which is in no source
            signals = torch.cat([sources, (mix - sources.sum(-1))[..., None]], -1)
        if self.hparams.use_speedperturb:
            perturbed = [self.hparams.speed_perturb(source) for source in signals.unbind(-1)]
            shortest = min(source.shape[1] for source in perturbed)
            signals = torch.stack([source[:, :shortest] for source in perturbed], -1)
        if self.hparams.limit_training_signal_len:
            signals, mix_lens = self.cut(signals, mix_lens)
        signals = mask_frames(signals, absolute_lengths(mix_lens, signals.shape[1]))
        return signals.sum(-1), signals[..., : sources.shape[-1]], mix_lens

    def cut(self, sources, mix_lens):
        """Cut a batch to the training length, where every example has signal."""
        limit, samples = self.hparams.training_signal_len, sources.shape[1]
        if samples <= limit:
            return sources, mix_lens
        lengths = absolute_lengths(mix_lens, samples)
        latest = max(0, int(lengths.min()) - limit)
        start = int(torch.randint(latest + 1, ()))
        return sources[:, start : start + limit], (lengths - start).clamp(max=limit) / limit

    def compute_objectives(self, predictions, batch, stage):
        """The loss of each example, (batch,). SpeechBrain's loss takes no lengths, so each example is trimmed first."""
        estimate, sources, _, lengths = predictions
        return self.example_losses(sources, estimate, lengths)

    def example_losses(self, sources, estimate, lengths):
        """Loss of estimates against sources, both (batch, samples, speakers), for each example."""
        return torch.cat(
            [
                self.hparams.loss(source[None, :length], guess[None, :length])
                for source, guess, length in zip(sources, estimate.float(), lengths.tolist())
            ]
        )

    def training_loss(self, losses):
        """The mean over the examples that are not separated well enough yet, or None where there are none."""
        threshold = self.hparams.threshold
        if self.hparams.threshold_byloss:
            if bool((losses <= threshold).all()):
                return None
            losses = losses[losses > threshold]
        loss = losses.mean()
        return loss if bool(loss < self.hparams.loss_upper_lim) else loss * float("nan")

    @torch.no_grad()
    def evaluate_batch(self, batch, stage):
        """Loss and improvement of a batch; in the test all scores of each example."""
        with self.evaluation_ctx:
            predictions = self.compute_forward(batch, stage)
        losses = self.compute_objectives(predictions, batch, stage)
        estimate, sources, mix, lengths = predictions
        baseline = self.example_losses(sources, mix[..., None].expand_as(sources), lengths)
        defined = torch.ones_like(losses, dtype=torch.bool)
        for i, (name, length) in enumerate(zip(batch.id, lengths.tolist())):
            signals = sources[i, :length], estimate[i, :length].float()
            fault = find_fault(*signals) or ("" if losses[i].isfinite() else "loss not finite")
            if fault:
                defined[i] = False
                self.unscored.setdefault(fault, []).append(name)
            if stage == sb.Stage.TEST:
                self.report.add(name, mix[i, :length], *signals)
        self.improvements += (baseline - losses)[defined].tolist()
        return losses[defined].mean().cpu()  # NaN, which has no part in the mean, if no mixture has a loss

    def on_stage_start(self, stage, epoch=None):
        """Get the scores of a stage ready."""
        super().on_stage_start(stage, epoch)
        self.improvements, self.unscored = [], {}
        if stage != sb.Stage.TRAIN:
            n_examples = max(0, self.hparams.n_examples - self.first_example)  # the first ones of all processes
            perceptual = self.hparams.perceptual_scores and stage == sb.Stage.TEST
            self.report = SeparationReport(
                self.output_folder / "test", self.hparams.sample_rate, n_examples, perceptual
            )

    def stage_scores(self, stage, loss):
        """Negative SI-SNR in dB, the improvement in validation, and means of all scores in the test. Mixtures that have
        no scores are counted."""
        if stage == sb.Stage.TRAIN:
            return {"si-snr": loss}
        if stage == sb.Stage.VALID:
            for fault, names in self.unscored.items():
                more = f" and {len(names) - 10} more" if len(names) > 10 else ""
                logger.warning("Mixtures without scores, %s: %s%s.", fault, ", ".join(names[:10]), more)
            improvement, unscored = mean(self.improvements), sum(map(len, self.unscored.values()))
            improvement = math.nan if improvement is None else improvement
            return {"si-snr": loss, "si-snr_i": improvement, "unscored": unscored}
        summary = self.report.write() if if_main_process() else {}
        return {key: value for key, value in summary.items() if value is not None}

    def table_row(self, train, valid):
        """SI-SNR with the sign that reports give it."""
        return {
            "train_si_snr": -train["si-snr"], "valid_si_snr": -valid["si-snr"], "valid_si_snr_i": valid["si-snr_i"],
            "valid_unscored": valid["unscored"],
        }  # fmt: skip

    def panels(self, row):
        """SI-SNR and the learning rate."""
        return {"dB": ["train_si_snr", "valid_si_snr", "valid_si_snr_i"], "learning rate": ["lr"]}

    def export(self):
        """Write ``inference/``, which :class:`~speechbrain_mamba.inference.separation.SpeechSeparator` loads."""
        export_separator(self.output_folder / "inference", self.text, self.hparams.modules)

    def results(self):
        """The scores of the test, and where to look and listen."""
        return format_results(self.output_folder)


def format_results(folder):
    """The scores of the test in the folder of a run, and where to look and listen."""
    summary = json.loads((folder / "test" / "summary.json").read_text(encoding="utf-8"))
    examples = sorted((folder / "test" / "examples").glob("*.png"))
    lines = [f"{format_summary(summary)}\n\nmeans over {summary['mixtures']} test mixtures: {folder / 'test'}"]
    lines += [f"training curves:    {folder / 'training.png'}"]
    if examples:
        lines += [f"look and listen:    {examples[0]} and the .wav files beside it"]
    return "\n".join([*lines, f"model to load:      {folder / 'inference'}"])


def main(arguments: list[str] | None = None) -> None:
    """Prepare the data, train, test."""
    run_recipe(SeparationBrain, arguments)


if __name__ == "__main__":
    run_script(main)
