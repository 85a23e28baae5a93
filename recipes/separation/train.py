#!/usr/bin/env python3
"""Train and test a speech separation system: Mamba-TasNet, DPMamba or their twin SepFormer.

    python recipes/separation/train.py hparams/separation/mambatasnet_M.yaml --data_folder /path/to/wsj0-mix/2speakers \
        --base_folder_dm /path/to/wsj0/si_tr_s

Every hyper-parameter of the file can be replaced on the command line, SpeechBrain's own options (``--device``,
``--precision``, ``--debug``, ...) hold, and ``torchrun --nproc_per_node=N`` in place of ``python`` uses N GPUs. The
same command given again goes on from the last checkpoint. Results: ``<output_folder>/test``.
"""

import json
import logging
import sys
import time
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import if_main_process, run_on_main

from speechbrain_mamba.corpora.preparation import prepare_separation
from speechbrain_mamba.dataio.dynamic_mixing import dynamic_mixtures
from speechbrain_mamba.dataio.mixture_dataset import separation_dataset
from speechbrain_mamba.evaluation.report import format_summary
from speechbrain_mamba.evaluation.separation_report import SeparationReport
from speechbrain_mamba.inference.separation import export_separator
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet.init import reset_parameters
from speechbrain_mamba.ops import absolute_lengths, mask_frames
from speechbrain_mamba.training.record import record_epoch, save_hparams
from speechbrain_mamba.utils.distributed import leave_processes
from speechbrain_mamba.utils.hparams import read_hparams
from speechbrain_mamba.utils.memory import keep_freed_memory

logger = logging.getLogger(__name__)


class Separation(sb.Brain):
    """Permutation-invariant training of a separator, and its test."""

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
        """Perturb the speed of each source by itself, cut to the training length, and mix anew."""
        if self.hparams.use_speedperturb:
            perturbed = [self.hparams.speed_perturb(source) for source in sources.unbind(-1)]
            shortest = min(source.shape[1] for source in perturbed)
            sources = torch.stack([source[:, :shortest] for source in perturbed], -1)
        if self.hparams.limit_training_signal_len:
            sources, mix_lens = self.cut(sources, mix_lens)
        sources = mask_frames(sources, absolute_lengths(mix_lens, sources.shape[1]))
        return sources.sum(-1), sources, mix_lens

    def cut(self, sources, mix_lens):
        """Cut a batch to the training length, at a place where each example has some signal."""
        limit, samples = self.hparams.training_signal_len, sources.shape[1]
        if samples <= limit:
            return sources, mix_lens
        lengths = absolute_lengths(mix_lens, samples)
        latest = max(0, int(lengths.min()) - limit)
        start = int(torch.randint(latest + 1, ()))
        return sources[:, start : start + limit], (lengths - start).clamp(max=limit) / limit

    def compute_objectives(self, predictions, batch, stage):
        """The loss of each example, (batch,): SpeechBrain's takes no lengths, so each one is cut to its own."""
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

    def fit_batch(self, batch):
        """Train on one batch, unless no process has a usable loss for it."""
        # What is random in a step depends on nothing but the step: a resumed run goes on as an uninterrupted one.
        torch.manual_seed(hash((self.hparams.seed, self.epoch, self.step, getattr(self, "rank", 0))) % 2**63)
        should_step = self.n_accumulated + 1 == self.grad_accumulation_factor
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                predictions = self.compute_forward(batch, sb.Stage.TRAIN)
                losses = self.compute_objectives(predictions, batch, sb.Stage.TRAIN)
            kept = losses[losses > self.hparams.threshold] if self.hparams.threshold_byloss else losses
            loss = kept.mean()  # NaN where none is left
            usable = bool(loss < self.hparams.loss_upper_lim)
            if not usable:
                self.n_skipped += not bool((losses <= self.hparams.threshold).all())
            if not self.any_process(usable):
                return torch.tensor(float("nan"))  # not counted in the mean loss
            # Processes wait for each other's gradients: one without a usable loss contributes zeros.
            objective = loss if usable else sum((p * 0).sum() for p in self.modules.parameters())
            self.scaler.scale(objective / self.grad_accumulation_factor).backward()
        self.n_accumulated += 1
        if should_step:
            self.optimizers_step()
        self.on_fit_batch_end(batch, predictions, loss, should_step)
        return loss.detach().cpu()

    def update_average(self, loss, avg_loss):
        """The mean over the batches that have a loss: SpeechBrain's divides by the others too."""
        if torch.isfinite(loss):
            self.n_losses += 1
            avg_loss += (float(loss) - avg_loss) / self.n_losses
        return avg_loss

    def any_process(self, flag):
        """Whether the flag is set in any process."""
        if not torch.distributed.is_initialized():
            return flag
        flag = torch.tensor(float(flag), device=self.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def optimizers_step(self):
        """Step with the scheduled learning rate and a clipped gradient, unless the gradient is not finite."""
        self.hparams.lr_scheduler(self.optimizer)
        self.scaler.unscale_(self.optimizer)
        limit = self.max_grad_norm if self.max_grad_norm >= 0 else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.modules.parameters(), limit)
        if self.scaler.is_enabled() or torch.isfinite(norm):
            self.scaler.step(self.optimizer)
        else:
            self.n_skipped += 1
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.n_accumulated = 0
        self.optimizer_step += 1

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        # Accumulated gradients are not part of a checkpoint: wait for the step that uses them.
        due = super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)
        return due and self.n_accumulated == 0

    @torch.no_grad()
    def evaluate_batch(self, batch, stage):
        """Loss and improvement of a batch; in the test all scores of each example."""
        with self.evaluation_ctx:
            predictions = self.compute_forward(batch, stage)
        losses = self.compute_objectives(predictions, batch, stage)
        estimate, sources, mix, lengths = predictions
        baseline = self.example_losses(sources, mix[..., None].expand_as(sources), lengths)
        self.improvements += (baseline - losses).tolist()
        if stage == sb.Stage.TEST and if_main_process():
            for i, (name, length) in enumerate(zip(batch.id, lengths.tolist())):
                self.report.add(name, mix[i, :length], sources[i, :length], estimate[i, :length].float())
        return losses.mean().cpu()

    def on_stage_start(self, stage, epoch=None):
        """Get the counters of a stage ready."""
        self.improvements = []
        self.n_losses = self.step  # above 0 in an epoch that is resumed
        if stage == sb.Stage.TRAIN:
            self.epoch, self.epoch_start = epoch, time.monotonic()
            self.n_skipped = self.n_accumulated = 0
            self.first_step = self.optimizer_step
            if hasattr(self.train_data, "set_epoch"):
                self.train_data.set_epoch(epoch)
        elif stage == sb.Stage.TEST:
            self.report = SeparationReport(
                Path(self.hparams.output_folder) / "test", self.hparams.sample_rate, self.hparams.n_examples
            )

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log a stage, save a checkpoint after each epoch, write the results after the test."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            if self.n_skipped and self.optimizer_step == self.first_step:
                raise RuntimeError(
                    f"No batch of epoch {epoch} had a finite loss: the training has diverged. Try a smaller lr, or "
                    "--precision fp32."
                )
            if self.n_skipped:
                logger.warning("Epoch %d: %d batches had no finite loss or gradient, skipped.", epoch, self.n_skipped)
        elif stage == sb.Stage.VALID:
            self.finish_epoch(stage_loss, epoch)
        else:
            summary = self.report.write() if if_main_process() else {}
            scores = {key: value for key, value in summary.items() if value is not None}
            # Called in all processes, writes in the main one.
            self.hparams.train_logger.log_stats({"Epoch loaded": self.hparams.epoch_counter.current}, test_stats=scores)

    def finish_epoch(self, valid_loss, epoch):
        """Log an epoch, draw the run so far, and save a checkpoint."""
        improvement = sum(self.improvements) / max(1, len(self.improvements))
        lr = self.optimizer.param_groups[0]["lr"]
        row = {
            "epoch": epoch,
            "lr": lr,
            "train_si_snr": -self.train_loss,
            "valid_si_snr": -valid_loss,
            "valid_si_snr_i": improvement,
            "skipped": self.n_skipped,
            "seconds": round(time.monotonic() - self.epoch_start, 1),
        }
        train, valid = {"si-snr": self.train_loss}, {"si-snr": valid_loss, "si-snr_i": improvement}
        for train_logger in self.loggers:
            train_logger.log_stats({"epoch": epoch, "lr": lr}, train_stats=train, valid_stats=valid)
        if if_main_process() and not self.debug:
            panels = {"dB": ["train_si_snr", "valid_si_snr", "valid_si_snr_i"], "learning rate": ["lr"]}
            record_epoch(self.hparams.output_folder, row, panels)
        self.checkpointer.save_and_keep_only(meta={"si-snr": valid_loss, "epoch": epoch}, min_keys=["si-snr"])


def make_datasets(hparams):
    """The datasets for training, validation and test."""
    shape = {"num_spks": hparams["num_spks"], "sample_rate": hparams["sample_rate"]}
    folder = Path(hparams["save_folder"])
    fixed = [
        separation_dataset(folder / f"{split}.csv", data_root=hparams["data_folder"], **shape)
        for split in (["valid", "test"] if hparams["dynamic_mixing"] else ["train", "valid", "test"])
    ]
    if not hparams["dynamic_mixing"]:
        return fixed
    train = dynamic_mixtures(
        folder / "train_utterances.csv",
        hparams["mixtures_per_epoch"],
        seconds=hparams["mixture_seconds"],
        seed=hparams["seed"],
        **shape,
    )
    return [train, *fixed]


def make_loggers(hparams):
    """SpeechBrain's loggers of a run: a text file, and TensorBoard if it is asked for."""
    loggers = [hparams["train_logger"]]
    if hparams["tensorboard"]:
        from speechbrain.utils.train_logger import TensorboardLogger

        loggers.append(TensorboardLogger(Path(hparams["output_folder"]) / "tensorboard"))
    return loggers


def test_is_done(hparams, run_opts):
    """Whether an earlier run with the same output folder has trained all epochs and tested."""
    if run_opts.test_only or run_opts.debug:
        return False
    last = hparams["checkpointer"].find_checkpoint(max_key="epoch")
    return (
        last is not None
        and last.meta["epoch"] >= hparams["number_of_epochs"]
        and (Path(hparams["output_folder"]) / "test" / "summary.json").exists()
    )


def show_results(hparams):
    """Print the scores of the test, and where to look and listen."""
    folder = Path(hparams["output_folder"])
    summary = json.loads((folder / "test" / "summary.json").read_text(encoding="utf-8"))
    examples = sorted((folder / "test" / "examples").glob("*.png"))
    print(f"\n{format_summary(summary)}\n\nmeans in dB over {summary['mixtures']} test mixtures: {folder / 'test'}")
    print(f"training curves:    {folder / 'training.png'}")
    if examples:
        print(f"look and listen:    {examples[0]} and the .wav files beside it")
    print(f"model to load:      {folder / 'inference'}\n")


def main():
    """Prepare the data, train, test."""
    keep_freed_memory()
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    text = read_hparams(hparams_file, overrides)
    hparams = load_hyperpyyaml(text)
    if "ckpt_interval_steps" in run_opts.overridden_args:  # SpeechBrain takes one of both
        hparams["ckpt_interval_minutes"] = 0
    sb.create_experiment_directory(hparams["output_folder"])
    run_on_main(save_hparams, args=[hparams["output_folder"], text])
    if test_is_done(hparams, run_opts):
        logger.info("Trained and tested already: remove %s to start anew.", hparams["output_folder"])
        run_on_main(show_results, args=[hparams])
        return

    if not hparams["skip_prep"]:
        run_on_main(prepare_separation, args=[hparams])
    train_data, valid_data, test_data = make_datasets(hparams)
    for module in hparams["modules"].values():
        reset_parameters(module)
    separation = Separation(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    separation.train_data = train_data
    separation.loggers = make_loggers(hparams)
    options = hparams["dataloader_opts"]
    train_loader = separation.make_dataloader(train_data, sb.Stage.TRAIN, shuffle=True, **options)
    scheduler = hparams["lr_scheduler"]
    if scheduler.n_total_steps is None:
        steps = len(train_loader) // separation.grad_accumulation_factor * hparams["number_of_epochs"]
        scheduler.n_total_steps = max(scheduler.n_warmup_steps, steps)
    separation.fit(hparams["epoch_counter"], train_loader, valid_data, valid_loader_kwargs=options)
    separation.evaluate(test_data, min_key="si-snr", test_loader_kwargs=options)
    run_on_main(
        export_separator, args=[Path(hparams["output_folder"]) / "inference", text, dict(separation.modules.items())]
    )
    run_on_main(show_results, args=[hparams])


if __name__ == "__main__":
    main()
    leave_processes()
