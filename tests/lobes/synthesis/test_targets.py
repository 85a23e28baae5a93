"""What codec language models are trained on."""

from __future__ import annotations

import pytest
import torch

from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.lobes.models.synthesis.targets import (
    IGNORED,
    end_at,
    mark_padding,
    replace_some,
    take_prompts,
)


def test_noise_takes_a_share_of_the_tokens():
    tokens = torch.full((50, 100), 16)
    noisy = replace_some(tokens, 0.3, 16)
    assert (noisy != tokens).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert noisy[noisy != tokens].unique().tolist() == list(range(16))
    assert torch.equal(replace_some(tokens, 0.0, 16), tokens)


def test_targets_end_after_the_last_token():
    tokens = Padded(torch.tensor([[3, 4, 5], [6, 0, 0], [7, 7, 7]]), torch.tensor([3, 1, 0]))
    assert IGNORED == -1
    assert end_at(tokens, 9).tolist() == [[3, 4, 5, 9], [6, 9, -1, -1], [9, -1, -1, -1]]
    assert mark_padding(tokens).tolist() == [[3, 4, 5], [6, -1, -1], [-1, -1, -1]]


@pytest.mark.parametrize("most", [150, 200])
def test_speech_without_a_prompt_begins_with_it(most):
    lengths, shares = [2, 400, 560, 30, 400], torch.tensor([0.25, 0.25, 0.25, 0.5, 0.5])
    codes = Padded(torch.arange(600).repeat(5, 1)[..., None], torch.tensor(lengths))
    speech, no_prompt = Utterances(Padded.collate([[1, 2]] * 5), codes), torch.tensor([0, 0, 0, 7, 0])
    prompt = Utterances(Padded.collate([[], [], [], [3], []]), Padded(-torch.ones(5, 9, 1).long(), no_prompt))
    (said, (before, counts)), (text, (after, left)) = take_prompts(prompt, speech, shares, most)
    assert said == prompt.phonemes and text == speech.phonemes
    assert counts.tolist() == [1, 100, 140, 7, min(200, most)]
    assert left.tolist() == [1, 300, 420, 30, 400 - min(200, most)]
    for example, length in enumerate(lengths):
        first, second = before[example, : counts[example], 0], after[example, : left[example], 0]
        expected = [-1] * 7 + list(range(30)) if example == 3 else list(range(length))
        assert [*first.tolist(), *second.tolist()] == expected


def test_everything_is_made_where_the_inputs_are():
    lengths = torch.arange(1, 3)
    assert replace_some(lengths.to("meta"), 0.5, 16).is_meta
    assert end_at(Padded(torch.zeros(2, 3, dtype=torch.long), lengths).to("meta"), 3).is_meta
    speech = Utterances(Padded.collate([[1]]), Padded(torch.zeros(1, 9, 4, dtype=torch.long), torch.tensor([9])))
    shares = torch.tensor([0.5])
    with torch.device("meta"):
        prompt, rest = take_prompts(speech.emptied(), speech, shares, 9)
    assert prompt.codes.values.device.type == rest.codes.values.device.type == "cpu"
