"""Both language models together: from phonemes and a prompt to the tokens of speech."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class GeneratedCodes(NamedTuple):
    """Speech as tokens."""

    codes: Tensor
    """Tokens, integers (batch, frames, codebooks), zero past each length."""

    lengths: Tensor
    """Valid frames, integers (batch,)."""

    finished: Tensor
    """Whether each example came to its end before the frames ran out, booleans (batch,)."""


def check_tokens(name: str, tokens: Tensor, lengths: Tensor, size: int, least: int = 1) -> None:
    """Raise a ValueError unless each example has ``least`` valid tokens, and all tokens are below ``size``."""
    if tokens.shape[0] == 0 or int(lengths.min()) < least or int(lengths.max()) > tokens.shape[1]:
        raise ValueError(
            f"{name}: lengths run from {int(lengths.min()) if lengths.numel() else None} to "
            f"{int(lengths.max()) if lengths.numel() else None}, but must lie in {least} to {tokens.shape[1]}."
        )
    if int(tokens.min()) < 0 or int(tokens.max()) >= size:
        raise ValueError(
            f"{name}: tokens run from {int(tokens.min())} to {int(tokens.max())}, but the model has those from 0 to "
            f"{size - 1}: they are of another codec or phoneme inventory."
        )


class VallE(nn.Module):
    """VALL-E (arXiv 2301.02111) or VALL-M (arXiv 2407.09732), depending on the backbone of its two models.

    Arguments
    ---------
    ar : AutoregressiveCodecLM
        Predicts the first codebook.
    nar : NonAutoregressiveCodecLM, optional
        Predicts the others; None for a codec of one codebook.
    max_prompt_frames : int, optional
        The longest prompt that the model was trained for.

    Example
    -------
    >>> from speechbrain_mamba.lobes.models.synthesis import AutoregressiveCodecLM, NonAutoregressiveCodecLM
    >>> sizes = {"backbone": "mamba", "num_layers": 1, "d_model": 8, "d_ffn": 16}
    >>> model = VallE(AutoregressiveCodecLM(40, 64, **sizes), NonAutoregressiveCodecLM(40, 64, 4, **sizes)).eval()
    >>> phonemes, prompt = torch.randint(40, (1, 6)), torch.randint(64, (1, 7, 4))
    >>> speech = model.generate(phonemes, torch.tensor([6]), prompt, torch.tensor([7]), max_frames=5)
    >>> speech.codes.shape[2], bool(speech.lengths <= 5)
    (4, True)
    """

    def __init__(self, ar, nar=None, max_prompt_frames=None):
        super().__init__()
        self.ar, self.nar, self.max_prompt_frames = ar, nar, max_prompt_frames
        for name in ("n_phonemes", "codebook_size") if nar is not None else ():
            if getattr(ar, name) != getattr(nar, name):
                raise ValueError(
                    f"{name} is {getattr(ar, name)} in the autoregressive model, but {getattr(nar, name)} in the other."
                )

    @property
    def n_codebooks(self):
        """Codebooks of the codec."""
        return 1 if self.nar is None else self.nar.n_codebooks

    def _check(self, phonemes: Tensor, phoneme_lengths: Tensor, prompt_codes: Tensor, prompt_lengths: Tensor) -> None:
        if prompt_codes.dim() != 3 or prompt_codes.shape[2] != self.n_codebooks:
            raise ValueError(
                f"The prompt has shape {tuple(prompt_codes.shape)}, but must be (batch, frames, {self.n_codebooks}): "
                "its codec has to be the one that the model was trained with."
            )
        check_tokens("phonemes", phonemes, phoneme_lengths, self.ar.n_phonemes)
        if int(prompt_lengths.min()) < 1:
            raise ValueError("A prompt is shorter than one frame of the codec: give some seconds of speech.")
        check_tokens("prompt", prompt_codes, prompt_lengths, self.ar.codebook_size)
        if self.max_prompt_frames is not None and int(prompt_lengths.max()) > self.max_prompt_frames:
            raise ValueError(
                f"A prompt has {int(prompt_lengths.max())} frames, but the model takes at most "
                f"{self.max_prompt_frames}: give it a shorter one."
            )

    @torch.no_grad()
    def generate(
        self,
        phonemes,
        phoneme_lengths,
        prompt_codes,
        prompt_lengths,
        max_frames,
        sampler=None,
        prompt_phoneme_lengths=None,
    ):
        """Speak.

        Arguments
        ---------
        phonemes : Tensor
            Phonemes of what the prompt says and then of what is to be said, integers (batch, phonemes).
        phoneme_lengths : Tensor
            How many are valid, integers (batch,).
        prompt_codes : Tensor
            Tokens of the prompt, whose voice is taken, integers (batch, prompt frames, codebooks).
        prompt_lengths : Tensor
            How many of its frames are valid, integers (batch,).
        max_frames : int
            The most frames to make.
        sampler : callable, optional
            Logits (batch, tokens) and tokens so far (batch, time) to tokens (batch,), such as
            :class:`~speechbrain_mamba.decoders.sampling.TokenSampler`; the likeliest token by default.
        prompt_phoneme_lengths : Tensor, optional
            How many of the phonemes are the prompt's, integers (batch,). Needed where the order is ``interleaved``.

        Returns
        -------
        GeneratedCodes
            What comes after the prompt.

        Raises
        ------
        ValueError
            For a prompt without a frame or too long, text without a phoneme, tokens that the model does not have, or
            prompts' phonemes that are not counted where they have to be.
        """
        self._check(phonemes, phoneme_lengths, prompt_codes, prompt_lengths)
        prompt = None if prompt_phoneme_lengths is None else (prompt_phoneme_lengths, prompt_lengths)
        if self.ar.prompt_order == "interleaved":
            self._check_order(phoneme_lengths, prompt_phoneme_lengths)
        start = self.ar.start(phonemes, phoneme_lengths, prompt_codes[..., 0], prompt_lengths, prompt)
        first, lengths, finished = self._generate_first(*start, max_frames, sampler)
        if self.nar is None:
            codes = first[..., None]
        else:
            prompt = prompt_codes, prompt_lengths
            codes = self.nar.complete(phonemes, phoneme_lengths, *prompt, first, lengths)
        return GeneratedCodes(codes, lengths, finished)

    def _check_order(self, phoneme_lengths: Tensor, prompt_phoneme_lengths: Tensor | None) -> None:
        if prompt_phoneme_lengths is None:
            raise ValueError(
                "The model reads the prompt's phonemes and speech before the other phonemes: give "
                "prompt_phoneme_lengths, how many phonemes are the prompt's."
            )
        if not bool(((prompt_phoneme_lengths >= 0) & (prompt_phoneme_lengths < phoneme_lengths)).all()):
            raise ValueError(
                f"prompt_phoneme_lengths are {prompt_phoneme_lengths.tolist()}, but must be at least 0 and less than "
                f"the phonemes there are, {phoneme_lengths.tolist()}."
            )

    def _generate_first(self, logits, state, max_frames, sampler):
        """The first codebook, its lengths, and which examples came to their end."""
        eos = self.ar.eos_index
        lengths = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
        history = lengths.new_zeros(logits.shape[0], 0)
        finished = torch.zeros_like(lengths, dtype=torch.bool)
        while history.shape[1] < max_frames:
            if history.shape[1] == 0:
                logits[:, eos] = -torch.inf  # some sound there has to be
            tokens = logits.argmax(-1) if sampler is None else sampler(logits, history)
            finished = finished | (tokens == eos)
            if finished.all():
                break
            tokens = tokens.masked_fill(finished, 0)
            lengths = lengths + ~finished
            history = torch.cat([history, tokens[:, None]], 1)
            if history.shape[1] < max_frames:
                logits, state = self.ar.step(tokens, state)
        return history, lengths, finished
