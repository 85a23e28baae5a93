"""The first codebook of speech, token by token, from phonemes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.vall_e.backbone import CodecLanguageBackbone
from speechbrain_mamba.lobes.models.vall_e.embeddings import TokenEmbedding
from speechbrain_mamba.lobes.models.vall_e.packing import Packing


class AutoregressiveCodecLM(nn.Module):
    """Predicts each token of the first codebook from the phonemes and the tokens before it (VALL-E, arXiv 2301.02111,
    section 4.2.1).

    Arguments
    ---------
    n_phonemes : int
        Size of the phoneme inventory.
    codebook_size : int
        Entries of a codebook. The end of speech is one more token, and so is its beginning.
    backbone : str
        ``transformer``, ``mamba`` or ``hybrid``, as in
        :class:`~speechbrain_mamba.lobes.models.vall_e.backbone.CodecLanguageBackbone`.
    num_layers, d_model, d_ffn, nhead, dropout, mamba_config, attention_interval
        As there.

    Raises
    ------
    ValueError
        As there.

    Example
    -------
    >>> lm = AutoregressiveCodecLM(40, 64, "mamba", num_layers=2, d_model=8, d_ffn=16)
    >>> phonemes, codes = torch.randint(40, (2, 6)), torch.randint(64, (2, 20))
    >>> lm(phonemes, torch.tensor([6, 4]), codes, torch.tensor([20, 15])).shape
    torch.Size([2, 21, 65])
    """

    def __init__(
        self,
        n_phonemes,
        codebook_size,
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
        self.n_phonemes, self.codebook_size = n_phonemes, codebook_size
        self.eos_index, self.bos_index = codebook_size, codebook_size + 1
        positions = backbone != "mamba"  # a scan knows the order by itself
        self.phoneme_embedding = TokenEmbedding(n_phonemes, d_model, positions, dropout)
        self.code_embedding = TokenEmbedding(codebook_size + 2, d_model, positions, dropout)
        self.backbone = CodecLanguageBackbone(
            backbone,
            num_layers,
            d_model,
            d_ffn,
            nhead,
            causal=True,
            dropout=dropout,
            mamba_config=mamba_config,
            attention_interval=attention_interval,
        )
        self.head = nn.Linear(d_model, codebook_size + 1)

    def _encode(self, phonemes: Tensor, phoneme_lengths: Tensor, codes: Tensor, code_lengths: Tensor, **options):
        """Pack phonemes, the beginning of speech and codes, and run the backbone; returns the packing too."""
        speech = torch.cat([codes.new_full((codes.shape[0], 1), self.bos_index), codes], 1)
        packing = Packing([phoneme_lengths, code_lengths + 1], [phonemes.shape[1], speech.shape[1]])
        x = packing.pack([self.phoneme_embedding(phonemes), self.code_embedding(speech)])
        return self.backbone(x, packing.lengths, phoneme_lengths, phonemes.shape[1], **options), packing

    def forward(self, phonemes, phoneme_lengths, codes, code_lengths):
        """Predict every token and the end, each from the right ones before it.

        Arguments
        ---------
        phonemes : Tensor
            Phonemes, integers (batch, phonemes); any below ``n_phonemes`` in the padding.
        phoneme_lengths : Tensor
            How many are valid, at least 1, integers (batch,).
        codes : Tensor
            Tokens of the first codebook, integers (batch, frames); any below ``codebook_size`` in the padding.
        code_lengths : Tensor
            How many are valid, integers (batch,).

        Returns
        -------
        Tensor
            Logits (batch, frames + 1, codebook_size + 1): those of frame t are for token t, and for the end of speech,
            token ``eos_index``, at the length of each example. Past that they are meaningless.
        """
        x, packing = self._encode(phonemes, phoneme_lengths, codes, code_lengths)
        return self.head(packing.unpack(x, 1))

    def start(self, phonemes, phoneme_lengths, codes, code_lengths):
        """Take in phonemes and the tokens of a prompt, to go on from there.

        Arguments
        ---------
        phonemes, phoneme_lengths, codes, code_lengths
            As in :meth:`forward`; there may be no codes.

        Returns
        -------
        logits : Tensor
            Logits of the next token (batch, codebook_size + 1).
        state : dict
            State for :meth:`step`.
        """
        options = {"return_state": True}
        (x, layers), packing = self._encode(phonemes, phoneme_lengths, codes, code_lengths, **options)
        last = x[torch.arange(x.shape[0], device=x.device), packing.lengths - 1]
        return self.head(last), {"layers": layers, "position": code_lengths + 1}

    def step(self, tokens, state):
        """Feed one token.

        Arguments
        ---------
        tokens : Tensor
            Tokens, integers (batch,).
        state : dict
            State before them, of :meth:`start` or an earlier call; it is used up.

        Returns
        -------
        logits : Tensor
            Logits of the next token (batch, codebook_size + 1).
        state : dict
            State after them.
        """
        x = self.code_embedding(tokens[:, None], state["position"])[:, 0]
        x, layers = self.backbone.step(x, state["layers"])
        return self.head(x), {"layers": layers, "position": state["position"] + 1}
