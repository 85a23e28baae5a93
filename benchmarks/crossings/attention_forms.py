"""Self-attention computed in two forms, with the same weights and results.

``explicit`` forms the matrix of attention weights, as the published models do. ``sdpa`` is PyTorch's
``scaled_dot_product_attention``, which does without it where a fused kernel serves the call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from speechbrain.nnet.attention import MultiheadAttention, RelPosMHAXL, RoPEMHA
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from speechbrain_mamba.nnet.attention import MultiHeadProjections

FORMS = ("explicit", "sdpa")


class FusedAttention(nn.Module):
    """SpeechBrain's ``MultiheadAttention``, which computes the weights for its caller to look at, without them.

    Arguments
    ---------
    original : MultiheadAttention
        The layer, whose parameters are used.
    """

    def __init__(self, original: MultiheadAttention) -> None:
        super().__init__()
        self.original = original

    def forward(self, *arguments: Any, **options: Any) -> tuple[Tensor, None]:
        """Run the layer; the arguments are those of the original one."""
        return self.original(*arguments, **{**options, "return_attn_weights": False}), None


class FusedRelativeAttention(nn.Module):
    """SpeechBrain's ``RelPosMHAXL`` by ``scaled_dot_product_attention``: what the positions add to the scores becomes
    its mask.

    Arguments
    ---------
    original : RelPosMHAXL
        The layer, whose parameters are used.
    """

    def __init__(self, original: RelPosMHAXL) -> None:
        super().__init__()
        self.original = original

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pos_embs: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        return_attn_weights: bool = True,
    ) -> Any:
        """Attend from a sequence (batch, time, channels) to itself.

        Raises
        ------
        ValueError
            For a query that is not the keys and values, or with a mask: models that see one whole sequence have none.
        """
        layer = self.original
        if query is not key or key is not value or attn_mask is not None or key_padding_mask is not None:
            raise ValueError("FusedRelativeAttention takes one sequence and no masks.")
        heads = (*query.shape[:2], layer.num_heads, 3 * layer.head_dim)
        q, k, v = F.linear(query, layer.in_proj_weight).view(heads).chunk(3, -1)
        if layer.vbias is not None:
            v = v + layer.value_bias_weight.view(layer.num_heads, layer.head_dim)
        positions = layer.linear_pos(pos_embs).unflatten(-1, (layer.num_heads, layer.head_dim))
        bias_u, bias_v = (b.view(layer.num_heads, layer.head_dim) for b in (layer.pos_bias_u, layer.pos_bias_v))
        by_position = ((q + bias_v) * layer.scale).transpose(1, 2) @ positions.permute(0, 2, 3, 1)
        q, k, v = (part.transpose(1, 2) for part in (q + bias_u, k, v))
        y = F.scaled_dot_product_attention(q, k, v, layer.rel_shift(by_position), scale=layer.scale)
        y = layer.out_proj(y.transpose(1, 2).flatten(2))
        return (y, None) if return_attn_weights else y


def fuse_attention(model: nn.Module) -> None:
    """Replace the attention layers of SpeechBrain in a model, in place, and drop no attention weights in training:
    PyTorch has no fused kernel on a CPU that does."""
    fused = {MultiheadAttention: FusedAttention, RelPosMHAXL: FusedRelativeAttention}
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) in fused and not isinstance(module, (FusedAttention, FusedRelativeAttention)):
                setattr(module, name, fused[type(child)](child))
        if isinstance(module, (nn.MultiheadAttention, RoPEMHA, MultiHeadProjections)):
            module.dropout = 0.0


@contextlib.contextmanager
def attention_form(model: nn.Module, form: str) -> Iterator[None]:
    """Compute the attention of a model in a form, until the context ends; ``sdpa`` changes the model for good.

    Raises
    ------
    ValueError
        For an unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"The form of attention is '{form}', but must be one of {', '.join(FORMS)}.")
    if form == "sdpa":
        fuse_attention(model)
        yield
    else:
        with sdpa_kernel(SDPBackend.MATH):
            yield
