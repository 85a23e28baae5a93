"""Mixtures on the fly."""

import copy

import pytest
import torch
from speechbrain.dataio.dataloader import make_dataloader

from speechbrain_mamba.dataio.dynamic_mixing import dynamic_mixtures
from speechbrain_mamba.dataio.mixing import MixtureSampler
from speechbrain_mamba.dataio.utterances import write_utterances


def test_dynamic_mixtures_are_the_same_in_workers_and_follow_the_epoch(tmp_path, utterances):
    write_utterances(tmp_path / "train_utterances.csv", utterances, 8000)
    dataset = dynamic_mixtures(tmp_path / "train_utterances.csv", 6, 2, 8000, (0.3, 0.6), seed=5)
    here = dynamic_mixtures(utterances, 6, 2, 8000, (0.3, 0.6), seed=5)
    loader = make_dataloader(dataset, batch_size=1, num_workers=2, persistent_workers=True)
    seen = {}
    for epoch in (1, 2, 1):
        dataset.set_epoch(epoch)
        here.set_epoch(epoch)
        batches = [(batch.id[0], batch.mix_sig.data[0], batch.s1_sig.data[0], batch.s2_sig.data[0]) for batch in loader]
        assert [batch[0] for batch in batches] == [here[index]["id"] for index in range(6)]
        for index, (_, mix, first, second) in enumerate(batches):
            assert torch.equal(mix, first + second)
            assert torch.equal(mix, here[index]["mix_sig"])
        seen[epoch] = batches[0][1]
    assert seen[1].shape != seen[2].shape or not torch.equal(seen[1], seen[2])


def test_each_epoch_draws_other_mixtures_and_a_resumed_one_its_own(voices):
    def make(**options):
        return dynamic_mixtures(voices, 5, 3, 8000, (0.05, 0.06), **options)

    dataset, seen = make(seed=4), []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        seen += [dataset[index]["mix_sig"] for index in range(5)]
    assert len(dataset) == 5
    assert len({tuple(mix.tolist()) for mix in seen}) == 20
    resumed = make(seed=4)
    assert torch.equal(resumed[1]["mix_sig"], seen[1])  # of epoch 0
    resumed.set_epoch(3)
    for index in (4, 0, 2):
        assert torch.equal(resumed[index]["mix_sig"], seen[15 + index])
    default = dynamic_mixtures(voices, 3, 2, 8000)
    assert torch.equal(default[2]["mix_sig"], MixtureSampler(voices, 2, 8000, (2.0, 4.0), 0).draw(2).mix)
    assert not torch.equal(make(seed=5)[2]["mix_sig"], seen[2])


def test_items_are_the_mixtures_of_their_index(voices):
    dataset = dynamic_mixtures(voices, 12, 3, 8000, None, seed=2)
    dataset.set_epoch(6)
    mixture, item = MixtureSampler(voices, 3, 8000, None, seed=2).draw(11, epoch=6), dataset[11]
    assert list(item) == ["id", "mix_sig", "s1_sig", "s2_sig", "s3_sig"]
    assert item["id"] == "mixture_000011"
    assert torch.equal(item["mix_sig"], mixture.mix)
    for source, name in zip(mixture.sources, ("s1_sig", "s2_sig", "s3_sig")):
        assert torch.equal(item[name], source)


def test_a_selection_of_dynamic_mixtures_follows_the_epoch_too(utterances):
    dataset = dynamic_mixtures(utterances, 6, 3, 8000, (0.5, 0.5))
    selection = dataset.filtered_sorted(select_n=2)
    dataset.set_epoch(4)
    assert torch.equal(selection[1]["s3_sig"], dataset[1]["s3_sig"])
    assert copy.deepcopy(dataset._items) is dataset._items
    with pytest.raises(ValueError, match="at least 1"):
        dynamic_mixtures(utterances, 0, 2, 8000)
