"""The further codebooks of speech, each predicted for all frames at once from the codebooks below it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.lobes.models.synthesis.backbone import CodecLanguageBackbone, has_attention
from speechbrain_mamba.lobes.models.synthesis.embeddings import TokenEmbedding
from speechbrain_mamba.lobes.models.synthesis.packing import Packing
from speechbrain_mamba.ops import mask_frames


class NonAutoregressiveCodecLM(nn.Module):
    """Predicts codebook 2 and up, all frames at once, from the phonemes, a prompt with all codebooks and the sum of the
    codebooks below (VALL-E, arXiv 2301.02111, section 4.2.2).

    The weights that predict a codebook are those that embed it.

    Arguments
    ---------
    n_phonemes, codebook_size, n_codebooks : int
        Numbers of phonemes, of entries of a codebook, and of codebooks, which are at least 2.
    backbone, d_model, dropout, **sizes
        As in :class:`~speechbrain_mamba.lobes.models.synthesis.backbone.CodecLanguageBackbone`, which is not causal.

    Raises
    ------
    ValueError
        For fewer than 2 codebooks, and as there.

    Example
    -------
    >>> lm = NonAutoregressiveCodecLM(40, 64, 4, "mamba", num_layers=2, d_model=8, d_ffn=16)
    >>> phonemes = Padded(torch.randint(40, (2, 6)), torch.tensor([6, 4]))
    >>> speech = Utterances(phonemes, Padded(torch.randint(64, (2, 20, 4)), torch.tensor([20, 15])))
    >>> prompt = Utterances(phonemes, Padded(torch.randint(64, (2, 7, 4)), torch.tensor([7, 5])))
    >>> lm(prompt, speech, stage=torch.tensor([1, 3])).shape
    torch.Size([2, 20, 64])
    """

    def __init__(
        self,
        n_phonemes: int,
        codebook_size: int,
        n_codebooks: int = 8,
        backbone: str = "transformer",
        *,
        d_model: int = 1024,
        dropout: float = 0.1,
        **sizes: Any,
    ) -> None:
        super().__init__()
        if n_codebooks < 2:
            raise ValueError(f"n_codebooks is {n_codebooks}, but with fewer than 2 there is nothing to predict.")
        self.n_phonemes, self.codebook_size, self.n_codebooks = n_phonemes, codebook_size, n_codebooks
        positions = has_attention(backbone, **sizes)
        self.phoneme_embedding = TokenEmbedding(n_phonemes, d_model, positions, dropout)
        # one table for all codebooks, one after the other
        self.code_embedding = TokenEmbedding(n_codebooks * codebook_size, d_model, positions, dropout)
        self.backbone = CodecLanguageBackbone(
            backbone, d_model=d_model, dropout=dropout, causal=False, n_stages=n_codebooks - 1, **sizes
        )

    def _embed_codes(self, codes: Tensor, stage: Tensor | None, first: Tensor | int) -> Tensor:
        """The sum of the codebooks' embeddings, below each example's stage if there is one."""
        x = self.code_embedding.embedding(codes[..., 0])
        for book in range(1, self.n_codebooks):  # one after the other, to save memory
            part = self.code_embedding.embedding(codes[..., book] + book * self.codebook_size)
            x = x + (part if stage is None else part * (book < stage)[:, None, None])
        return self.code_embedding.place(x, first)

    def forward(self, prompt: Utterances, speech: Utterances, stage: Tensor) -> Tensor:
        """Predict one codebook of each example.

        Arguments
        ---------
        prompt : Utterances
            Utterances before those to speak, with codes (batch, frames, n_codebooks). A prompt may be the beginning of
            its utterance, without phonemes of its own.
        speech : Utterances
            The utterances to speak, at least 1 phoneme each, with codes (batch, frames, n_codebooks); those below the
            stage are read.
        stage : Tensor
            Which codebook to predict, counted from 0, so that it is 1 to n_codebooks - 1; integers (batch,).

        Returns
        -------
        Tensor
            Logits (batch, frames of the speech, codebook_size); values past the lengths are undefined.
        """
        said, spoken = prompt.phonemes.lengths, prompt.codes.lengths
        packing = Packing([
            Padded(self.phoneme_embedding(prompt.phonemes.values), said),
            Padded(self.phoneme_embedding(speech.phonemes.values, said), speech.phonemes.lengths),
            Padded(self._embed_codes(prompt.codes.values, None, 0), spoken),
            Padded(self._embed_codes(speech.codes.values, stage, spoken), speech.codes.lengths),
        ])  # fmt: skip
        text_time = prompt.phonemes.values.shape[1] + speech.phonemes.values.shape[1]
        x = self.backbone(*packing.whole, said + speech.phonemes.lengths, stage - 1, text_time=text_time)
        table = self.code_embedding.embedding.weight.unflatten(0, (self.n_codebooks, self.codebook_size))
        return packing.unpack(x, 3) @ table[stage].transpose(1, 2)

    @torch.no_grad()
    def complete(self, prompt: Utterances, speech: Utterances) -> tuple[Tensor, Tensor]:
        """Add the further codebooks, the likeliest token each, to the codes (batch, frames) of the first one. Returns
        tokens (batch, frames, n_codebooks), zero past each length, and whether some of an example's logits were not
        finite, booleans (batch,). The prompt is as in :meth:`forward`."""
        first, lengths = speech.codes
        codes = first.new_zeros(*first.shape, self.n_codebooks)
        codes[..., 0] = first
        broken = torch.zeros_like(lengths, dtype=torch.bool)
        for book in range(1, self.n_codebooks):
            logits = self(prompt, Utterances(speech.phonemes, Padded(codes, lengths)), torch.full_like(lengths, book))
            codes[..., book] = logits.argmax(-1)
            broken = broken | mask_frames(~logits.amax(-1).isfinite(), lengths).any(1)
        return mask_frames(codes, lengths), broken
