"""Drawing tokens."""

from __future__ import annotations

import pytest
import torch

from speechbrain_mamba.decoders.sampling import TokenSampler

LOGITS = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).log().expand(4000, 5)


def shares(sampler: TokenSampler, **options) -> list[float]:
    """How often each token is drawn."""
    return (torch.bincount(sampler(LOGITS, **options), minlength=5) / len(LOGITS)).tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        ({"temperature": 0}, [1, 0, 0, 0, 0]),
        ({"temperature": 0.5}, [0.727, 0.182, 0.045, 0.011, 0.011]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_k": 9}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        ({"top_p": 0.6}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [2 / 3, 1 / 3, 0, 0, 0]),
    ],
)
def test_shares_are_those_of_the_distribution(options, expected):
    assert shares(TokenSampler(seed=0, **options)) == pytest.approx(expected, abs=0.03)


def test_a_token_drawn_too_often_is_drawn_again_from_all():
    history = torch.zeros(len(LOGITS), 10, dtype=torch.long)
    sampler = TokenSampler(top_k=1, repetition_window=5, repetition_ratio=0.5, seed=0)
    assert shares(sampler, history=history) == pytest.approx([0.5, 0.25, 0.125, 0.0625, 0.0625], abs=0.03)
    history[:, -3:] = 1
    assert shares(sampler, history=history) == [1, 0, 0, 0, 0]


def test_a_seed_gives_the_same_tokens_again():
    sampler = TokenSampler(seed=7)
    first = [sampler(LOGITS) for _ in range(2)]
    assert not torch.equal(*first)
    sampler.restart()
    assert torch.equal(sampler(LOGITS), first[0])
    assert torch.equal(TokenSampler(seed=7)(LOGITS), first[0])


@pytest.mark.parametrize("options", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"repetition_window": -1}])
def test_values_out_of_range_are_named(options):
    with pytest.raises(ValueError, match="must be at least 0"):
        TokenSampler(**options)
