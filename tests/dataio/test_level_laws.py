"""The laws of levels: distributions with fixed seeds, against the published figures."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

from speechbrain_mamba.dataio.dynamic_mixing import dynamic_mixtures
from speechbrain_mamba.dataio.level_laws import PublishedLaw, Wsj0MixLaw, find_level_law
from speechbrain_mamba.dataio.mixing import MixtureSampler
from tests.conftest import GOLDEN
from tests.dataio.conftest import add_speech

PUBLISHED = json.loads((GOLDEN / "published_settings.json").read_text(encoding="utf-8"))["separation_dynamic_mixing"]


def levels_of(sources):
    """The levels of sources (speakers, samples) in dB, of their mean absolute amplitude."""
    return (20 * sources.abs().mean(1).log10()).tolist()


def test_the_figures_are_the_published_ones():
    law = PublishedLaw()
    first, others = PUBLISHED["first_level_db"], PUBLISHED["other_levels_db"]
    assert law.first_db == (first["normal_mean"], first["normal_std"])
    assert law.difference_db == (others["first plus normal_mean"], others["normal_std"])
    assert list(law.range_db) == first["clip"] == others["clip"]


def test_levels_are_normally_distributed(voices):
    """Of the mixtures themselves: the speech is quiet enough that none clips."""
    sampler = MixtureSampler(voices, 3, 8000, (0.01, 0.01), law=PublishedLaw())
    first, second, third = np.array([levels_of(sampler.draw(index).sources) for index in range(600)]).T
    for values, mean, std in ((first, -27.43, 2.57), (second - first, -2.51, 2.66), (third - first, -2.51, 2.66)):
        assert values.mean() == pytest.approx(mean, abs=4 * std / math.sqrt(600))
        assert values.std() == pytest.approx(std, rel=0.1)
        for share, quantile in ((0.159, -1), (0.5, 0), (0.841, 1)):
            assert (values < mean + quantile * std).mean() == pytest.approx(share, abs=0.06)
    assert abs(np.corrcoef(second - first, third - first)[0, 1]) < 0.15
    assert abs(np.corrcoef(second - first, first)[0, 1]) < 0.15


@pytest.mark.parametrize(("mean", "edge"), [(-60.0, -45.0), (15.0, 0.0)])
def test_levels_are_clipped(mean, edge):
    rng = np.random.default_rng(0)
    assert PublishedLaw(first_db=(mean, 2.0)).draw_levels(1, rng).tolist() == [edge]
    # The others go by the first one as it is clipped.
    levels = torch.stack([PublishedLaw(first_db=(mean, 2.0)).draw_levels(3, rng) for _ in range(300)])
    assert set(levels[:, 0].tolist()) == {edge}
    assert levels.min() >= -45 and levels.max() <= 0
    share = (levels[:, 1:] == edge).float().mean()
    beyond = 0.5 * (1 + math.erf(2.51 / 2.66 / math.sqrt(2)))  # the share of differences below 0
    assert float(share) == pytest.approx(beyond if edge < -1 else 1 - beyond, abs=0.06)


def test_speakers_are_drawn_in_proportion_to_their_utterances(voices):
    """Anna has four of seven utterances, the others have one each."""
    sampler = MixtureSampler(voices, 2, 8000, (0.005, 0.005), law=PublishedLaw())
    firsts, seconds = zip(*(sampler.draw(index).speakers for index in range(700)))
    count = Counter(firsts)
    assert count["anna"] / 700 == pytest.approx(4 / 7, abs=0.06)
    assert all(count[name] / 700 == pytest.approx(1 / 7, abs=0.05) for name in ("ben", "carl", "dora"))
    assert all(first != second for first, second in zip(firsts, seconds))
    after_anna = Counter(second for first, second in zip(firsts, seconds) if first == "anna")
    assert all(after_anna[name] / count["anna"] == pytest.approx(1 / 3, abs=0.08) for name in ("ben", "carl", "dora"))


@pytest.mark.parametrize("num_spks", [1, 2, 3])
def test_only_what_clips_is_scaled(tmp_path, num_spks):
    click = torch.full((400,), 0.001)
    click[7] = 0.02  # a peak 19 times the mean amplitude
    speech = [add_speech(tmp_path, name, click) for name in ("anna", "ben", "carl")]
    quiet, loud = (PublishedLaw(first_db=(level, 0.0), difference_db=(0.0, 0.0)) for level in (-60.0, -20.0))
    mixture = MixtureSampler(speech, num_spks, 8000, None, law=quiet).draw(0)
    assert levels_of(mixture.sources) == pytest.approx([-45] * num_spks, abs=1e-3)
    mixture = MixtureSampler(speech, num_spks, 8000, None, law=loud).draw(0)
    assert mixture.mix.abs().max().item() == pytest.approx(0.9)
    assert torch.equal(mixture.mix, mixture.sources.sum(0))
    assert len({round(level, 3) for level in levels_of(mixture.sources)}) == 1


def test_a_source_that_clips_alone_is_scaled_too(tmp_path):
    click = torch.full((400,), 0.1)
    click[7] = 0.3
    speech = [add_speech(tmp_path, "anna", click), add_speech(tmp_path, "ben", -click)]
    law = PublishedLaw(first_db=(0.0, 0.0), difference_db=(-1.0, 0.0))
    mixture = MixtureSampler(speech, 2, 8000, None, law=law).draw(0)
    assert mixture.sources.abs().max().item() == pytest.approx(0.9)
    assert mixture.mix.abs().max() < 0.2


def test_the_law_goes_by_the_corpus():
    assert find_level_law(None, "wsj0mix") == PublishedLaw()
    for corpus in ("folder", "fsdd", "mini"):
        assert find_level_law(None, corpus) == Wsj0MixLaw(5.0)
        assert find_level_law("published", corpus) == PublishedLaw()
    assert find_level_law("wsj0mix", "wsj0mix") == Wsj0MixLaw()
    with pytest.raises(ValueError, match="level_law is 'loud', but must be wsj0mix or published, or null"):
        find_level_law("loud", "mini")


def test_dynamic_mixtures_follow_the_law(voices):
    law = PublishedLaw()
    dataset = dynamic_mixtures(voices, 4, 2, 8000, (0.05, 0.05), seed=3, law=law)
    dataset.set_epoch(2)
    expected = MixtureSampler(voices, 2, 8000, (0.05, 0.05), seed=3, law=law).draw(1, epoch=2)
    assert torch.equal(dataset[1]["mix_sig"], expected.mix)
    assert not torch.equal(dynamic_mixtures(voices, 4, 2, 8000, (0.05, 0.05), seed=3)[1]["mix_sig"], expected.mix)
