"""The first codebook of speech, token by token, from phonemes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.synthesis.backbone import CodecLanguageBackbone
from speechbrain_mamba.lobes.models.synthesis.embeddings import TokenEmbedding
from speechbrain_mamba.lobes.models.synthesis.packing import Packing, split_at

PROMPT_ORDERS = ("joint", "interleaved")


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
        :class:`~speechbrain_mamba.lobes.models.synthesis.backbone.CodecLanguageBackbone`.
    num_layers, d_model, d_ffn, nhead, dropout, mamba_config, attention_interval
        As there.
    prompt_order : str
        ``joint``, all phonemes before all speech, as in VALL-E; or ``interleaved``: phonemes and speech of the prompt,
        then phonemes and speech of what comes after it. A scan, which has to keep its place in the text, then need not
        go through the prompt's again. For the backbone ``mamba`` only.
    positions : bool, optional
        Whether to add sinusoidal positions to phonemes and to codes, each counted from the beginning of its part; by
        default where the backbone attends. A scan knows the order by itself, but small ones keep their place in a
        longer text better with them.

    Raises
    ------
    ValueError
        As there, and for another ``prompt_order`` or one that the backbone cannot have.

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
        prompt_order="joint",
        positions=None,
    ):
        super().__init__()
        if prompt_order not in PROMPT_ORDERS:
            raise ValueError(f"prompt_order is '{prompt_order}', but must be one of {', '.join(PROMPT_ORDERS)}.")
        if prompt_order == "interleaved" and backbone != "mamba":
            raise ValueError(
                f"prompt_order is 'interleaved', but the backbone '{backbone}' attends to text that has to be in one "
                "piece: use 'joint', or the backbone 'mamba'."
            )
        self.prompt_order = prompt_order
        self.n_phonemes, self.codebook_size = n_phonemes, codebook_size
        self.eos_index, self.bos_index = codebook_size, codebook_size + 1
        positions = backbone != "mamba" if positions is None else positions
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

    def _begin(self, codes: Tensor) -> Tensor:
        """Codes (batch, frames) with the beginning of speech in front."""
        return F.pad(codes, (1, 0), value=self.bos_index)

    def _encode(self, phonemes, phoneme_lengths, codes, code_lengths, prompt, **options):
        """Run the backbone over phonemes, the beginning of speech and codes; returns what packed them too."""
        if self.prompt_order == "interleaved":
            said, spoken = (torch.zeros_like(code_lengths),) * 2 if prompt is None else prompt
            texts, speeches = split_at(phonemes, said), split_at(codes, spoken)
            sequences = [part for pair in zip(texts, map(self._begin, speeches)) for part in pair]
            lengths = [said, spoken + (spoken > 0), phoneme_lengths - said, code_lengths - spoken + 1]
        else:
            sequences, lengths = [phonemes, self._begin(codes)], [phoneme_lengths, code_lengths + 1]
        packing = Packing(lengths, [part.shape[1] for part in sequences])
        tables = [self.phoneme_embedding, self.code_embedding] * (len(sequences) // 2)
        x = packing.pack([table(part) for table, part in zip(tables, sequences)])
        return self.backbone(x, packing.lengths, phoneme_lengths, phonemes.shape[1], **options), packing

    def forward(self, phonemes, phoneme_lengths, codes, code_lengths, prompt=None):
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
        prompt : tuple of Tensors, optional
            How many of the phonemes and how many of the codes are the prompt's, the first ones, integers (batch,) each;
            none by default. It matters in the order ``interleaved`` only.

        Returns
        -------
        Tensor
            Logits (batch, frames + 1, codebook_size + 1): those of frame t are for token t, and for the end of speech,
            token ``eos_index``, at the length of each example. Past that they are meaningless.
        """
        x, packing = self._encode(phonemes, phoneme_lengths, codes, code_lengths, prompt)
        if self.prompt_order == "joint":
            return self.head(packing.unpack(x, 1))
        first, second = packing.unpack(x, 1), packing.unpack(x, 3)  # frames of the prompt, and those after it
        spoken = torch.zeros_like(code_lengths) if prompt is None else prompt[1]
        frames = Packing([spoken, code_lengths - spoken + 1], [first.shape[1], second.shape[1]]).pack([first, second])
        return self.head(F.pad(frames, (0, 0, 0, codes.shape[1] + 1 - frames.shape[1])))

    def start(self, phonemes, phoneme_lengths, codes, code_lengths, prompt=None):
        """Take in phonemes and the tokens of a prompt, to go on from there.

        Arguments
        ---------
        phonemes, phoneme_lengths, codes, code_lengths, prompt
            As in :meth:`forward`; there may be no codes.

        Returns
        -------
        logits : Tensor
            Logits of the next token (batch, codebook_size + 1).
        state : dict
            State for :meth:`step`.
        """
        inputs = phonemes, phoneme_lengths, codes, code_lengths, prompt
        (x, layers), packing = self._encode(*inputs, return_state=True)
        last = x[torch.arange(x.shape[0], device=x.device), packing.lengths - 1]
        return self.head(last), {"layers": layers, "position": packing.part_lengths[-1]}

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
