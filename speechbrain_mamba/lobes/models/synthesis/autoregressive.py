"""The first codebook of speech, token by token, from phonemes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.lobes.models.synthesis.backbone import CodecLanguageBackbone, has_attention
from speechbrain_mamba.lobes.models.synthesis.embeddings import TokenEmbedding
from speechbrain_mamba.lobes.models.synthesis.packing import Packing
from speechbrain_mamba.nnet.few_rows import linear_step
from speechbrain_mamba.ops import few_rows_linear

PROMPT_ORDERS = ("joint", "interleaved")


class AutoregressiveCodecLM(nn.Module):
    """Predicts each token of the first codebook from the phonemes and the earlier tokens (VALL-E, arXiv 2301.02111,
    section 4.2.1).

    Arguments
    ---------
    n_phonemes, codebook_size : int
        Numbers of phonemes, and of entries of a codebook. The end of speech is one more token, and so is its beginning.
    backbone, d_model, dropout, **sizes
        As in :class:`~speechbrain_mamba.lobes.models.synthesis.backbone.CodecLanguageBackbone`.
    prompt_order : str
        ``joint``, all phonemes before all codes, as in VALL-E; or ``interleaved``: phonemes and codes of the prompt,
        then phonemes and codes of the speech. A scan has to keep its place in the text; with this order it need not
        pass the prompt's text again. Attention sees each text whole, and of what is not text the past.
    positions : bool, optional
        Whether to add sinusoidal positions to phonemes and to codes, each counted from the beginning of its part. By
        default they are added if the backbone attends. A scan knows the order without them, but small models keep
        their place in a longer text better with them.
    tied_head : bool
        Whether the weights that predict codes are those that embed them, without a bias, as in VALL-E. The beginning of
        speech is embedded only, so its row is not used for predictions.

    Raises
    ------
    ValueError
        As there, and for an unknown ``prompt_order``.

    Example
    -------
    >>> lm = AutoregressiveCodecLM(40, 64, "mamba", num_layers=2, d_model=8, d_ffn=16)
    >>> phonemes = Padded(torch.randint(40, (2, 6)), torch.tensor([6, 4]))
    >>> speech = Utterances(phonemes, Padded(torch.randint(64, (2, 20)), torch.tensor([20, 15])))
    >>> prompt_logits, logits = lm(speech.emptied(), speech)
    >>> prompt_logits.shape, logits.shape
    (torch.Size([2, 0, 65]), torch.Size([2, 21, 65]))
    """

    def __init__(
        self,
        n_phonemes: int,
        codebook_size: int,
        backbone: str = "transformer",
        *,
        d_model: int = 1024,
        dropout: float = 0.1,
        prompt_order: str = "joint",
        positions: bool | None = None,
        tied_head: bool = False,
        **sizes: Any,
    ) -> None:
        super().__init__()
        if prompt_order not in PROMPT_ORDERS:
            raise ValueError(f"prompt_order is '{prompt_order}', but must be one of {', '.join(PROMPT_ORDERS)}.")
        attends = has_attention(backbone, **sizes)
        self.prompt_order = prompt_order
        self._prompt_part = 2 if prompt_order == "joint" else 1
        self.n_phonemes, self.codebook_size = n_phonemes, codebook_size
        self.eos_index, self.bos_index = codebook_size, codebook_size + 1
        with_positions = attends if positions is None else positions
        self.phoneme_embedding = TokenEmbedding(n_phonemes, d_model, with_positions, dropout)
        self.code_embedding = TokenEmbedding(codebook_size + 2, d_model, with_positions, dropout)
        self.backbone = CodecLanguageBackbone(backbone, d_model=d_model, dropout=dropout, **sizes)
        self.head = None if tied_head else nn.Linear(d_model, codebook_size + 1)

    def _predict(self, x: Tensor) -> Tensor:
        """Logits (..., codebook_size + 1) from the backbone's output (..., d_model)."""
        if self.head is not None:
            return self.head(x)
        return F.linear(x, self.code_embedding.embedding.weight[: self.bos_index])

    def _predict_next(self, x: Tensor) -> Tensor:
        """The same for one frame, (batch, d_model)."""
        if self.head is not None:
            return linear_step(self.head, x)
        return few_rows_linear(x, self.code_embedding.embedding.weight[: self.bos_index])

    def _encode(self, prompt: Utterances, speech: Utterances, **options: bool) -> tuple[Any, Packing]:
        """Run the backbone over prompt and speech; returns its output and what packed them.

        The codes of each part are the tokens before those that are predicted. Part 3 is the speech, and part
        ``self._prompt_part`` the prompt.
        """
        joint, said, spoken = self.prompt_order == "joint", prompt.phonemes.lengths, prompt.codes.lengths
        history = F.pad(prompt.codes.values, (1, 0), value=self.bos_index)
        # joint: the speech follows the last token of the prompt; interleaved: it begins again
        before = history.gather(1, spoken[:, None]) if joint else torch.full_like(spoken, self.bos_index)[:, None]
        prompt_text = Padded(self.phoneme_embedding(prompt.phonemes.values), said)
        prompt_sound = Padded(self.code_embedding(history), spoken if joint else spoken + (spoken > 0))
        text = Padded(self.phoneme_embedding(speech.phonemes.values, said if joint else 0), speech.phonemes.lengths)
        tokens = torch.cat([before, speech.codes.values], 1)
        sound = Padded(self.code_embedding(tokens, spoken if joint else 0), speech.codes.lengths + 1)
        order = [prompt_text, text, prompt_sound, sound] if joint else [prompt_text, prompt_sound, text, sound]
        packing = Packing(order)
        # joint: one text in front of all; interleaved: two, each seen whole by what follows
        blocks = said + speech.phonemes.lengths if joint else packing.mark([1, 0, 2, 0])
        text_time = prompt_text.values.shape[1] + text.values.shape[1]
        return self.backbone(*packing.whole, blocks, text_time=text_time, **options), packing

    def forward(self, prompt: Utterances, speech: Utterances) -> tuple[Tensor, Tensor]:
        """Predict every token and the end, each from the right ones before it.

        Arguments
        ---------
        prompt : Utterances
            Utterances before those to speak, whose codes (batch, frames) are of the first codebook; of any length, 0
            included.
        speech : Utterances
            The utterances to speak, which have at least 1 phoneme.

        Returns
        -------
        prompt_logits : Tensor
            Logits (batch, frames of the prompt, codebook_size + 1): those of frame t are for token t.
        logits : Tensor
            Logits (batch, frames of the speech + 1, codebook_size + 1), likewise, and at the length of each example
            those for the end of speech, token ``eos_index``. Values past that are undefined.
        """
        x, packing = self._encode(prompt, speech)
        prompt_x = packing.unpack(x, self._prompt_part)[:, : prompt.codes.values.shape[1]]
        return self._predict(prompt_x), self._predict(packing.unpack(x, 3))

    def start(self, prompt: Utterances, phonemes: Padded) -> tuple[Tensor, dict[str, Any]]:
        """Read a prompt as in :meth:`forward`, and the phonemes of the text to speak, at least 1, integers (batch,
        phonemes). Returns the logits of the first token (batch, codebook_size + 1) and the state for :meth:`step`."""
        speech = Utterances(phonemes, prompt.emptied().codes)
        (x, layers), packing = self._encode(prompt, speech, return_state=True)
        last = x[torch.arange(x.shape[0], device=x.device), packing.whole.lengths - 1]
        read = prompt.codes.lengths if self.prompt_order == "joint" else torch.zeros_like(prompt.codes.lengths)
        return self._predict(last), {"layers": layers, "position": read + 1}

    def step(self, tokens: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Feed one token of each example, integers (batch,), from a state returned by :meth:`start` or an earlier call.
        Returns the logits of the next token (batch, codebook_size + 1) and the state after it, which reuses the buffers
        of the given one; discard that."""
        x = self.code_embedding(tokens[:, None], state["position"])[:, 0]
        x, layers = self.backbone.step(x, state["layers"])
        return self._predict_next(x), {"layers": layers, "position": state["position"] + 1}
