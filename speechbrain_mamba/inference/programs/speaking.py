"""Synthesizers and codecs as programs: both language models, and waveforms to tokens and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.codecs import EnCodec
from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.inference.programs.program import (
    BATCH,
    Axes,
    Deployed,
    Program,
    drop_room,
    fill_state,
    find_axes,
    name_states,
)
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer
from speechbrain_mamba.ops.whole_lstm import WholeLSTM
from speechbrain_mamba.utils._compat import whole_paddings

_TEXT: Axes = {0: "batch", 1: "phonemes"}
_PROMPT_TEXT: Axes = {0: "batch", 1: "prompt_phonemes"}
_PROMPT: Axes = {0: "batch", 1: "prompt_frames"}
_FRAMES: Axes = {0: "batch", 1: "frames"}


class TokensOfSpeech(nn.Module):
    """From waveforms (batch, samples) and lengths in samples (batch,) to tokens (batch, frames, codebooks) and their
    lengths (batch,)."""

    def __init__(self, codec: EnCodec) -> None:
        super().__init__()
        self.codec = codec
        for module in list(codec.modules()):
            lstm = getattr(module, "lstm", None)
            if isinstance(lstm, nn.LSTM):
                module.lstm = WholeLSTM(lstm)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode."""
        with whole_paddings():
            return self.codec.encode(waveform, lengths)


class SpeechOfTokens(TokensOfSpeech):
    """From tokens (batch, frames, codebooks) and their lengths (batch,) to waveforms (batch, samples) and lengths."""

    def forward(self, codes: Tensor, code_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Decode."""
        with whole_paddings():
            return self.codec.decode(codes, code_lengths)


class FirstTokens(nn.Module):
    """Reads a prompt and the text to speak: from phonemes and tokens of the first codebook, integers (batch, time),
    with their lengths, to logits of the first token (batch, tokens) and states."""

    def __init__(self, synthesizer: SpeechSynthesizer) -> None:
        super().__init__()
        self.ar: Any = synthesizer.mods.ar

    def start(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The logits, and the nested state."""
        said, said_lengths, spoken, spoken_lengths, phonemes, lengths = inputs
        prompt = Utterances(Padded(said, said_lengths), Padded(spoken, spoken_lengths))
        return self.ar.start(prompt, Padded(phonemes, lengths))

    def forward(
        self,
        prompt_phonemes: Tensor,
        prompt_phoneme_lengths: Tensor,
        prompt_codes: Tensor,
        prompt_code_lengths: Tensor,
        phonemes: Tensor,
        phoneme_lengths: Tensor,
    ) -> tuple[Tensor, ...]:
        """Read."""
        logits, state = self.start(
            prompt_phonemes, prompt_phoneme_lengths, prompt_codes, prompt_code_lengths, phonemes, phoneme_lengths
        )
        return logits, *name_states(state).values()


class NextTokens(nn.Module):
    """From tokens of the first codebook (batch,) and states to logits of the next ones and the states after."""

    def __init__(self, synthesizer: SpeechSynthesizer, template: Any) -> None:
        super().__init__()
        self.ar: Any = synthesizer.mods.ar
        self.template = template

    def forward(self, tokens: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Feed one token of each example."""
        logits, state = self.ar.step(tokens, fill_state(self.template, iter(states)))
        return logits, list(name_states(drop_room(state)).values())


class FurtherTokens(nn.Module):
    """From prompt, text, and the tokens so far (batch, frames, codebooks), to the tokens (batch, frames) of one more
    codebook: number ``stage`` (batch,), counted from 0. Codebooks from that one on may hold anything."""

    def __init__(self, synthesizer: SpeechSynthesizer) -> None:
        super().__init__()
        self.nar: Any = synthesizer.mods.nar

    def forward(
        self,
        prompt_phonemes: Tensor,
        prompt_phoneme_lengths: Tensor,
        prompt_codes: Tensor,
        prompt_code_lengths: Tensor,
        phonemes: Tensor,
        phoneme_lengths: Tensor,
        codes: Tensor,
        code_lengths: Tensor,
        stage: Tensor,
    ) -> Tensor:
        """Predict."""
        prompt = Utterances(Padded(prompt_phonemes, prompt_phoneme_lengths), Padded(prompt_codes, prompt_code_lengths))
        speech = Utterances(Padded(phonemes, phoneme_lengths), Padded(codes, code_lengths))
        return self.nar(prompt, speech, stage).argmax(-1)


def codec_programs(codec: EnCodec) -> Deployed:
    """``codec_encoder`` and ``codec_decoder``."""
    facts = {
        "sample_rate": codec.sample_rate, "samples_per_frame": codec.hop_length, "codebooks": codec.n_codebooks,
        "codebook_size": codec.codebook_size,
    }  # fmt: skip
    return Deployed("codec", _codec(codec), facts)


def _codec(codec: EnCodec) -> list[Program]:
    samples, frames = 24 * codec.hop_length - 5, 24
    axes = {"waveform": {0: "batch", 1: "samples"}, "lengths": BATCH, "codes": _FRAMES, "code_lengths": BATCH}
    sound = {"waveform": torch.randn(2, samples), "lengths": torch.tensor([samples, samples // 2])}
    codes = torch.randint(codec.codebook_size, (2, frames, codec.n_codebooks))
    tokens = {"codes": codes, "code_lengths": torch.tensor([frames, 13])}
    return [
        Program("codec_encoder", TokensOfSpeech(codec).eval(), sound, axes, ["codes", "code_lengths"]),
        Program("codec_decoder", SpeechOfTokens(codec).eval(), tokens, axes, ["waveform", "lengths"]),
    ]


def synthesizer_programs(model: SpeechSynthesizer) -> Deployed:
    """``start`` and ``step`` of the first codebook, ``further`` of the others, and the codec.

    Raises
    ------
    ValueError
        For a model that reads its text in another way than attention or as what comes before.
    """
    ar: Any = model.mods.ar
    cross, window = ar.backbone.cross, ar.backbone.mixer_plan.options.get("attention", {}).get("window")
    if cross not in ("concat", "attention") or window is not None:
        what = f"reads its text by {cross}" if window is None else f"attends to {window} frames"
        raise ValueError(f"The synthesizer {what}: programs of it cannot take any lengths. Use it in Python.")
    n_phonemes, size, books = ar.n_phonemes, ar.codebook_size, model.model.n_codebooks

    def inputs(batch: int = 2, more: int = 0, more_text: int = 0) -> dict[str, Tensor]:
        def draw(below: int, *shape: int) -> Tensor:
            return torch.randint(below, shape)

        short = torch.ones(batch, dtype=torch.long) * 3
        short[0] = 5
        return {
            "prompt_phonemes": draw(n_phonemes, batch, 5), "prompt_phoneme_lengths": short,
            "prompt_codes": draw(size, batch, 9 + more), "prompt_code_lengths": short + 4 + more,
            "phonemes": draw(n_phonemes, batch, 7 + more_text), "phoneme_lengths": short + 2 + more_text,
        }  # fmt: skip

    reader, example = FirstTokens(model).eval(), inputs()
    axes: dict[str, Axes] = {
        "prompt_phonemes": _PROMPT_TEXT, "prompt_phoneme_lengths": BATCH, "prompt_codes": _PROMPT,
        "prompt_code_lengths": BATCH, "phonemes": _TEXT, "phoneme_lengths": BATCH, "logits": BATCH, "tokens": BATCH,
    }  # fmt: skip

    def states(**options: int) -> Any:
        with torch.no_grad():
            return reader.start(*inputs(**options).values())[1]

    template = states()
    first = name_states(template)
    others = {"batch": {"batch": 3}, "past": {"more": 4}, "text": {"more_text": 4}}
    found = find_axes(first, {name: name_states(states(**options)) for name, options in others.items()})
    step = {"tokens": torch.zeros(2, dtype=torch.long)}
    programs = [
        Program("start", reader, example, axes, ["logits"], first, found, makes_states=True),
        Program("step", NextTokens(model, template).eval(), step, axes, ["logits"], first, found),
    ]
    if books > 1:
        rest = {
            **example, "prompt_codes": torch.randint(size, (2, 9, books)), "codes": torch.randint(size, (2, 11, books)),
            "code_lengths": torch.tensor([11, 6]), "stage": torch.tensor([1, books - 1]),
        }  # fmt: skip
        shapes = {**axes, "codes": _FRAMES, "code_lengths": BATCH, "stage": BATCH, "tokens": _FRAMES}
        programs.append(Program("further", FurtherTokens(model).eval(), rest, shapes, ["tokens"]))
    codec = codec_programs(model.codec)
    facts = {**codec.facts, "end": ar.eos_index, "phonemes": n_phonemes, "most_frames": model.max_frames}
    return Deployed("synthesizer", [*programs, *codec.programs], facts)
