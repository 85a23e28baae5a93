"""Random numbers by the place in a run."""

import random

import numpy as np
import pytest
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch.utils.data import DataLoader

from speechbrain_mamba.training.seeding import SeededDataset, seed_step

DRAWS = {"torch": lambda: float(torch.rand(())), "python": random.random, "numpy": np.random.rand}


def test_all_generators_follow_the_place():
    def drawn(*place):
        seed_step(*place)
        return [draw() for draw in DRAWS.values()]

    places = [(1, 2, 3, 0), (2, 2, 3, 0), (1, 3, 3, 0), (1, 2, 4, 0), (1, 2, 3, 1)]
    for numbers in zip(*(drawn(*place) for place in places)):
        assert len(set(numbers)) == len(places)
    assert drawn(*places[0]) == drawn(*places[0])


class Told(DynamicItemDataset):
    """Draws, and notes the epochs that it is told."""

    def __init__(self, draw):
        super().__init__({f"{i}": {"number": i} for i in range(6)}, output_keys=["drawn"])
        self.add_dynamic_item(lambda number: draw(), takes="number", provides="drawn")
        self.told = []

    def set_epoch(self, epoch):
        self.told.append(epoch)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_examples_depend_on_epoch_and_index_whoever_loads_them(draw):
    dataset = SeededDataset(Told(draw), seed=4)

    def drawn(epoch, workers=0, seed=4):
        dataset.seed = seed
        dataset.set_epoch(epoch)
        return [item["drawn"] for item in DataLoader(dataset, batch_size=None, num_workers=workers)]

    first = drawn(1)
    assert len({*first, *drawn(2), *drawn(1, seed=5)}) == 18
    assert first == drawn(1) == drawn(1, workers=2)
    assert dataset[3]["drawn"] == first[3]
    assert dataset.dataset.told == [1, 2, 1, 1, 1]
    assert len(dataset) == 6


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_random_numbers_of_others_go_on(draw):
    dataset = SeededDataset(Told(draw), seed=4)
    seed_step(0)
    expected = [draw(), draw()]
    seed_step(0)
    first = draw()
    dataset[0]
    assert [first, draw()] == expected
