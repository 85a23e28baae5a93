#!/usr/bin/env python3
"""Train a small speaker encoder (ECAPA-TDNN), to judge voices by where no published one can be downloaded or fits.

    python recipes/speaker/train.py hparams/speaker/mini_speaker.yaml --manifest_folder /path/to/manifests

It learns to tell the speakers of ``train.csv`` apart, by the column ``spk_id``. Validation and test compare pairs of
utterances; their speakers may be others. Every hyper-parameter of the file can be replaced on the command line,
SpeechBrain's own options hold, and the same command given again goes on from the last checkpoint. What SpeechBrain's
``EncoderClassifier.from_hparams`` loads is left in ``<output_folder>/inference``.
"""

import itertools
import sys
import time
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.metric_stats import EER

from speechbrain_mamba.dataio.manifests import find_manifests, read_manifest
from speechbrain_mamba.dataio.speech_datasets import piece_dataset
from speechbrain_mamba.inference.speaker import export_speaker_encoder
from speechbrain_mamba.training.record import record_epoch, save_hparams
from speechbrain_mamba.utils.distributed import leave_processes
from speechbrain_mamba.utils.files import write_json
from speechbrain_mamba.utils.hparams import read_hparams
from speechbrain_mamba.utils.memory import keep_freed_memory


class SpeakerTraining(sb.Brain):
    """Classification of speakers in training, verification of pairs otherwise."""

    def compute_forward(self, batch, stage):
        """Embeddings (batch, 1, channels)."""
        wavs, lens = batch.to(self.device).sig
        feats = self.modules.mean_var_norm(self.modules.compute_features(wavs), lens)
        return self.modules.embedding_model(feats, lens)

    def compute_objectives(self, embeddings, batch, stage):
        """The loss of additive angular margins; out of training embeddings are kept to be compared."""
        if stage != sb.Stage.TRAIN:
            self.embeddings += torch.nn.functional.normalize(embeddings[:, 0], dim=-1).cpu()
            self.speakers += batch.spk_id
            return torch.zeros(())
        labels = torch.tensor([[self.labels[name]] for name in batch.spk_id], device=self.device)
        return self.hparams.compute_cost(self.modules.classifier(embeddings), labels)

    def on_fit_batch_start(self, batch, should_step):
        """Set the learning rate of the step to come."""
        if should_step:
            self.hparams.lr_scheduler(self.optimizer)

    def on_stage_start(self, stage, epoch=None):
        """Get the counters of a stage ready."""
        self.embeddings, self.speakers = [], []
        if stage == sb.Stage.TRAIN:
            self.epoch_start = time.monotonic()

    def equal_error_rate(self):
        """The equal error rate of all pairs, in percent."""
        scores = {True: [], False: []}
        for (ours, speaker), (theirs, other) in itertools.combinations(zip(self.embeddings, self.speakers), 2):
            scores[speaker == other].append(ours @ theirs)
        if not all(scores.values()):
            raise ValueError("Speakers cannot be compared: two are needed, and two utterances of one of them.")
        return 100 * EER(torch.stack(scores[True]), torch.stack(scores[False]))[0]

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log a stage, and save a checkpoint after each epoch."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        scores = {"EER": self.equal_error_rate()}
        if stage == sb.Stage.VALID:
            lr = self.optimizer.param_groups[0]["lr"]
            self.hparams.train_logger.log_stats({"epoch": epoch, "lr": lr}, {"loss": self.train_loss}, scores)
            if if_main_process() and not self.debug:
                row = {"epoch": epoch, "lr": lr, "train_loss": self.train_loss, "valid_EER": scores["EER"]}
                row["seconds"] = round(time.monotonic() - self.epoch_start, 1)
                record_epoch(self.hparams.output_folder, row, {"loss": ["train_loss"], "%": ["valid_EER"]})
            self.checkpointer.save_and_keep_only(meta={**scores, "epoch": epoch}, min_keys=["EER"])
        else:
            self.hparams.train_logger.log_stats({"test": True}, test_stats=scores)
            if if_main_process():
                write_json(Path(self.hparams.output_folder) / "test" / "verification.json", scores)


def make_dataset(hparams, split):
    """Utterances of a split, in training a random piece of each, with their speakers."""
    items = read_manifest(find_manifests(hparams["manifest_folder"], [split])[split], hparams["data_root"])
    without = [name for name, item in items.items() if not item.get("spk_id")]
    if without:
        raise ValueError(f"The manifest for {split} has no spk_id for '{without[0]}': name the speaker of each.")
    seconds = hparams["crop_seconds"] if split == "train" else None
    dataset = piece_dataset(items, hparams["sample_rate"], seconds, ["spk_id"])
    return dataset, sorted({item["spk_id"] for item in items.values()})


def main():
    """Train, verify, and leave the encoder to be loaded."""
    keep_freed_memory()
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    text = read_hparams(hparams_file, overrides)
    hparams = load_hyperpyyaml(text)
    sb.create_experiment_directory(hparams["output_folder"])
    run_on_main(save_hparams, args=[hparams["output_folder"], text])
    (train, speakers), (valid, _), (test, _) = (make_dataset(hparams, split) for split in ("train", "valid", "test"))
    if len(speakers) > hparams["n_speakers"]:
        raise ValueError(
            f"There are {len(speakers)} training speakers, but n_speakers is {hparams['n_speakers']}: set it higher."
        )
    brain = SpeakerTraining(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.labels = {speaker: index for index, speaker in enumerate(speakers)}
    options = {"batch_size": hparams["batch_size"], "num_workers": hparams["num_workers"]}
    loader = brain.make_dataloader(train, sb.Stage.TRAIN, shuffle=True, **options)
    scheduler = hparams["lr_scheduler"]
    if scheduler.n_total_steps is None:
        steps = hparams["number_of_epochs"] * (len(loader) // brain.grad_accumulation_factor)
        scheduler.n_total_steps = max(scheduler.n_warmup_steps, steps)
    brain.fit(hparams["epoch_counter"], loader, valid, valid_loader_kwargs=options)
    brain.evaluate(test, min_key="EER", test_loader_kwargs=options)
    folder = Path(hparams["output_folder"]) / "inference"
    run_on_main(export_speaker_encoder, args=[folder, text, hparams["modules"]])
    print(f"\nspeaker encoder to load: {folder}\n")


if __name__ == "__main__":
    main()
    leave_processes()
