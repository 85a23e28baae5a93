"""Drawing tokens."""

from __future__ import annotations

import pytest
import torch

from speechbrain_mamba.decoders.sampling import TokenSampler

PROBABILITIES = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])
ORDERS = torch.tensor([[0, 1, 2, 3, 4], [3, 0, 4, 1, 2], [4, 2, 1, 0, 3]])  # where the likeliest is, and so on
LOGITS = torch.zeros(3, 5).scatter(1, ORDERS, PROBABILITIES.log().expand(3, 5)).repeat(4000, 1)


def shares(sampler: TokenSampler, **options) -> list[float]:
    """How often the likeliest token is drawn, the next one, and so on, by examples that differ in which these are."""
    ranks = ORDERS.argsort(1).repeat(4000, 1)
    drawn = ranks.gather(1, sampler(LOGITS, **options)[:, None]).view(4000, 3)
    each = torch.stack([torch.bincount(drawn[:, i], minlength=5) for i in range(3)]) / 4000
    torch.testing.assert_close(each, each.mean(0).expand(3, 5), atol=0.04, rtol=0)
    return each.mean(0).tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        ({"temperature": 0}, [1, 0, 0, 0, 0]),
        ({"temperature": 0.5}, [0.733, 0.183, 0.046, 0.011, 0.011]),
        ({"temperature": 2}, [0.366, 0.259, 0.183, 0.129, 0.129]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_k": 3}, [4 / 7, 2 / 7, 1 / 7, 0, 0]),
        ({"top_k": 9}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        ({"top_p": 0.6}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_p": 0.8}, [4 / 7, 2 / 7, 1 / 7, 0, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"temperature": 0.5, "top_p": 0.8}, [0.8, 0.2, 0, 0, 0]),
    ],
)
def test_shares_are_those_of_the_distribution(options, expected):
    assert shares(TokenSampler(seed=0, **options)) == pytest.approx(expected, abs=0.03)


def test_the_token_that_reaches_top_p_exactly_is_the_last_one():
    assert len(TokenSampler(top_p=0.5, seed=0)(torch.zeros(200, 2)).unique()) == 1


def test_a_token_drawn_too_often_is_drawn_again_from_all():
    likeliest, other = ORDERS[:, :1].repeat(4000, 1), ORDERS[:, 1:2].repeat(4000, 1)
    sampler = TokenSampler(top_k=1, repetition_window=4, repetition_ratio=0.5, seed=0)
    assert shares(sampler) == shares(sampler, history=likeliest[:, :0]) == [1, 0, 0, 0, 0]
    history = torch.cat([other.expand(-1, 6), likeliest.expand(-1, 3), other], 1)
    assert shares(sampler, history=history) == pytest.approx(PROBABILITIES.tolist(), abs=0.03)
    history = torch.cat([likeliest.expand(-1, 6), other.expand(-1, 2), likeliest.expand(-1, 2)], 1)
    assert shares(sampler, history=history) == [1, 0, 0, 0, 0]  # no more than the half of the last four
    never = TokenSampler(top_k=1, seed=0)
    assert shares(never, history=likeliest.expand(-1, 9)) == [1, 0, 0, 0, 0]
    default = TokenSampler(top_k=1, repetition_window=10, seed=0)
    assert shares(default, history=torch.cat([likeliest, other.expand(-1, 9)], 1)) == [1, 0, 0, 0, 0]
    history = torch.cat([likeliest.expand(-1, 2), other.expand(-1, 8)], 1)
    assert shares(default, history=history) == pytest.approx(PROBABILITIES.tolist(), abs=0.03)


def test_an_example_is_drawn_alike_whatever_the_others_are():
    history = torch.full((2, 5), 4)
    histories = [history, torch.stack([history[0], torch.tensor([3, 3, 3, 3, 3])])]
    drawn = []
    for given in histories:
        sampler = TokenSampler(repetition_window=5, seed=3)
        drawn.append([sampler(LOGITS[[0, 1]], history=given)[0].item() for _ in range(30)])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 2


def test_without_a_seed_the_global_numbers_are_used():
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(TokenSampler()(LOGITS).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_seed_gives_the_same_tokens_again():
    sampler = TokenSampler(seed=7)
    first = [sampler(LOGITS) for _ in range(2)]
    assert not torch.equal(*first)
    sampler.restart()
    assert torch.equal(sampler(LOGITS), first[0])
    assert torch.equal(TokenSampler(seed=7)(LOGITS), first[0])
    assert not torch.equal(TokenSampler(seed=8)(LOGITS), first[0])


@pytest.mark.parametrize(
    "options", [{"temperature": -0.1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.01}, {"repetition_window": -1}]
)
def test_values_out_of_range_are_named(options):
    with pytest.raises(ValueError, match="must be at least 0"):
        TokenSampler(**options)


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("values", [[float("nan"), 1], [float("inf"), 1], [float("-inf")] * 2])
def test_logits_that_are_not_finite_are_named(values, temperature):
    logits = torch.tensor([[0, -torch.inf], values, values])
    with pytest.raises(ValueError, match=r"of 2 of 3 examples, such as number 1, are not finite"):
        TokenSampler(temperature=temperature)(logits)
