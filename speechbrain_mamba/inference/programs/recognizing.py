"""Recognizers as programs: with CTC of whole recordings, with a decoder its encoder and its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.inference.programs.hearing import WindowsOfSpeech, stream_facts
from speechbrain_mamba.inference.programs.program import (
    BATCH,
    EXAMPLE_SECONDS,
    Deployed,
    Program,
    fill_state,
    find_axes,
    name_states,
)
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.ops import absolute_lengths


class LogProbabilities(nn.Module):
    """From waveforms (batch, samples) and lengths in samples (batch,) to log-probabilities (batch, frames, tokens), and
    their lengths in frames (batch,)."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.encoder: Any = recognizer.mods.encoder

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Recognize."""
        log_probs, relative = self.encoder.encode(waveform, lengths.double() / waveform.shape[1])
        return log_probs, absolute_lengths(relative, log_probs.shape[1])


class Memory(nn.Module):
    """From waveforms and lengths to what a decoder reads, (batch, frames, channels), its lengths (batch,), and the
    log-probabilities of CTC (batch, frames, tokens)."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.encoder: Any = recognizer.mods.encoder
        self.ctc_lin: Any = recognizer.mods.ctc_lin

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Encode."""
        memory, relative = self.encoder.encode(waveform, lengths.double() / waveform.shape[1])
        frames = absolute_lengths(relative, memory.shape[1])
        return memory, frames, self.ctc_lin(memory).log_softmax(-1)


class DecoderStates(Memory):
    """From waveforms and lengths to the states of a Mamba decoder before the first token, the frames of the encoder
    (batch,), and the log-probabilities of CTC."""

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Encode, and let the decoder consume it."""
        memory, frames, ctc = super().forward(waveform, lengths)
        return frames, ctc, *name_states(self.init_state(memory, frames)).values()

    def init_state(self, memory: Tensor, frames: Tensor) -> Any:
        """The nested state."""
        return self.encoder.transformer.init_decoder_state(memory, frames)


class DecoderStep(nn.Module):
    """From tokens (batch,) and states to log-probabilities of the next tokens (batch, tokens) and the states after."""

    def __init__(self, recognizer: Recognizer, template: Any) -> None:
        super().__init__()
        self.transformer: Any = recognizer.mods.encoder.transformer
        self.output: Any = recognizer.mods.decoder.fc
        self.template = template

    def forward(self, tokens: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Feed one token of each example."""
        y, state = self.transformer.decode_step(tokens, fill_state(self.template, iter(states)))
        return self.output(y).log_softmax(-1), list(name_states(state).values())


class DecoderOfPrefixes(nn.Module):
    """From tokens so far (batch, steps), and the output of the encoder, to log-probabilities of the next tokens (batch,
    tokens)."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.transformer: Any = recognizer.mods.encoder.transformer
        self.output: Any = recognizer.mods.decoder.fc

    def forward(self, tokens: Tensor, memory: Tensor, frames: Tensor) -> Tensor:
        """Decode the prefixes."""
        y = self.transformer.decode_prefix(tokens, memory, frames)
        return self.output(y[:, -1]).log_softmax(-1)


def recognizer_programs(model: Recognizer) -> Deployed:
    """``recognizer`` with CTC and perhaps ``stream``, or ``encoder`` and ``decoder``.

    Raises
    ------
    ValueError
        For a decoder that reads the memory where CTC says.
    """
    samples = max(round(EXAMPLE_SECONDS * model.sample_rate), 4 * model.min_samples)
    inputs = {"waveform": torch.randn(2, samples), "lengths": torch.tensor([samples, samples // 2])}
    axes = {"waveform": {0: "batch", 1: "samples"}, "lengths": BATCH, "frames": BATCH}
    frames = {0: "batch", 1: "frames"}
    tokenizer = model.tokenizer
    facts = {
        "sample_rate": model.sample_rate, "blank": model.hparams.blank_index,
        "seconds_per_frame": model.seconds_per_frame, "least_samples": model.min_samples,
        "tokens": [tokenizer.id_to_piece(token) for token in range(tokenizer.vocab_size())],
    }  # fmt: skip
    if model.kind == "ctc":
        whole = LogProbabilities(model).eval()
        outputs = ["log_probs", "frames"]
        programs = [Program("recognizer", whole, inputs, {**axes, "log_probs": frames}, outputs)]
        if model.streams:
            programs.append(_stream(model))
        return Deployed("recognizer", programs, facts)
    decoder: Any = model.mods.decoder
    facts |= {"first": decoder.bos_index, "end": decoder.eos_index}
    axes |= {"memory": frames, "ctc_log_probs": frames}
    transformer: Any = model.mods.encoder.transformer  # type: ignore[union-attr]
    make = _with_states if transformer.has_mamba_decoder else _with_prefixes
    return Deployed("recognizer", make(model, inputs, axes), facts)


def _with_states(model: Recognizer, inputs: dict[str, Tensor], axes: dict[str, Any]) -> list[Program]:
    start = DecoderStates(model).eval()
    d_model = start.ctc_lin.w.in_features
    transformer: Any = start.encoder.transformer
    if transformer.reads_places:
        raise ValueError(
            "The decoder's cross is 'interleaved', which looks up where CTC puts each token: it cannot be deployed. "
            "Use it in Python."
        )

    def states(batch: int, frames: int) -> Any:
        with torch.no_grad():
            return start.init_state(torch.randn(batch, frames, d_model), torch.full((batch,), frames))

    template = states(2, 9)
    first = name_states(template)
    found = find_axes(first, {"batch": name_states(states(3, 9)), "frames": name_states(states(2, 12))})
    tokens = {"tokens": torch.zeros(2, dtype=torch.long)}
    encoder = Program("encoder", start, inputs, axes, ["frames", "ctc_log_probs"], first, found, makes_states=True)
    step = DecoderStep(model, template).eval()
    shapes = {"tokens": BATCH, "log_probs": BATCH}
    return [encoder, Program("decoder", step, tokens, shapes, ["log_probs"], first, found)]


def _with_prefixes(model: Recognizer, inputs: dict[str, Tensor], axes: dict[str, Any]) -> list[Program]:
    encode = Memory(model).eval()
    d_model = encode.ctc_lin.w.in_features
    prefix = {
        "tokens": torch.zeros(2, 5, dtype=torch.long), "memory": torch.randn(2, 9, d_model),
        "frames": torch.tensor([9, 5]),
    }  # fmt: skip
    shapes = {"tokens": {0: "batch", 1: "steps"}, "memory": axes["memory"], "frames": BATCH, "log_probs": BATCH}
    return [
        Program("encoder", encode, inputs, axes, ["memory", "frames", "ctc_log_probs"]),
        Program("decoder", DecoderOfPrefixes(model).eval(), prefix, shapes, ["log_probs"]),
    ]


def _stream(model: Recognizer) -> Program:
    module = WindowsOfSpeech(model.mods, model.hparams.chunk_config.chunk_size).eval()
    inputs = {"window": torch.randn(2, module.window), "lengths": torch.tensor([module.window, module.window - 99])}
    axes = {"window": BATCH, "lengths": BATCH, "log_probs": BATCH, "frames": BATCH}
    states: Sequence[Any] = module.init_state(2)
    return Program(
        "stream", module, inputs, axes, ["log_probs", "frames"], name_states(states), facts=stream_facts(module)
    )
