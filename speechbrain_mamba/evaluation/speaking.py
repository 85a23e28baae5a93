"""Speaks the sentences of a test set, and writes the table that judges need."""

from __future__ import annotations

import os
import time
from pathlib import Path

from torch import Tensor

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.codec_tokens import Codec
from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.dataio.voice_prompts import VoicePrompts
from speechbrain_mamba.lobes.models.synthesis.speech import speak
from speechbrain_mamba.lobes.models.synthesis.system import Sampler, VallE
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.files import write_csv

COLUMNS = [
    "ID", "spk_id", "language", "wrd", "duration", "finished", "seconds", "wav", "reference", "prompt", "other_prompt"
]  # fmt: skip
TABLE = "synthesis.csv"


def speak_test_set(
    model: VallE,
    codec: Codec,
    items: dict[str, dict],
    codes: dict[str, Tensor],
    tokenizer: TextTokenizer,
    prompts: VoicePrompts,
    folder: str | os.PathLike,
    max_frames: int,
    sampler: Sampler | None = None,
    batch_size: int = 16,
) -> list[dict]:
    """Say each text of a test set in the voice of another utterance of its speaker, and return the rows that it writes.

    Arguments
    ---------
    model, codec, max_frames, sampler
        Arguments of :func:`~speechbrain_mamba.lobes.models.synthesis.speech.speak`.
    items : dict of str to dict
        The utterances to say, by id, as returned by :func:`~speechbrain_mamba.dataio.codec_tokens.read_tokens`.
    codes : dict of str to Tensor
        Tokens (frames, codebooks) of these and of all prompts.
    tokenizer : TextTokenizer
        The phonemes' inventory.
    prompts : VoicePrompts
        Prompts for these, whose codes are among ``codes``.
    folder : str or Path
        Gets ``wavs/ID.wav`` and ``synthesis.csv``, with a row per utterance: its text (``wrd``), its ``duration`` in
        seconds, whether the model ``finished`` on its own, the ``seconds`` that it took, and the paths of the sound
        (``wav``, empty if it is not finite), of the human recording of the same text (``reference``, empty if unknown),
        of the ``prompt``, and of a prompt of another speaker (``other_prompt``).
    batch_size : int
        Utterances at a time.
    """
    rows = []
    names = sorted(items, key=lambda name: items[name]["frames"])
    for first in range(0, len(names), batch_size):
        batch = names[first : first + batch_size]
        chosen = [prompts.draw(name, fixed=True) for name in batch]
        said = [tokenizer.add_space(prompts.items[prompt]["phonemes"]) for prompt in chosen]
        prompt_batch = Utterances(Padded.collate(said), Padded.collate([codes[prompt] for prompt in chosen]))
        start = time.perf_counter()
        phonemes = Padded.collate([items[name]["phonemes"] for name in batch])
        speech = speak(model, codec, prompt_batch, phonemes, max_frames, sampler)
        wavs = speech.wavs.cpu()
        seconds = (time.perf_counter() - start) / len(batch)
        for name, prompt, wav, length, finished in zip(
            batch, chosen, wavs, speech.lengths.tolist(), speech.finished.tolist()
        ):
            path, item, other = Path(folder) / "wavs" / f"{name}.wav", items[name], prompts.draw_other_speaker(name)
            finite = bool(wav[:length].isfinite().all())
            if finite:
                write_audio(path, wav[:length].clamp(-1, 1), codec.sample_rate)
            else:
                path.unlink(missing_ok=True)  # of an earlier test
            row = {"ID": name, **{key: item.get(key, "") for key in ("spk_id", "language", "wrd")}}
            row |= {"duration": length / codec.sample_rate, "finished": finished, "seconds": seconds}
            row |= {
                "wav": path if finite else "",
                "reference": item.get("wav", ""),
                "prompt": prompts.items[prompt].get("wav", ""),
            }
            row["other_prompt"] = "" if other is None else prompts.items[other].get("wav", "")
            rows.append(row)
    write_csv(Path(folder) / TABLE, rows, COLUMNS)
    return rows
