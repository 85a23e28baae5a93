"""Drawing tokens."""

from __future__ import annotations

from typing import ClassVar

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


class TestSeedsOfExamples:
    """Samplers whose examples have random numbers of their own."""

    OPTIONS: ClassVar = {"top_p": 0.9, "repetition_window": 4, "repetition_ratio": 0.3}

    def run(self, logits, seeds, steps=300, **options) -> torch.Tensor:
        """The tokens (batch, steps) that are drawn from the same logits at each step."""
        sampler, history = TokenSampler(**{**self.OPTIONS, **options}).for_examples(seeds), torch.zeros(len(seeds), 0)
        for _ in range(steps):
            history = torch.cat([history, sampler(logits, history)[:, None]], 1)
        return history

    def test_an_example_is_drawn_alike_alone_and_in_any_batch(self):
        logits = torch.randn(3, 20)
        together = self.run(logits, [5, 6, 5])
        for example, seed in enumerate((5, 6, 5)):
            assert torch.equal(self.run(logits[example : example + 1], [seed])[0], together[example])
        same = self.run(logits[:1].expand(3, 20), [5, 6, 5])
        assert torch.equal(same[0], same[2]) and not torch.equal(same[0], same[1])

    def test_neither_global_numbers_nor_those_of_the_sampler_are_used(self):
        sampler, logits = TokenSampler(seed=3), torch.randn(1, 20)
        expected = [TokenSampler(seed=3)(logits).item() for _ in range(1)]
        torch.manual_seed(9)
        number = torch.rand(())
        torch.manual_seed(9)
        drawn = sampler.for_examples([1])(logits)
        assert torch.rand(()) == number
        torch.manual_seed(10)
        assert torch.equal(sampler.for_examples([1])(logits), drawn)
        assert sampler(logits).item() == expected[0]

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
            ({"temperature": 0}, [1, 0, 0, 0, 0]),
            ({"temperature": 0.5, "top_p": 0.8}, [0.8, 0.2, 0, 0, 0]),
            ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0, 0]),
        ],
    )
    def test_shares_are_those_of_the_distribution(self, options, expected):
        sampler = TokenSampler(**options).for_examples(range(len(LOGITS)))
        assert shares(sampler) == pytest.approx(expected, abs=0.03)

    def test_tokens_that_cannot_be_drawn_are_not_drawn_at_the_edges(self, monkeypatch):
        """The numbers 0 and just below 1, with the last and the first token ruled out."""
        logits = torch.tensor([[-torch.inf, 0.3, -0.2, -torch.inf]]).expand(2, 4)
        sampler = TokenSampler().for_examples([0, 0])
        edges = torch.tensor([[0.0], [1 - 2**-54]], dtype=torch.double)
        monkeypatch.setattr(sampler._examples, "draw", lambda device: edges)
        assert sampler(logits).tolist() == [1, 2]

    def test_another_number_of_examples_is_named(self):
        with pytest.raises(ValueError, match="There are 2 examples, but the sampler has seeds for 1"):
            TokenSampler().for_examples([1])(torch.zeros(2, 5))
