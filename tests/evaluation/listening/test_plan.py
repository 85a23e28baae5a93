"""Plans of listening tests: balance, chance and checks."""

from __future__ import annotations

from collections import Counter

import pytest

from speechbrain_mamba.evaluation.listening.plan import common_items, plan_sheets

ITEMS = [f"i{n}" for n in range(6)]
PAIRS = [("a", "b"), ("a", "c")]


def test_each_sheet_has_each_pair_for_each_of_its_items_and_its_checks():
    plan = plan_sheets(ITEMS, PAIRS, sheets=5, items_per_sheet=4, checks=2)
    for sheet in plan:
        trials = [trial for trial in sheet if not trial.is_check]
        found = Counter((trial.item, *sorted((trial.first, trial.second))) for trial in trials)
        assert len(sheet) == 10 and set(found.values()) == {1} and len(found) == 8
        assert len({trial.item for trial in trials}) == 4
        assert sum(trial.is_check for trial in sheet) == 2


def test_each_system_is_first_as_often_as_second_and_items_are_offered_equally():
    plan = plan_sheets(ITEMS, PAIRS, sheets=9, items_per_sheet=4, checks=0)
    trials = [trial for sheet in plan for trial in sheet]
    for first, second in PAIRS:
        assert Counter((t.first, t.second) for t in trials)[first, second] == 18 == len(trials) / 4
    assert set(Counter(trial.item for trial in trials).values()) == {12}


def test_the_order_is_drawn_for_each_sheet_by_the_seed():
    plan = plan_sheets(ITEMS, PAIRS, sheets=3)
    assert plan == plan_sheets(ITEMS, PAIRS, sheets=3) != plan_sheets(ITEMS, PAIRS, sheets=3, seed=1)
    orders = [[(t.item, *sorted((t.first, t.second))) for t in sheet] for sheet in plan]
    assert orders[0] != orders[1] != orders[2]


def test_items_in_common_are_those_that_all_have():
    assert common_items({"x": {"a": 1, "b": 1, "c": 1}, "y": {"c": 1, "a": 1}}) == ["a", "c"]
    with pytest.raises(ValueError, match="There is no text that all of x, y say"):
        common_items({"x": {"a": 1}, "y": {"b": 1}})
    with pytest.raises(ValueError, match="There are 1 systems"):
        common_items({"x": {"a": 1}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sheets": 0}, "sheets is 0, but must be at least 1"),
        ({"sheets": 1, "checks": -1}, "checks is -1"),
        ({"sheets": 1, "items_per_sheet": 7}, "items_per_sheet is 7, but all systems share 6 texts"),
    ],
)
def test_numbers_out_of_range_are_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        plan_sheets(ITEMS, PAIRS, **options)
