"""Embeddings, norms and layers of codec language models."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from speechbrain_mamba.lobes.models.synthesis.backbone import (
    AdaptiveLayerNorm,
    CodecLanguageBackbone,
    CodecLanguageLayer,
)
from speechbrain_mamba.lobes.models.synthesis.embeddings import TokenEmbedding
from speechbrain_mamba.nnet.mamba import Mamba


def test_positions_of_vectors_start_where_they_are_told():
    """Channels of sines, then of cosines, at 1 and 0.01 radians per step; at first of the size of the embeddings."""
    embedding = TokenEmbedding(1000, 4)
    assert embedding.embedding.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert embedding.embedding.weight.mean().item() == pytest.approx(0, abs=0.05)
    x, first = torch.zeros(2, 3, 4), torch.tensor([0, 7])
    expected = torch.stack([first[:, None] + torch.arange(3), (first[:, None] + torch.arange(3)) / 100], 2)
    expected = 0.5 * torch.cat([expected.sin(), expected.cos()], 2)
    torch.testing.assert_close(embedding.place(x, first), expected)
    torch.testing.assert_close(embedding.place(x, 7)[0], expected[1])
    torch.testing.assert_close(embedding.place(x)[1], expected[0])
    tokens = torch.tensor([[4, 5], [999, 0]])
    added = embedding(tokens, first) - embedding.embedding.weight[tokens]
    torch.testing.assert_close(added, expected[:, :2])
    plain = TokenEmbedding(9, 4, positions=False)
    assert torch.equal(plain(tokens % 9, first), plain.embedding.weight[tokens % 9])


def test_norms_of_stages_are_plain_at_first():
    norm, x = AdaptiveLayerNorm(8, n_stages=3), torch.randn(2, 5, 8)
    for stage in range(3):
        torch.testing.assert_close(norm(x, torch.tensor([stage, 0])), F.layer_norm(x, (8,)))
    assert [(name, tuple(p.shape)) for name, p in norm.named_parameters()] == [("scale", (3, 8)), ("shift", (3, 8))]
    assert len(list(AdaptiveLayerNorm(8).parameters())) == 2


def test_all_branches_of_a_layer_and_all_embeddings_can_be_dropped():
    layer = CodecLanguageLayer(Mamba(8), 8, 16, dropout=1.0)
    x, lengths = torch.randn(2, 5, 8), torch.tensor([5, 3])
    assert torch.equal(layer(x, lengths, lengths, 5)[0], x)
    assert not torch.equal(layer.eval()(x, lengths, lengths, 5)[0], x)
    embedding = TokenEmbedding(10, 8, dropout=1.0)
    assert not embedding(torch.tensor([[1, 2]])).any()
    assert embedding.eval()(torch.tensor([[1, 2]])).all()


def test_defaults_of_a_stack_are_those_it_says():
    """In training, so that dropout would show."""
    x, lengths = torch.randn(2, 6, 32), torch.tensor([6, 4])

    def run(**options):
        torch.manual_seed(0)
        return CodecLanguageBackbone("hybrid", 5, 32, 8, **options)(x, lengths, lengths - 3)

    said = {"nhead": 16, "causal": True, "dropout": 0.0, "mamba_config": {}, "attention_interval": 4, "n_stages": 0}
    assert torch.equal(run(), run(**said))
    for other in ({"nhead": 8}, {"causal": False}, {"dropout": 0.5}, {"attention_interval": 3}):
        assert not torch.equal(run(), run(**said | other))
