#!/usr/bin/env python3
"""Train a small codec of the EnCodec architecture, where the published one cannot be downloaded or does not fit.

    python recipes/codec/train.py hparams/codec/mini_codec.yaml --manifest_folder /path/to/manifests

Every hyper-parameter of the file can be replaced on the command line (``--adversarial True``), SpeechBrain's own
options hold, and the same command given again goes on from the last checkpoint. The codec is left in
``<output_folder>/codec`` for ``load_codec``, reconstructed test examples with pictures in ``<output_folder>/test``.
"""

import logging
import sys
import time
from pathlib import Path

import speechbrain as sb
import torch
import torch.nn.functional as F
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.metric_stats import ErrorRateStats
from tqdm import tqdm

from speechbrain_mamba.codecs import save_codec
from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.manifests import find_manifests, read_manifest
from speechbrain_mamba.dataio.speech_datasets import piece_dataset
from speechbrain_mamba.evaluation.word_errors import normalize_words
from speechbrain_mamba.inference.judges import load_recognizer
from speechbrain_mamba.ops import absolute_lengths, mask_frames, valid_frames
from speechbrain_mamba.training.record import record_epoch, save_hparams
from speechbrain_mamba.utils.distributed import leave_processes
from speechbrain_mamba.utils.files import write_json
from speechbrain_mamba.utils.hparams import read_hparams
from speechbrain_mamba.utils.memory import keep_freed_memory
from speechbrain_mamba.utils.plots import plot_spectrograms

logger = logging.getLogger(__name__)


class CodecTraining(sb.Brain):
    """Reconstruction, commitment, and with ``adversarial`` a discriminator to deceive."""

    def init_optimizers(self):
        """An optimizer for the codec, and one for the discriminator."""
        self.optimizer = self.opt_class(self.modules.codec.parameters())
        self.discriminator_optimizer = self.hparams.discriminator_optimizer(self.modules.discriminator.parameters())
        self.optimizers_dict = {"codec": self.optimizer, "discriminator": self.discriminator_optimizer}
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(f"{name}_optimizer", optimizer)

    def freeze_optimizers(self, optimizers):
        """The discriminator's optimizer rests where there is no adversary."""
        return optimizers if self.hparams.adversarial else {"codec": self.optimizer}

    def compute_forward(self, batch, stage):
        """Waveforms, their lengths, reconstructions, commitment loss and codes."""
        wavs, lens = batch.to(self.device).sig
        lengths = absolute_lengths(lens, wavs.shape[1])
        reconstruction, commitment, codes = self.modules.codec(wavs, lengths)
        wavs = F.pad(wavs, (0, reconstruction.shape[1] - wavs.shape[1]))
        spoken = codes[valid_frames(self.hparams.codec.frames(lengths), codes.shape[1])].flatten()
        self.used += spoken.bincount(minlength=len(self.used)).cpu()
        return mask_frames(wavs, lengths), lengths, mask_frames(reconstruction, lengths), commitment

    def compute_objectives(self, predictions, batch, stage):
        """The codec's loss."""
        wavs, lengths, reconstruction, commitment = predictions
        terms = {
            "mel": (self.hparams.mel_weight, self.modules.mel_loss(reconstruction, wavs, lengths)),
            "time": (self.hparams.time_weight, (reconstruction - wavs).abs().mean()),
            "commitment": (self.hparams.commitment_weight, commitment),
        }
        if self.hparams.adversarial and stage == sb.Stage.TRAIN:
            adversarial, features = self.deceive(reconstruction, wavs)
            terms |= {"adversarial": (self.hparams.adversarial_weight, adversarial)}
            terms |= {"features": (self.hparams.feature_weight, features)}
        for name, (_, value) in terms.items():
            self.sums.setdefault(name, []).append(value.item())
        return sum(weight * value for weight, value in terms.values())

    def deceive(self, reconstruction, wavs):
        """How far the discriminator is from taking reconstructions for real, and how different it finds them inside."""
        logits, fake = self.modules.discriminator(reconstruction[:, None])
        with torch.no_grad():
            _, real = self.modules.discriminator(wavs[:, None])
        pairs = [pair for theirs, ours in zip(real, fake) for pair in zip(theirs, ours)]
        features = sum((ours - theirs).abs().mean() / theirs.abs().mean() for theirs, ours in pairs) / len(pairs)
        return sum((1 - logit).relu().mean() for logit in logits) / len(logits), features

    def fit_batch(self, batch):
        """A step of the codec, after one of the discriminator where there is one."""
        if self.hparams.adversarial:
            with torch.no_grad():
                wavs, _, reconstruction, _ = self.compute_forward(batch, sb.Stage.VALID)
            real, _ = self.modules.discriminator(wavs[:, None])
            fake, _ = self.modules.discriminator(reconstruction[:, None])
            loss = sum((1 - r).relu().mean() + (1 + f).relu().mean() for r, f in zip(real, fake)) / len(real)
            self.discriminator_optimizer.zero_grad()
            loss.backward()
            self.discriminator_optimizer.step()
        self.hparams.lr_scheduler(self.optimizer)
        loss = self.compute_objectives(self.compute_forward(batch, sb.Stage.TRAIN), batch, sb.Stage.TRAIN)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.modules.codec.parameters(), self.hparams.max_grad_norm)
        if norm.isfinite():
            self.optimizer.step()
        return loss.detach().cpu()

    def on_stage_start(self, stage, epoch=None):
        """Get the counters of a stage ready."""
        self.sums, self.used = {}, torch.zeros(self.hparams.codebook_size)
        if stage == sb.Stage.TRAIN:
            self.epoch_start = time.monotonic()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log a stage, and save a checkpoint after each epoch."""
        scores = {name: sum(values) / len(values) for name, values in self.sums.items()}
        shares = self.used / self.used.sum()
        scores["perplexity"] = torch.exp(-(shares * (shares + 1e-10).log()).sum()).item()
        if stage == sb.Stage.TRAIN:
            self.train_scores = scores
        elif stage == sb.Stage.VALID:
            lr = self.optimizer.param_groups[0]["lr"]
            stats = {"train_stats": self.train_scores, "valid_stats": scores}
            self.hparams.train_logger.log_stats({"epoch": epoch, "lr": lr}, **stats)
            if if_main_process() and not self.debug:
                row = {"epoch": epoch, "lr": lr}
                row |= {f"train_{name}": value for name, value in self.train_scores.items()}
                row |= {f"valid_{name}": value for name, value in scores.items()}
                row["seconds"] = round(time.monotonic() - self.epoch_start, 1)
                panels = {"mel distance": ["train_mel", "valid_mel"], "codes in use": ["valid_perplexity"]}
                record_epoch(self.hparams.output_folder, row, panels)
            self.checkpointer.save_and_keep_only(meta={"mel": scores["mel"], "epoch": epoch}, min_keys=["mel"])
        else:
            self.hparams.train_logger.log_stats({"test": True}, test_stats=scores)
            if if_main_process():
                write_json(Path(self.hparams.output_folder) / "test" / "reconstruction.json", scores)


def make_dataset(hparams, split):
    """Utterances of a split, in training a random piece of each."""
    path = find_manifests(hparams["manifest_folder"], [split])[split]
    items = read_manifest(path, hparams["data_root"])
    if split != "train":
        return piece_dataset(items, hparams["sample_rate"], keys=["wrd"])
    least = hparams["min_seconds"]
    chosen = {key: item for key, item in items.items() if item["duration"] >= least}
    if not chosen:
        raise ValueError(
            f"None of the {len(items)} utterances in '{path}' has {least} seconds: set min_seconds to less."
        )
    if len(chosen) < len(items):
        logger.info("%d of %d utterances are shorter than min_seconds.", len(items) - len(chosen), len(items))
    return piece_dataset(chosen, hparams["sample_rate"], hparams["crop_seconds"])


def write_examples(hparams, dataset, device):
    """Reconstruct some test utterances: waveforms, and pictures of both."""
    folder, rate = Path(hparams["output_folder"]) / "test" / "examples", hparams["sample_rate"]
    codec = hparams["codec"].to(device).eval()
    for index in range(min(hparams["n_examples"], len(dataset))):
        example = dataset[index]
        wavs, _ = codec.decode(*codec.encode(example["sig"][None].to(device)))
        sounds = {"original": example["sig"], "reconstruction": wavs[0, : len(example["sig"])].cpu().clamp(-1, 1)}
        for name, sound in sounds.items():
            write_audio(folder / f"{example['id']}_{name}.wav", sound, rate)
        plot_spectrograms(folder / f"{example['id']}.png", sounds, rate)


@torch.no_grad()
def write_word_errors(hparams, dataset, recognize, device):
    """Count a recogniser's word errors, in percent: in the test recordings, and after the codec, whole or of its first
    codebook, which is what an autoregressive model predicts."""
    codec, rate = hparams["codec"].to(device).eval(), hparams["sample_rate"]
    stats = {name: ErrorRateStats() for name in ("reference_wer", "wer", "first_codebook_wer")}
    for example in tqdm(dataset, desc="Counting word errors", unit="utterance"):
        sig = example["sig"]
        codes, lengths = codec.encode(sig[None].to(device))
        sounds = [sig, *(codec.decode(part, lengths)[0][0, : len(sig)] for part in (codes, codes[..., :1]))]
        for errors, sound in zip(stats.values(), sounds):
            hypothesis, text = (normalize_words(words).split() for words in (recognize(sound, rate), example["wrd"]))
            errors.append([example["id"]], [hypothesis], [text])
    scores = {name: errors.summarize("error_rate") for name, errors in stats.items()}
    write_json(Path(hparams["output_folder"]) / "test" / "word_errors.json", scores)
    logger.info("Word errors in percent: %s.", ", ".join(f"{name} {score:.1f}" for name, score in scores.items()))


def main():
    """Train, reconstruct the test set, and leave the codec to be loaded."""
    keep_freed_memory()
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    text = read_hparams(hparams_file, overrides)
    hparams = load_hyperpyyaml(text)
    sb.create_experiment_directory(hparams["output_folder"])
    run_on_main(save_hparams, args=[hparams["output_folder"], text])
    train, valid, test = (make_dataset(hparams, split) for split in ("train", "valid", "test"))
    brain = CodecTraining(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    # now, as it may be missing
    recognize = hparams["recognizer"] and load_recognizer(hparams["recognizer"], str(brain.device))
    options = {"batch_size": hparams["batch_size"], "num_workers": hparams["num_workers"]}
    loader = brain.make_dataloader(train, sb.Stage.TRAIN, shuffle=True, **options)
    scheduler = hparams["lr_scheduler"]
    if scheduler.n_total_steps is None:
        scheduler.n_total_steps = max(scheduler.n_warmup_steps, hparams["number_of_epochs"] * len(loader))
    brain.fit(hparams["epoch_counter"], loader, valid, valid_loader_kwargs=options)
    brain.evaluate(test, min_key="mel", test_loader_kwargs=options)
    folder = Path(hparams["output_folder"]) / "codec"
    run_on_main(save_codec, args=[hparams["codec"], folder])
    run_on_main(write_examples, args=[hparams, test, brain.device])
    if recognize:
        run_on_main(write_word_errors, args=[hparams, test, recognize, brain.device])
    print(f"\nlook and listen: {folder.parent / 'test' / 'examples'}\ncodec to load:   {folder}\n")


if __name__ == "__main__":
    main()
    leave_processes()
