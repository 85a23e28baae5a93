"""Which sounds a listener compares, in which order."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KINDS = {"cmos": "comparison category rating, -3 to 3 (ITU-T P.800, annex E)", "ab": "preference for one of two"}
"""Kinds of tests."""


@dataclass(frozen=True)
class Trial:
    """Two sounds of the same text that are compared.

    Arguments
    ---------
    item : str
        What is said.
    first, second : str
        The systems, in the order in which they are offered. The same one twice checks the listener.
    """

    item: str
    first: str
    second: str

    @property
    def is_check(self) -> bool:
        """Whether both sounds are the same."""
        return self.first == self.second


def common_items(systems: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The items that every system said, in the order of the first one.

    Raises
    ------
    ValueError
        When there are fewer than two systems, or no such item.
    """
    if len(systems) < 2:
        raise ValueError(f"There are {len(systems)} systems, but at least two are compared.")
    first, *others = systems.values()
    found = [item for item in first if all(item in other for other in others)]
    if not found:
        raise ValueError(f"There is no text that all of {', '.join(systems)} say: give tests of the same texts.")
    return found


def plan_sheets(
    items: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    sheets: int,
    items_per_sheet: int | None = None,
    checks: int = 1,
    seed: int = 0,
) -> list[list[Trial]]:
    """Plan the sheets of a listening test.

    Each sheet has each pair of systems for each of its items. Which of two is offered first, and the order of the
    trials, are drawn for each sheet. Over all sheets each system of a pair is first as often as second, as far as
    numbers can be divided, and items are offered equally often.

    Arguments
    ---------
    items : sequence of str
        What all systems say.
    pairs : sequence of (str, str)
        The systems that are compared.
    sheets : int
        How many, one for each listener.
    items_per_sheet : int, optional
        Items of a sheet; all by default.
    checks : int
        Trials of a sheet with the same sound twice, which tell whether a listener pays attention.
    seed : int
        What all is drawn by.

    Raises
    ------
    ValueError
        When a number is out of range.

    Example
    -------
    >>> plan = plan_sheets(["a", "b"], [("old", "new")], sheets=2, checks=1)
    >>> trials = [trial for sheet in plan for trial in sheet if not trial.is_check]
    >>> [len(sheet) for sheet in plan], sum(trial.first == "old" for trial in trials)
    ([3, 3], 2)
    """
    count = len(items) if items_per_sheet is None else items_per_sheet
    for name, value, least in (("sheets", sheets, 1), ("items_per_sheet", count, 1), ("checks", checks, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}, but must be at least {least}.")
    if count > len(items):
        raise ValueError(f"items_per_sheet is {count}, but all systems share {len(items)} texts: give fewer.")
    source = random.Random(seed)
    supply: list[str] = []
    swapped = {pair: source.random() < 0.5 for pair in pairs}
    plan = []
    for _ in range(sheets):
        chosen: list[str] = []
        while len(chosen) < count:
            if not supply:
                supply = source.sample(list(items), len(items))
            # an item twice in a sheet is left for the next one
            place = next((i for i, item in enumerate(supply) if item not in chosen), None)
            if place is None:
                supply += source.sample(list(items), len(items))
                continue
            chosen.append(supply.pop(place))
        trials = []
        for first, second in pairs:
            for item in chosen:
                swapped[first, second] = not swapped[first, second]
                trials.append(Trial(item, second, first) if swapped[first, second] else Trial(item, first, second))
        systems = [system for pair in pairs for system in pair]
        for _ in range(checks):
            system = source.choice(systems)
            trials.append(Trial(source.choice(chosen), system, system))
        source.shuffle(trials)
        plan.append(trials)
    return plan
