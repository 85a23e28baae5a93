#!/usr/bin/env python3
"""Train a codec language model for speech synthesis: VALL-M, its twin VALL-E, or the hybrid of both.

    python recipes/tts/train.py hparams/tts/vallm.yaml --token_folder /path/to/tokens

The token folder is what one of the ``prepare_*.py`` wrote. Both models are trained together, or one of them by
``--train_parts '[ar]'``. Every hyper-parameter of the file can be replaced on the command line, SpeechBrain's own
options (``--device``, ``--precision``, ``--debug``, ...) hold, and ``torchrun --nproc_per_node=N`` in place of
``python`` uses N GPUs. The same command given again goes on from the last checkpoint.

In the end, when both models were trained, test sentences are spoken into ``test/`` and judged there, and
``inference/`` gets what :class:`~speechbrain_mamba.inference.synthesis.SpeechSynthesizer` loads.
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

from speechbrain_mamba.codecs import load_codec
from speechbrain_mamba.dataio.codec_tokens import read_tokens, token_dataset
from speechbrain_mamba.dataio.curriculum import LengthCurriculumSampler
from speechbrain_mamba.dataio.voice_prompts import VoicePrompts, prompted_dataset
from speechbrain_mamba.evaluation.report import format_summary
from speechbrain_mamba.evaluation.speaking import speak_test_set
from speechbrain_mamba.evaluation.synthesis_report import judge_speech
from speechbrain_mamba.inference.judges import load_judges
from speechbrain_mamba.inference.synthesis import export_synthesizer
from speechbrain_mamba.lobes.models.synthesis import VallE
from speechbrain_mamba.lobes.models.synthesis.packing import split_at
from speechbrain_mamba.ops import absolute_lengths, valid_frames
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.training.record import record_epoch, save_hparams
from speechbrain_mamba.utils.distributed import leave_processes
from speechbrain_mamba.utils.files import write_json
from speechbrain_mamba.utils.hparams import read_hparams
from speechbrain_mamba.utils.memory import keep_freed_memory

logger = logging.getLogger(__name__)

PARTS = ("ar", "nar")
PROMPTS = ("utterance", "speaker")
SHORTEST_PROMPT, LONGEST_PROMPT = 0.125, 0.5
"""Share of an utterance that is taken for its prompt in the training of the non-autoregressive model."""


class CodecLanguageModelling(sb.Brain):
    """Training of both models on the tokens that come next."""

    def compute_forward(self, batch, stage):
        """Logits (batch, frames, tokens) and targets (batch, frames), -1 in padding, of each part that is trained."""
        batch = batch.to(self.device)
        (phonemes, phoneme_lens), (codes, code_lens) = batch.phonemes, batch.codes
        phoneme_lengths = absolute_lengths(phoneme_lens, phonemes.shape[1])
        code_lengths = absolute_lengths(code_lens, codes.shape[1])
        outputs = {}
        if "ar" in self.hparams.train_parts:
            history = codes[..., 0]
            if stage == sb.Stage.TRAIN:
                history = replace_some(history, self.hparams.code_noise, self.hparams.codebook_size)
            prompt = None
            if self.hparams.prompts == "speaker":
                prompt = batch.prompt_phonemes.to(self.device), batch.prompt_frames.to(self.device)
            logits = self.modules.ar(phonemes, phoneme_lengths, history, code_lengths, prompt)
            outputs["ar"] = logits, end_at(codes[..., 0], code_lengths, self.hparams.codebook_size)
        rests = stage == sb.Stage.TRAIN and outputs and self.step % self.hparams.nar_interval
        if "nar" in self.hparams.train_parts and not rests:
            prompts = self.prompt_lengths(batch, code_lengths, stage)
            target_stage = self.target_stage(len(prompts), stage)
            prompt, speech = split_at(codes, prompts)
            lengths = code_lengths - prompts
            logits = self.modules.nar(phonemes, phoneme_lengths, prompt, prompts, speech, lengths, target_stage)
            targets = speech.gather(2, target_stage[:, None, None].expand(-1, speech.shape[1], 1))[..., 0]
            outputs["nar"] = logits, targets.masked_fill(~valid_frames(lengths, speech.shape[1]), -1)
        return outputs

    def prompt_lengths(self, batch, code_lengths, stage):
        """Frames of each example that are its prompt: those of the utterance in front, or where there is none a random
        share in training, a quarter otherwise."""
        share = torch.full(code_lengths.shape, 0.25, device=self.device)
        if stage == sb.Stage.TRAIN:
            share = SHORTEST_PROMPT + (LONGEST_PROMPT - SHORTEST_PROMPT) * torch.rand_like(share)
        most = round(self.hparams.prompt_seconds * self.frame_rate)
        prompts = (code_lengths * share).long().clamp(1, most)
        if self.hparams.prompts == "utterance":
            return prompts
        in_front = batch.prompt_frames.to(self.device)
        return torch.where(in_front > 0, in_front, prompts)

    def target_stage(self, batch_size, stage):
        """The codebook that each example shall predict: random in training, else all of them in turn."""
        books = self.hparams.n_codebooks
        if stage == sb.Stage.TRAIN:
            return torch.randint(1, books, (batch_size,), device=self.device)
        return torch.arange(self.n_examples, self.n_examples + batch_size, device=self.device) % (books - 1) + 1

    def compute_objectives(self, outputs, batch, stage):
        """The sum of the parts' cross-entropies; out of training the share of right tokens is counted."""
        losses = []
        for part, (logits, targets) in outputs.items():
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1)
            losses.append(loss)
            valid = targets >= 0
            right = (logits.argmax(-1) == targets) & valid
            count = self.counts.setdefault(part, torch.zeros(3, dtype=torch.double))
            count += torch.stack([right.sum(), valid.sum() * loss.detach(), valid.sum()]).double().cpu()
        self.n_examples += len(batch)
        return sum(losses)

    def on_fit_batch_start(self, batch, should_step):
        """Set the learning rate of the step to come."""
        if should_step:
            self.hparams.lr_scheduler(self.optimizer)

    def on_stage_start(self, stage, epoch=None):
        """Get the counters of a stage ready."""
        self.counts, self.n_examples = {}, 0
        if stage == sb.Stage.TRAIN:
            self.epoch_start = time.monotonic()
            self.prompts.share = self.hparams.prompt_share if epoch > self.hparams.epochs_alone else 0.0

    def stage_scores(self):
        """Cross-entropy in nats and right tokens in percent, of each part."""
        scores = {}
        for part, (right, loss, count) in self.counts.items():
            scores |= {f"{part}_loss": float(loss / count), f"{part}_accuracy": float(100 * right / count)}
        return scores

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log a stage, and save a checkpoint after each epoch."""
        if stage == sb.Stage.TRAIN:
            self.train_scores = self.stage_scores()
        elif stage == sb.Stage.VALID:
            self.finish_epoch(stage_loss, epoch)
        else:
            scores = self.stage_scores()
            self.hparams.train_logger.log_stats({"test": True}, test_stats=scores)
            if if_main_process():
                write_json(Path(self.hparams.output_folder) / "test" / "prediction.json", scores)

    def finish_epoch(self, valid_loss, epoch):
        """Log an epoch, draw the run so far, and save a checkpoint."""
        scores, lr = self.stage_scores(), self.optimizer.param_groups[0]["lr"]
        stats = {"train_stats": self.train_scores, "valid_stats": scores}
        self.hparams.train_logger.log_stats({"epoch": epoch, "lr": lr, "steps": self.optimizer_step}, **stats)
        if if_main_process() and not self.debug:
            row = {"epoch": epoch, "lr": lr}
            row |= {f"train_{name}": value for name, value in self.train_scores.items()}
            row |= {f"valid_{name}": value for name, value in scores.items()}
            row["seconds"] = round(time.monotonic() - self.epoch_start, 1)
            losses = [name for name in row if name.endswith("_loss")]
            shares = [name for name in row if name.endswith("_accuracy")]
            panels = {"nats": losses, "% right": shares, "learning rate": ["lr"]}
            record_epoch(self.hparams.output_folder, row, panels)
        self.checkpointer.save_and_keep_only(meta={"loss": valid_loss, "epoch": epoch}, min_keys=["loss"])


def end_at(tokens, lengths, end):
    """Targets (batch, frames + 1) of tokens (batch, frames): the end after each one's length, and -1 past it."""
    targets = F.pad(tokens, (0, 1)).scatter(1, lengths[:, None], end)
    return targets.masked_fill(~valid_frames(lengths + 1, targets.shape[1]), -1)


def replace_some(tokens, share, codebook_size):
    """Tokens of which a share, drawn one by one, is replaced by any of the codebook."""
    chosen = torch.rand(tokens.shape, device=tokens.device) < share
    return torch.where(chosen, torch.randint_like(tokens, codebook_size), tokens)


def batch_sampler(dataset, hparams, **options):
    """Batches of utterances of similar length, with at most so many frames in each."""
    return LengthCurriculumSampler(
        dataset,
        hparams["max_batch_frames"],
        hparams["num_buckets"],
        length_func=lambda item: item["frames"],
        batch_ordering="random",
        max_batch_ex=hparams["max_batch_ex"],
        seed=hparams["seed"],
        **options,
    )


def read_split(hparams, split):
    """What of a split can be used: items by id, and prompts for them; the codes of all, and facts about them."""
    folder = Path(hparams["token_folder"])
    items, codes, facts = read_tokens(folder, split)
    for name in ("n_codebooks", "codebook_size"):
        if getattr(facts, name) != hparams[name]:
            raise ValueError(
                f"The tokens in '{folder}' have a {name} of {getattr(facts, name)}, but the hyper-parameters say "
                f"{hparams[name]}: set {name}, or prepare tokens of another codec."
            )
    longest = hparams["max_seconds"] * facts.frame_rate if split == "train" else float("inf")
    usable = {key: item for key, item in items.items() if 2 <= item["frames"] <= longest and item["phonemes"]}
    prompts = VoicePrompts(usable, hparams["prompt_seconds"] * facts.frame_rate)
    reasons = "are shorter than 2 frames, longer than max_seconds or have no text"
    if hparams["prompts"] == "speaker":
        usable = {key: item for key, item in usable.items() if key in prompts}
        reasons += ", or their speaker says nothing else within prompt_seconds"
    if len(usable) < len(items):
        out = [key for key in items if key not in usable]
        logger.warning(
            "%d of %d utterances for %s are left out, as they %s: %s%s",
            len(out), len(items), split, reasons, ", ".join(out[:5]), ", ..." if len(out) > 5 else ".",
        )  # fmt: skip
    if not usable:
        raise ValueError(f"None of the {len(items)} utterances for {split} in '{folder}' can be used: they {reasons}.")
    return usable, prompts, codes, facts


def load_tokenizer(hparams):
    """The inventory of the tokens' phonemes."""
    tokenizer = TextTokenizer.load(Path(hparams["token_folder"]) / "text.json")
    if len(tokenizer) > hparams["n_phonemes"]:
        raise ValueError(
            f"text.json has {len(tokenizer)} symbols: set n_phonemes, which is {hparams['n_phonemes']}, to more."
        )
    return tokenizer


def make_dataset(hparams, split, tokenizer):
    """The dataset of a split, the prompts for it, and the frames per second of its codec."""
    items, prompts, codes, facts = read_split(hparams, split)
    if hparams["prompts"] == "utterance":
        return token_dataset(items, codes), prompts, facts.frame_rate
    # prompts come from the whole split, the utterances to say from what has one
    dataset = prompted_dataset(prompts.items, codes, prompts, tokenizer, fixed=split != "train")
    return dataset.filtered_sorted(select_n=None, key_test={"id": items.__contains__}), prompts, facts.frame_rate


def load_test_codec(hparams):
    """The codec to listen to the test with, or None where nothing is to be heard; before the training, as it may be
    missing."""
    if not hparams["n_test_utterances"] or set(hparams["train_parts"]) != set(PARTS):
        return None
    _, _, facts = read_tokens(hparams["token_folder"], "test")
    codec = load_codec(hparams["codec"] or facts.codec, facts.n_codebooks)
    facts.check(codec)
    return codec


@torch.no_grad()
def speak_test(hparams, codec, tokenizer, device):
    """Say what test utterances say, each in the voice of another utterance of its speaker, and write down how it went.

    The first ``n_test_utterances`` that have a prompt are said, with the models as they are.
    """
    items, prompts, codes, facts = read_split({**hparams, "prompts": "speaker"}, "test")
    model = VallE(hparams["ar"], hparams["nar"]).to(device).eval()
    chosen = dict(list(items.items())[: hparams["n_test_utterances"]])
    rows = speak_test_set(
        model,
        codec.to(device),
        chosen,
        {item["id"]: item["codes"] for item in token_dataset(prompts.items, codes)},
        tokenizer,
        prompts,
        Path(hparams["output_folder"]) / "test",
        round(hparams["max_seconds"] * facts.frame_rate),
        hparams["sampler"],
        hparams["test_batch_size"],
    )
    unfinished = sum(not row["finished"] for row in rows)
    logger.info("%d test utterances were spoken, %d of which did not end by themselves.", len(rows), unfinished)


def main():
    """Train, and measure on the test set."""
    keep_freed_memory()
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    text = read_hparams(hparams_file, overrides)
    hparams = load_hyperpyyaml(text)
    parts = hparams["train_parts"]
    if hparams["prompts"] not in PROMPTS:
        raise ValueError(f"prompts is '{hparams['prompts']}', but must be one of {', '.join(PROMPTS)}.")
    if hparams["prompt_order"] == "interleaved" and hparams["prompts"] != "speaker":
        raise ValueError("prompt_order 'interleaved' is learned from prompts in front: set prompts to speaker.")
    if not parts or any(part not in PARTS for part in parts):
        raise ValueError(f"train_parts is {parts}, but must be [ar], [nar] or [ar, nar].")
    sb.create_experiment_directory(hparams["output_folder"])
    run_on_main(save_hparams, args=[hparams["output_folder"], text])

    codec, tokenizer = load_test_codec(hparams), load_tokenizer(hparams)
    (train, prompts, frame_rate), (valid, *_), (test, *_) = (
        make_dataset(hparams, split, tokenizer) for split in ("train", "valid", "test")
    )
    brain = CodecLanguageModelling(
        modules={part: hparams["modules"][part] for part in parts},
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.prompts, brain.frame_rate = prompts, frame_rate
    # now, as they may be missing
    judges = load_judges(hparams["recognizer"], hparams["speaker_encoder"], str(brain.device)) if codec else {}
    curriculum = {"first_length": hparams["first_seconds"] * frame_rate}
    curriculum |= {"curriculum_epochs": hparams["curriculum_epochs"]}
    sampler, options = batch_sampler(train, hparams, **curriculum), {"num_workers": hparams["num_workers"]}
    loader = brain.make_dataloader(train, sb.Stage.TRAIN, batch_sampler=sampler, **options)
    brain.train_sampler = brain.train_sampler or sampler  # which is told the epoch: it draws other batches in each
    scheduler = hparams["lr_scheduler"]
    if scheduler.num_training_steps is None:
        # what is left over of an epoch makes no step
        scheduler.num_training_steps = hparams["number_of_epochs"] * (len(loader) // brain.grad_accumulation_factor)
    valid_sampler, test_sampler = batch_sampler(valid, hparams), batch_sampler(test, hparams)
    brain.fit(hparams["epoch_counter"], loader, valid, valid_loader_kwargs={"batch_sampler": valid_sampler})
    brain.evaluate(test, min_key="loss", test_loader_kwargs={"batch_sampler": test_sampler})
    if codec is not None:
        run_on_main(speak_test, args=[hparams, codec, tokenizer, brain.device])
        folder, modules = Path(hparams["output_folder"]) / "inference", dict(brain.modules.items())
        run_on_main(export_synthesizer, args=[folder, text, modules, tokenizer, codec])
        if if_main_process():
            folder = folder.with_name("test")
            summary = judge_speech(folder, **judges, n_examples=hparams["n_examples"])
            print(f"\n{format_summary(summary)}\n\nlook and listen: {folder}\n")


if __name__ == "__main__":
    main()
    leave_processes()
