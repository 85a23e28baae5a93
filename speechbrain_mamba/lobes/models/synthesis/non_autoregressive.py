"""The further codebooks of speech, each at once from the ones before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.synthesis.backbone import CodecLanguageBackbone
from speechbrain_mamba.lobes.models.synthesis.embeddings import TokenEmbedding
from speechbrain_mamba.lobes.models.synthesis.packing import Packing


class NonAutoregressiveCodecLM(nn.Module):
    """Predicts codebook 2 and up, all frames at once, from the phonemes, a prompt with all codebooks and the sum of the
    codebooks below (VALL-E, arXiv 2301.02111, section 4.2.2).

    The weights that predict a codebook are those that embed it.

    Arguments
    ---------
    n_phonemes : int
        Size of the phoneme inventory.
    codebook_size : int
        Entries of a codebook.
    n_codebooks : int
        Number of codebooks, at least 2.
    backbone, num_layers, d_model, d_ffn, nhead, dropout, mamba_config, attention_interval
        As in :class:`~speechbrain_mamba.lobes.models.synthesis.backbone.CodecLanguageBackbone`; it sees everything.

    Raises
    ------
    ValueError
        For fewer than 2 codebooks, and as there.

    Example
    -------
    >>> lm = NonAutoregressiveCodecLM(40, 64, 4, "mamba", num_layers=2, d_model=8, d_ffn=16)
    >>> phonemes, prompt, codes = torch.randint(40, (2, 6)), torch.randint(64, (2, 7, 4)), torch.randint(64, (2, 20, 4))
    >>> lengths = torch.tensor([6, 4]), torch.tensor([7, 5]), torch.tensor([20, 15])
    >>> lm(phonemes, lengths[0], prompt, lengths[1], codes, lengths[2], stage=torch.tensor([1, 3])).shape
    torch.Size([2, 20, 64])
    """

    def __init__(
        self,
        n_phonemes,
        codebook_size,
        n_codebooks=8,
        backbone="transformer",
        num_layers=12,
        d_model=1024,
        d_ffn=4096,
        nhead=16,
        dropout=0.1,
        mamba_config=None,
        attention_interval=4,
    ):
        super().__init__()
        if n_codebooks < 2:
            raise ValueError(f"n_codebooks is {n_codebooks}, but with fewer than 2 there is nothing to predict.")
        self.n_phonemes, self.codebook_size, self.n_codebooks = n_phonemes, codebook_size, n_codebooks
        positions = backbone != "mamba"
        self.phoneme_embedding = TokenEmbedding(n_phonemes, d_model, positions, dropout)
        # one table for all codebooks, one after the other
        self.code_embedding = TokenEmbedding(n_codebooks * codebook_size, d_model, positions, dropout)
        self.backbone = CodecLanguageBackbone(
            backbone,
            num_layers,
            d_model,
            d_ffn,
            nhead,
            causal=False,
            dropout=dropout,
            mamba_config=mamba_config,
            attention_interval=attention_interval,
            n_stages=n_codebooks - 1,
        )

    def _embed_codes(self, codes: Tensor, stage: Tensor | None, first: Tensor | int) -> Tensor:
        """The sum of the codebooks' embeddings, below each example's stage where there is one."""
        offsets = torch.arange(self.n_codebooks, device=codes.device) * self.codebook_size
        below = None if stage is None else torch.arange(self.n_codebooks, device=codes.device) < stage[:, None]
        x = 0
        for book in range(self.n_codebooks):  # one after the other, for the sake of memory
            part = self.code_embedding.embedding(codes[..., book] + offsets[book])
            x = x + (part if below is None else part * below[:, book, None, None])
        return self.code_embedding.place(x, first)

    def forward(self, phonemes, phoneme_lengths, prompt_codes, prompt_lengths, codes, code_lengths, stage):
        """Predict one codebook of each example.

        Arguments
        ---------
        phonemes : Tensor
            Phonemes of prompt and speech, integers (batch, phonemes); any below ``n_phonemes`` in the padding.
        phoneme_lengths : Tensor
            How many are valid, at least 1, integers (batch,).
        prompt_codes : Tensor
            Tokens of the prompt, integers (batch, prompt frames, n_codebooks).
        prompt_lengths : Tensor
            How many of its frames are valid, integers (batch,).
        codes : Tensor
            Tokens of the speech, integers (batch, frames, n_codebooks), of which those below the stage are looked at.
        code_lengths : Tensor
            How many frames are valid, integers (batch,).
        stage : Tensor
            Which codebook to predict, counted from 0, so that it is 1 to n_codebooks - 1; integers (batch,).

        Returns
        -------
        Tensor
            Logits (batch, frames, codebook_size); past the length meaningless.
        """
        packing = Packing(
            [phoneme_lengths, prompt_lengths, code_lengths], [phonemes.shape[1], prompt_codes.shape[1], codes.shape[1]]
        )
        parts = [
            self.phoneme_embedding(phonemes),
            self._embed_codes(prompt_codes, None, 0),
            self._embed_codes(codes, stage, prompt_lengths),
        ]
        x = packing.pack(parts)
        x = packing.unpack(self.backbone(x, packing.lengths, phoneme_lengths, phonemes.shape[1], stage - 1), 2)
        table = self.code_embedding.embedding.weight.unflatten(0, (self.n_codebooks, self.codebook_size))
        return x @ table[stage].transpose(1, 2)

    @torch.no_grad()
    def complete(self, phonemes, phoneme_lengths, prompt_codes, prompt_lengths, first_codes, code_lengths):
        """Add the further codebooks to the first one, the likeliest token each.

        Arguments
        ---------
        phonemes, phoneme_lengths, prompt_codes, prompt_lengths, code_lengths
            As in :meth:`forward`.
        first_codes : Tensor
            Tokens of the first codebook, integers (batch, frames).

        Returns
        -------
        Tensor
            Tokens (batch, frames, n_codebooks), zero past each length.
        """
        codes = first_codes.new_zeros(*first_codes.shape, self.n_codebooks)
        codes[..., 0] = first_codes
        for book in range(1, self.n_codebooks):
            stage = torch.full_like(code_lengths, book)
            logits = self(phonemes, phoneme_lengths, prompt_codes, prompt_lengths, codes, code_lengths, stage)
            codes[..., book] = logits.argmax(-1)
        valid = torch.arange(codes.shape[1], device=codes.device) < code_lengths[:, None]
        return codes.masked_fill(~valid[..., None], 0)
