"""What the recipes of this folder share: data, features, schedule, logs and reports."""

import logging
import time
from pathlib import Path

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.checkpoints import average_checkpoints
from speechbrain.utils.distributed import if_main_process, run_on_main

from speechbrain_mamba.corpora.fsdd_digits import prepare_fsdd_digits
from speechbrain_mamba.corpora.librispeech import prepare_librispeech
from speechbrain_mamba.corpora.mini.build import build_mini_corpus
from speechbrain_mamba.dataio.manifests import read_manifest
from speechbrain_mamba.dataio.selection import encoder_frames, select_usable
from speechbrain_mamba.dataio.speech_datasets import recognition_dataset
from speechbrain_mamba.evaluation.recognition_report import RecognitionReport
from speechbrain_mamba.lobes.models.recognition.speech_features import compute_padded_features
from speechbrain_mamba.text.tokenizer import FILE_NAME, load_tokenizer, train_tokenizer
from speechbrain_mamba.training.record import record_epoch, save_hparams
from speechbrain_mamba.utils.hparams import read_hparams
from speechbrain_mamba.utils.memory import keep_freed_memory

logger = logging.getLogger(__name__)

WORST_IN_MEAN = 1.25
"""How many times the best checkpoint's error rate one may have to take part in the mean: those from early in a short
training pull the mean away from where the later ones agree."""


class Recognition(sb.Brain):
    """A recogniser up to its encoder. Subclasses add losses, and searches by ``make_searches(hparams)``."""

    best_by = "WER"
    """The score, the less the better, by which checkpoints are kept and averaged for the test."""

    def encode(self, batch, stage, replicate=()):
        """Encode a batch, augmented in training.

        Returns the encoder's input (batch, frames, ...), its relative lengths, and the given labels repeated for the
        augmented copies.
        """
        wavs, wav_lens = batch.sig
        if stage == sb.Stage.TRAIN and getattr(self.hparams, "wav_augment", None) is not None:
            wavs, wav_lens = self.hparams.wav_augment(wavs, wav_lens)
            replicate = [self.hparams.wav_augment.replicate_labels(labels) for labels in replicate]
        feats, feat_lens = compute_padded_features(self.hparams.compute_features, wavs, wav_lens)
        feats = self.modules.normalize(feats, feat_lens, epoch=self.hparams.epoch_counter.current)
        if stage == sb.Stage.TRAIN and getattr(self.hparams, "fea_augment", None) is not None:
            feats, feat_lens = self.hparams.fea_augment(feats, feat_lens)
            replicate = [self.hparams.fea_augment.replicate_labels(labels) for labels in replicate]
        # the plain module knows the lengths, the one in self.modules may be wrapped for several GPUs
        return self.modules.CNN(feats, feat_lens), self.hparams.CNN.output_lens(feat_lens, feats.shape[1]), replicate

    def on_fit_batch_start(self, batch, should_step):
        """Set the learning rate of the step to come."""
        if should_step:
            self.hparams.lr_scheduler(self.optimizer)

    def on_stage_start(self, stage, epoch=None):
        """Get the counters of a stage ready."""
        if stage == sb.Stage.TRAIN:
            self.epoch_start = time.monotonic()
        else:
            name = self.test_name if stage == sb.Stage.TEST else "valid"
            self.report = RecognitionReport(Path(self.hparams.output_folder) / "test" / name)

    def report_words(self, batch, hypotheses):
        """Count the errors of a batch of token lists or texts."""
        for name, hypothesis, reference in zip(batch.id, hypotheses, batch.wrd):
            text = hypothesis if isinstance(hypothesis, str) else self.tokenizer.decode(hypothesis)
            self.report.add(name, text, reference)

    def stage_scores(self):
        """Scores of a validation, by the names that logs and checkpoints have for them."""
        rates = self.report.summarize()
        return {"WER": rates["wer"], "CER": rates["cer"]}

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log a stage, save a checkpoint after each epoch, write the results after a test."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
        elif stage == sb.Stage.VALID:
            self.finish_epoch(stage_loss, epoch)
        else:
            summary = self.report.write() if if_main_process() else self.report.summarize()
            self.hparams.train_logger.log_stats(
                {"test set": self.test_name, "epoch": self.hparams.epoch_counter.current},
                test_stats={"loss": stage_loss, "WER": summary["wer"], "CER": summary["cer"]},
            )
            self.summaries[self.test_name] = summary

    def finish_epoch(self, valid_loss, epoch):
        """Log an epoch, draw the run so far, and save a checkpoint."""
        scores, lr = self.stage_scores(), self.optimizer.param_groups[0]["lr"]
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "lr": lr, "steps": self.optimizer_step},
            train_stats={"loss": self.train_loss},
            valid_stats={"loss": valid_loss, **scores},
        )
        if if_main_process() and not self.debug:
            row = {"epoch": epoch, "lr": lr, "train_loss": self.train_loss, "valid_loss": valid_loss, **scores}
            row["seconds"] = round(time.monotonic() - self.epoch_start, 1)
            panels = {"loss": ["train_loss", "valid_loss"], "%": list(scores), "learning rate": ["lr"]}
            record_epoch(self.hparams.output_folder, row, panels)
        self.checkpointer.save_and_keep_only(
            meta={**scores, "epoch": epoch},
            num_to_keep=self.hparams.avg_checkpoints,
            min_keys=[self.best_by],
        )

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Load the best checkpoint, and then the mean of the best ones' weights."""
        super().on_evaluate_start(max_key, min_key)
        checkpoints = best_checkpoints(self.checkpointer, min_key, self.hparams.avg_checkpoints)
        if checkpoints:
            weights = average_checkpoints(checkpoints, recoverable_name="model")
            self.hparams.model.load_state_dict(weights, strict=True)
            epochs = ", ".join(str(checkpoint.meta["epoch"]) for checkpoint in checkpoints)
            logger.info("Testing the mean of the checkpoints of these epochs: %s.", epochs)

    def run(self, hparams, datasets):
        """Train, and test on each test set; returns the results by test set."""
        train, valid, tests = datasets
        sampler = batch_sampler(train, hparams, hparams["max_batch_length_train"])
        options = {"batch_sampler": sampler, "num_workers": hparams["num_workers"]}
        loader = self.make_dataloader(train, sb.Stage.TRAIN, **options)
        self.train_sampler = self.train_sampler or sampler  # which is told the epoch: it draws other batches in each
        scheduler = hparams["lr_scheduler"]
        if getattr(scheduler, "n_total_steps", 0) is None:
            # batches that are left over in an epoch make no step: SpeechBrain drops their gradients
            steps = len(loader) // self.grad_accumulation_factor * hparams["number_of_epochs"]
            scheduler.n_total_steps = max(scheduler.n_warmup_steps, steps)
        self.fit(
            hparams["epoch_counter"],
            loader,
            valid,
            valid_loader_kwargs={"batch_sampler": batch_sampler(valid, hparams, hparams["max_batch_length_valid"])},
        )
        self.summaries = {}
        for self.test_name, test in tests.items():
            self.evaluate(test, min_key=self.best_by, test_loader_kwargs={"batch_size": 1})
        return self.summaries

    def export(self, hparams, text):
        """Leave a folder that can be loaded, where there is an interface for the kind of recogniser."""


def best_checkpoints(checkpointer, score, count):
    """The checkpoints with the lowest score, at most so many, and none that is much worse than the best."""
    checkpoints = checkpointer.find_checkpoints(min_key=score, max_num_checkpoints=count)
    worst = min((checkpoint.meta[score] for checkpoint in checkpoints), default=0) * WORST_IN_MEAN
    return [checkpoint for checkpoint in checkpoints if checkpoint.meta[score] <= worst]


def batch_sampler(dataset, hparams, seconds):
    """Batches of utterances of similar length, with at most so many seconds in each."""
    return DynamicBatchSampler(
        dataset,
        seconds,
        hparams["num_buckets"],
        length_func=lambda item: item["duration"],
        batch_ordering="random",
        max_batch_ex=hparams["max_batch_ex"],
        seed=hparams["seed"],
    )


def prepare_manifests(hparams):
    """Where the manifests of a corpus are, by split; they are made unless they are there."""
    corpus, folder = hparams["corpus"], Path(hparams["save_folder"])
    splits = {"train": hparams["train_splits"], "valid": hparams["valid_splits"]}
    splits |= {name: [name] for name in hparams["test_splits"]}
    if corpus == "manifest":
        return {name: Path(hparams["data_folder"]) / files[0] for name, files in splits.items()}
    manifests = {name: folder / f"{name}.csv" for name in splits}
    if not hparams["skip_prep"]:
        options = {"data_folder": hparams["data_folder"], "sample_rate": hparams["sample_rate"]}
        if corpus in ("librispeech", "mini"):
            if corpus == "mini":
                settings = {"sample_rate": hparams["sample_rate"], **hparams["mini_corpus"]}
                run_on_main(build_mini_corpus, args=[hparams["data_folder"]], kwargs=settings)
            run_on_main(prepare_librispeech, kwargs={**options, "save_folder": folder, "splits": splits})
        elif corpus == "fsdd":
            run_on_main(prepare_fsdd_digits, kwargs={**options, "save_folder": folder, "seed": hparams["seed"]})
        else:
            raise ValueError(f"corpus is '{corpus}', but must be one of librispeech, fsdd, manifest and mini.")
    return manifests


def get_tokenizer(hparams, transcripts):
    """The tokenizer of ``tokenizer_folder``, or one that is trained on the transcripts, and found again on resuming."""
    source, folder = hparams["tokenizer_folder"], Path(hparams["save_folder"])
    if source is not None:
        run_on_main(load_tokenizer, args=[source, hparams["output_neurons"], folder])
        return load_tokenizer(source, hparams["output_neurons"], folder)
    options = {key: hparams[key] for key in ("token_type", "character_coverage", "bos_index", "eos_index")}
    if not (folder / FILE_NAME).is_file():
        arguments = [folder / FILE_NAME, transcripts, hparams["output_neurons"]]
        run_on_main(train_tokenizer, args=arguments, kwargs=options)
    return load_tokenizer(folder, hparams["output_neurons"])


def make_datasets(hparams):
    """The tokenizer, and the datasets for training, validation and each test set."""
    root = hparams["data_folder"]
    items = {name: read_manifest(path, root) for name, path in prepare_manifests(hparams).items()}
    tokenizer = get_tokenizer(hparams, [item["wrd"] for item in items["train"].values()])
    rate = hparams["sample_rate"]
    hop = hparams["compute_features"].compute_STFT.hop_length
    shape = {key: hparams[key] for key in ("bos_index", "eos_index")}

    def frames(item):
        return encoder_frames(item["duration"], rate, hop)

    datasets = {}
    for name, part in items.items():
        part = select_usable(part, tokenizer, f"utterances of {name}", frames if name == "train" else None)
        datasets[name] = recognition_dataset(
            part, tokenizer, rate, **shape, speed_perturb=hparams["speed_perturb"] if name == "train" else None
        )
    return tokenizer, (datasets.pop("train"), datasets.pop("valid"), datasets)


def start(arguments):
    """Read the command line and the hyper-parameters, and get the output folder ready."""
    keep_freed_memory()
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    sb.utils.distributed.ddp_init_group(run_opts)
    text = read_hparams(hparams_file, overrides)
    hparams = load_hyperpyyaml(text)
    sb.create_experiment_directory(hparams["output_folder"])
    run_on_main(save_hparams, args=[hparams["output_folder"], text])
    return text, hparams, run_opts


def train_and_test(recognition_class, arguments):
    """Do all that a recipe's command line asks for: prepare the data, train, test, show the results."""
    text, hparams, run_opts = start(arguments)
    tokenizer, datasets = make_datasets(hparams)
    recognition = recognition_class(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    recognition.tokenizer = tokenizer
    recognition.make_searches(hparams)
    summaries = recognition.run(hparams, datasets)
    recognition.export(hparams, text)
    if if_main_process():
        show_results(hparams, summaries)


def show_results(hparams, summaries):
    """Print the error rates, and where to look."""
    print()
    for name, summary in summaries.items():
        print(
            f"{name:12s} WER {summary['wer']:6.2f} %   CER {summary['cer']:6.2f} %   {summary['utterances']} utterances"
        )
    print(f"\nalignments, table and summary: {Path(hparams['output_folder']) / 'test'}")
    print(f"training curves:               {Path(hparams['output_folder']) / 'training.png'}\n")
