"""Other utterances of a speaker, as prompts for synthesis in the speaker's voice."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_mamba.dataio.codec_tokens import token_dataset
from speechbrain_mamba.text.phonemes import TextTokenizer


class VoicePrompts:
    """For each utterance, what else its speaker says.

    Arguments
    ---------
    items : dict of str to dict
        Utterances by id, with ``spk_id`` and ``frames``, as of
        :func:`~speechbrain_mamba.dataio.codec_tokens.read_tokens`.
    max_frames : float
        Longer utterances make no prompt.

    Attributes
    ----------
    items : dict of str to dict
        The utterances.
    share : float
        Share of the utterances that :func:`prompted_dataset` puts another one in front of, drawn anew each time; the
        others stand alone. 1 unless it is changed, which may be done at any time.

    Example
    -------
    >>> items = {name: {"spk_id": name[0], "frames": 9} for name in ("a1", "a2", "b1")}
    >>> prompts = VoicePrompts(items, max_frames=10)
    >>> prompts.draw("a1"), prompts.draw_other_speaker("a1"), "b1" in prompts
    ('a2', 'b1', False)
    """

    def __init__(self, items: dict[str, dict], max_frames: float = float("inf")):
        self.items, self.share = items, 1.0
        self._speaker = {name: item["spk_id"] for name, item in items.items()}
        self._of_speaker: dict[str, list[str]] = defaultdict(list)
        for name, item in items.items():
            if item["frames"] <= max_frames:
                self._of_speaker[item["spk_id"]].append(name)

    def __contains__(self, name: str) -> bool:
        """Whether there is a prompt for an utterance."""
        return any(other != name for other in self._of_speaker.get(self._speaker[name], [])[:2])

    def draw(self, name: str, fixed: bool = False) -> str:
        """Another utterance of the same speaker.

        Arguments
        ---------
        name : str
            An utterance that has one.
        fixed : bool
            Whether it shall be the same one each time, rather than one that torch's random numbers choose.

        Returns
        -------
        str
            Its name.
        """
        candidates = [other for other in self._of_speaker[self._speaker[name]] if other != name]
        return candidates[random.Random(name).randrange(len(candidates)) if fixed else _randrange(len(candidates))]

    def draw_other_speaker(self, name: str) -> str | None:
        """An utterance of another speaker, the same one each time; None where no other speaker has one."""
        others = sorted(speaker for speaker in self._of_speaker if speaker != self._speaker[name])
        generator = random.Random(name)
        return generator.choice(self._of_speaker[generator.choice(others)]) if others else None


def _randrange(stop: int) -> int:
    return int(torch.randint(stop, ()))


def prompted_dataset(
    items: dict[str, dict],
    codes: np.ndarray,
    prompts: VoicePrompts,
    tokenizer: TextTokenizer,
    fixed: bool = False,
) -> DynamicItemDataset:
    """The dataset of some utterances, each behind another one of its speaker.

    Arguments
    ---------
    items, codes
        As of :func:`~speechbrain_mamba.dataio.codec_tokens.read_tokens`.
    prompts : VoicePrompts
        It has a prompt for each item, which is among the items too.
    tokenizer : TextTokenizer
        The phonemes' inventory.
    fixed : bool
        As in :meth:`VoicePrompts.draw`.

    Returns
    -------
    DynamicItemDataset
        Its keys are ``id``, ``phonemes`` (integers (phonemes,)) and ``codes`` (integers (frames, codebooks)), both of
        the prompt and of what comes after it, and ``prompt_phonemes`` and ``prompt_frames``, how many are the prompt's:
        0 of those that stand alone. The items' ``frames`` are without the prompt.

    Example
    -------
    >>> tokenizer = TextTokenizer(["a", " "], "characters")
    >>> items = {f"s{i}": {"spk_id": "s", "first_frame": 2 * i, "frames": 2, "phonemes": [0]} for i in range(2)}
    >>> dataset = prompted_dataset(items, np.array([[5], [7], [2], [4]]), VoicePrompts(items), tokenizer)
    >>> example = dataset[0]
    >>> example["codes"].T, example["prompt_frames"], example["phonemes"], example["prompt_phonemes"]
    (tensor([[2, 4, 5, 7]]), 2, tensor([0, 1, 0]), 2)
    """
    alone, names = token_dataset(items, codes), {name: index for index, name in enumerate(items)}

    def join(name: str):
        second = alone[names[name]]
        if prompts.share < 1 and float(torch.rand(())) >= prompts.share:
            yield from (second["phonemes"], 0, second["codes"], 0)
            return
        first = alone[names[prompts.draw(name, fixed)]]
        phonemes = torch.LongTensor(tokenizer.join(first["phonemes"].tolist(), second["phonemes"].tolist()))
        yield phonemes
        yield len(phonemes) - len(second["phonemes"])
        yield torch.cat([first["codes"], second["codes"]])
        yield len(first["codes"])

    dataset = DynamicItemDataset(items)
    outputs = {"phonemes": "phonemes_of_both", "codes": "codes_of_both"}
    outputs |= {name: name for name in ("id", "prompt_phonemes", "prompt_frames")}
    provided = ["phonemes_of_both", "prompt_phonemes", "codes_of_both", "prompt_frames"]
    dataset.add_dynamic_item(join, takes="id", provides=provided)
    dataset.set_output_keys(outputs)
    return dataset
