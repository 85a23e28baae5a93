"""Other utterances of a speaker, as prompts for synthesis in the speaker's voice."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_mamba.dataio.codec_tokens import slice_codes, token_dataset
from speechbrain_mamba.text.phonemes import TextTokenizer


class VoicePrompts:
    """For each utterance, the other utterances of its speaker.

    Arguments
    ---------
    items : dict of str to dict
        Utterances by id, with ``spk_id`` and ``frames``, as returned by
        :func:`~speechbrain_mamba.dataio.codec_tokens.read_tokens`; an attribute.
    max_frames : float
        Longer utterances are not used as prompts.

    Attributes
    ----------
    share : float
        Share of the utterances to which :func:`prompted_dataset` gives a prompt, drawn again each time. It is 1 at
        first and may be changed at any time.

    Example
    -------
    >>> items = {name: {"spk_id": name[0], "frames": 9} for name in ("a1", "a2", "b1")}
    >>> prompts = VoicePrompts(items, max_frames=10)
    >>> prompts.draw("a1"), prompts.draw_other_speaker("a1"), "b1" in prompts
    ('a2', 'b1', False)
    """

    def __init__(self, items: dict[str, dict], max_frames: float = float("inf")) -> None:
        self.items, self.share = items, 1.0
        self._of_speaker: dict[str, list[str]] = defaultdict(list)  # utterances that can be prompts
        for name, item in items.items():
            if item["frames"] <= max_frames:
                self._of_speaker[item["spk_id"]].append(name)

    def __contains__(self, name: str) -> bool:
        """Whether there is a prompt for an utterance."""
        return any(other != name for other in self._of_speaker.get(self.items[name]["spk_id"], [])[:2])

    def draw(self, name: str, fixed: bool = False) -> str:
        """Draw another utterance of the speaker of an utterance that has a prompt: the same one each time if ``fixed``,
        or else one that torch's random numbers choose."""
        candidates = [other for other in self._of_speaker[self.items[name]["spk_id"]] if other != name]
        count = len(candidates)
        return candidates[random.Random(name).randrange(count) if fixed else int(torch.randint(count, ()))]

    def draw_other_speaker(self, name: str) -> str | None:
        """Draw an utterance of another speaker, the same one each time; None if no other speaker has one."""
        others = sorted(speaker for speaker in self._of_speaker if speaker != self.items[name]["spk_id"])
        generator = random.Random(name)
        return generator.choice(self._of_speaker[generator.choice(others)]) if others else None


def prompted_dataset(
    items: dict[str, dict],
    codes: np.ndarray,
    tokenizer: TextTokenizer,
    prompts: VoicePrompts | None = None,
    fixed: bool = False,
) -> DynamicItemDataset:
    """The dataset of some utterances, each with another one of its speaker as its prompt.

    Arguments
    ---------
    items, codes
        As in :func:`~speechbrain_mamba.dataio.codec_tokens.token_dataset`.
    tokenizer : TextTokenizer
        The phonemes' inventory.
    prompts : VoicePrompts, optional
        Prompts for each item, among the items too; without them no utterance has one.
    fixed : bool
        As in :meth:`VoicePrompts.draw`.

    Returns
    -------
    DynamicItemDataset
        That of ``token_dataset`` with the keys ``prompt_phonemes`` and ``prompt_codes``, of length 0 without a prompt.
        :class:`~speechbrain_mamba.dataio.prompted_batch.PromptedBatch` makes batches of it.

    Example
    -------
    >>> tokenizer = TextTokenizer(["a", " "], "characters")
    >>> items = {f"s{i}": {"spk_id": "s", "first_frame": 2 * i, "frames": 2, "phonemes": [0]} for i in range(2)}
    >>> codes = np.array([[5], [7], [2], [4]])
    >>> example = prompted_dataset(items, codes, tokenizer, VoicePrompts(items))[0]
    >>> example["codes"].T, example["phonemes"], example["prompt_codes"].T, example["prompt_phonemes"]
    (tensor([[5, 7]]), tensor([0]), tensor([[2, 4]]), tensor([0, 1]))
    """

    def draw_prompt(name: str) -> Iterator[Tensor]:
        if prompts is None or (prompts.share < 1 and float(torch.rand(())) >= prompts.share):
            yield torch.zeros(0, dtype=torch.long)
            yield torch.zeros(0, codes.shape[1], dtype=torch.long)
        else:
            prompt = items[prompts.draw(name, fixed)]
            yield torch.LongTensor(tokenizer.add_space(prompt["phonemes"]))
            yield slice_codes(codes, prompt["first_frame"], prompt["frames"])

    dataset, provided = token_dataset(items, codes), ["prompt_phonemes", "prompt_codes"]
    dataset.add_dynamic_item(draw_prompt, takes="id", provides=provided)
    dataset.set_output_keys({"id": "id", "phonemes": "phoneme_ids", "codes": "codes"} | {key: key for key in provided})
    return dataset
