"""Both language models together: from phonemes and a prompt to the tokens of speech."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.lobes.models.synthesis.autoregressive import AutoregressiveCodecLM
from speechbrain_mamba.lobes.models.synthesis.non_autoregressive import NonAutoregressiveCodecLM
from speechbrain_mamba.nnet.attention import PrefixAttention
from speechbrain_mamba.utils.cuda_graphs import GraphedFunction

Sampler = Callable[[Tensor, Tensor], Tensor]
"""From logits (batch, tokens) and the tokens so far (batch, time) to the next tokens (batch,)."""


class GeneratedCodes(NamedTuple):
    """Speech as tokens."""

    codes: Tensor
    """Tokens, integers (batch, frames, codebooks), zero past each length."""

    lengths: Tensor
    """Valid frames, integers (batch,)."""

    finished: Tensor
    """Whether each example came to its end before the frames ran out, booleans (batch,)."""

    broken: Tensor
    """Whether a model predicted something that is not finite, booleans (batch,): the codes of such an example, at least
    one frame, mean nothing, and it is not finished."""


def check_tokens(name: str, tokens: Padded, size: int, least: int = 1) -> None:
    """Raise a ValueError unless each example has ``least`` valid tokens, and all tokens are below ``size``."""
    values, lengths = tokens
    if values.shape[0] == 0 or int(lengths.min()) < least or int(lengths.max()) > values.shape[1]:
        ends = [int(lengths.min()), int(lengths.max())] if lengths.numel() else [None, None]
        raise ValueError(
            f"{name}: lengths run from {ends[0]} to {ends[1]}, but must lie in {least} to {values.shape[1]}."
        )
    if values.numel() and (int(values.min()) < 0 or int(values.max()) >= size):
        raise ValueError(
            f"{name}: tokens run from {int(values.min())} to {int(values.max())}, but the model has those from 0 to "
            f"{size - 1}: they are of another codec or phoneme inventory."
        )


class VallE(nn.Module):
    """VALL-E (arXiv 2301.02111) or VALL-M (arXiv 2407.09732), depending on the backbone of its two models.

    Arguments
    ---------
    ar, nar : AutoregressiveCodecLM, NonAutoregressiveCodecLM
        Predict the first codebook and the others; ``nar`` is None for a codec of one codebook.
    max_prompt_frames : int, optional
        The longest prompt that the model was trained for.

    Raises
    ------
    ValueError
        When the two models are for different phonemes or codecs.

    Example
    -------
    >>> sizes = {"backbone": "mamba", "num_layers": 1, "d_model": 8, "d_ffn": 16}
    >>> model = VallE(AutoregressiveCodecLM(40, 64, **sizes), NonAutoregressiveCodecLM(40, 64, 4, **sizes)).eval()
    >>> said = Padded(torch.randint(40, (1, 6)), torch.tensor([6]))
    >>> prompt = Utterances(said, Padded(torch.randint(64, (1, 7, 4)), torch.tensor([7])))
    >>> speech = model.generate(prompt, Padded(torch.randint(40, (1, 5)), torch.tensor([5])), max_frames=5)
    >>> speech.codes.shape[2], bool(speech.lengths <= 5)
    (4, True)
    """

    def __init__(
        self,
        ar: AutoregressiveCodecLM,
        nar: NonAutoregressiveCodecLM | None = None,
        max_prompt_frames: int | None = None,
    ) -> None:
        super().__init__()
        self.ar, self.nar, self.max_prompt_frames = ar, nar, max_prompt_frames
        self._graphed: GraphedFunction | None = None
        for name in ("n_phonemes", "codebook_size") if nar is not None else ():
            if getattr(ar, name) != getattr(nar, name):
                raise ValueError(
                    f"{name} is {getattr(ar, name)} in the autoregressive model, but {getattr(nar, name)} in the other."
                )

    def use_cuda_graphs(self, use: bool = True) -> None:
        """Replay the steps of the autoregressive model as a CUDA graph, where it is Mamba and on a GPU.

        The state of attention grows, so that each of its steps is another graph: such models run as before.
        """
        grows = any(isinstance(module, PrefixAttention) for module in self.ar.modules())
        self._graphed = GraphedFunction(self.ar.step, clones=False) if use and not grows else None

    @property
    def n_codebooks(self) -> int:
        """Codebooks of the codec."""
        return 1 if self.nar is None else self.nar.n_codebooks

    def _check(self, prompt: Utterances, phonemes: Padded) -> None:
        codes, lengths = prompt.codes
        if codes.dim() != 3 or codes.shape[2] != self.n_codebooks:
            raise ValueError(
                f"The prompt has shape {tuple(codes.shape)}, but must be (batch, frames, {self.n_codebooks}): "
                "its codec has to be the one that the model was trained with."
            )
        check_tokens("phonemes", phonemes, self.ar.n_phonemes)
        check_tokens("phonemes of the prompt", prompt.phonemes, self.ar.n_phonemes, 0)
        if int(lengths.min()) < 1:
            raise ValueError("A prompt is shorter than one frame of the codec: give some seconds of speech.")
        check_tokens("prompt", prompt.codes, self.ar.codebook_size)
        if self.max_prompt_frames is not None and int(lengths.max()) > self.max_prompt_frames:
            raise ValueError(
                f"A prompt has {int(lengths.max())} frames, but the model takes at most "
                f"{self.max_prompt_frames}: give it a shorter one."
            )

    @torch.no_grad()
    def generate(
        self, prompt: Utterances, phonemes: Padded, max_frames: int, sampler: Sampler | None = None
    ) -> GeneratedCodes:
        """Speak.

        Arguments
        ---------
        prompt : Utterances
            Utterances whose voices are taken, with at least one frame of codes, integers (batch, frames, codebooks).
        phonemes : Padded
            Phonemes of the text to speak, at least 1, integers (batch, phonemes).
        max_frames : int
            The most frames to make.
        sampler : callable, optional
            Chooses the next tokens, such as :class:`~speechbrain_mamba.decoders.sampling.TokenSampler`; the likeliest
            ones by default.

        Returns
        -------
        GeneratedCodes
            The speech, without the prompt.

        Raises
        ------
        ValueError
            For a prompt without a frame or too long, text without a phoneme, or tokens that the model does not have.
        """
        self._check(prompt, phonemes)
        start = self.ar.start(prompt.first_codebook(), phonemes)
        first, lengths, finished, broken = self._generate_first(*start, max_frames, sampler)
        if self.nar is None:
            codes = first[..., None]
        else:
            codes, broken_later = self.nar.complete(prompt, Utterances(phonemes, Padded(first, lengths)))
            broken = broken | broken_later
        return GeneratedCodes(codes, lengths, finished & ~broken, broken)

    def _generate_first(
        self, logits: Tensor, state: dict[str, Any], max_frames: int, sampler: Sampler | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The first codebook, its lengths, and which examples came to their end or to logits that are not finite."""
        eos, step = self.ar.eos_index, self._graphed or self.ar.step
        lengths = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
        history = lengths.new_zeros(logits.shape[0], 0)
        finished = torch.zeros_like(lengths, dtype=torch.bool)
        broken = finished
        logits[:, eos] = -torch.inf  # at least one frame is spoken
        while history.shape[1] < max_frames:
            unusable = ~logits.amax(-1).isfinite()
            broken = broken | (unusable & ~finished)
            logits = logits.masked_fill(unusable[:, None], 0)  # drawn from all the same, for the sake of the others
            tokens = logits.argmax(-1) if sampler is None else sampler(logits, history)
            finished = finished | ((tokens == eos) & ~broken)
            ended = finished | broken
            if ended.all() and history.shape[1]:
                break
            tokens = tokens.masked_fill(ended, 0)
            lengths = lengths + ~ended
            history = torch.cat([history, tokens[:, None]], 1)
            if history.shape[1] < max_frames:
                logits, state = step(tokens, state)
        return history, lengths.clamp(min=min(1, history.shape[1])), finished, broken
