"""The results of a codec's test: losses, words lost, and examples to look at and listen to."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.evaluation.report import UNSCORED, Report
from speechbrain_mamba.evaluation.word_errors import WordErrors, normalize_words
from speechbrain_mamba.utils.files import write_json
from speechbrain_mamba.utils.plots import plot_spectrograms

if TYPE_CHECKING:  # needs the package encodec
    from speechbrain_mamba.codecs import EnCodec


_LOSSES, _RECONSTRUCTION = ("mel", "time"), "reconstruction.json"


class CodecReport(Report):
    """Collect the losses of a codec, and reconstruct test utterances.

    The folder gets ``reconstruction.json`` with the mean losses and the perplexity of the codes; ``results.csv`` with
    the losses of each utterance; and in ``examples/`` for each of the first utterances the original, the reconstruction
    and a picture of both. With a recognizer it gets ``word_errors.json`` and columns for them: word error rates in
    percent of the recordings (``reference_wer``), of the reconstructions (``wer``), and of reconstructions from the
    first codebook alone (``first_codebook_wer``), which is what an autoregressive model predicts.

    Silent recordings, and reconstructions that are not finite, are listed with the reason, counted as ``unscored``, and
    left out of all means and rates.

    Arguments
    ---------
    folder, codec, sample_rate, n_examples
        Where the results go, the codec, the rate in Hz, and how many utterances to keep as examples.
    recognize : callable, optional
        From a waveform (samples,) and its rate to words.

    Example
    -------
    >>> from speechbrain_mamba.codecs import EnCodec
    >>> codec = EnCodec(8000, (8, 5, 4), n_codebooks=4, codebook_size=16, dimension=8, n_filters=2)
    >>> folder = getfixture("tmp_path")
    >>> report = CodecReport(folder, codec, 8000, recognize=lambda wav, rate: "One, three", n_examples=1)
    >>> report.add_utterance_losses("a", {"mel": 0.5, "time": 0.1}, torch.tensor([3, 5]), samples=4000)
    >>> report.add("a", torch.randn(4000), "one two")
    >>> report.write()["wer"]
    50.0
    >>> sorted(path.name for path in folder.rglob("*.*"))
    ['a.png', 'a_original.wav', 'a_reconstruction.wav', 'reconstruction.json', 'results.csv', 'word_errors.json']
    """

    collected = ("rows", "totals", "used")

    def __init__(
        self,
        folder: str | os.PathLike,
        codec: EnCodec,
        sample_rate: int,
        recognize: Callable[[Tensor, int], str] | None = None,
        n_examples: int = 8,
    ) -> None:
        super().__init__(folder)
        self.codec, self.sample_rate, self.recognize, self.n_examples = codec, sample_rate, recognize, n_examples
        self.errors = {name: WordErrors() for name in ("reference_wer", "wer", "first_codebook_wer")}
        self.columns = ("id", *_LOSSES, *self.errors) if recognize else ("id", *_LOSSES)
        self.summary_file = "word_errors.json" if recognize else _RECONSTRUCTION  # type: ignore[misc]  # one of two
        self.totals: dict[str, Tensor] = {}
        self.used = torch.zeros(0, dtype=torch.long)
        self._n_reconstructed = 0

    def add_losses(self, terms: Mapping[str, float], codes: Tensor, samples: int) -> None:
        """Count the terms of a loss, means over some valid ``samples``, and the codes of their frames, integers of any
        shape. Sums go to ``totals``, a tensor of the sum and its samples by term, and counts of codes to ``used``."""
        for name, value in terms.items():
            added = torch.tensor([value * samples, samples], dtype=torch.double)
            self.totals[name] = self.totals.get(name, torch.zeros(2, dtype=torch.double)) + added
        used = codes.flatten().bincount(minlength=len(self.used)).cpu()
        used[: len(self.used)] += self.used
        self.used = used

    def add_utterance_losses(self, name: str, terms: Mapping[str, float], codes: Tensor, samples: int) -> None:
        """Count the losses of an utterance as :meth:`add_losses` does, in a row of its own, if they are finite."""
        if all(map(math.isfinite, terms.values())):
            self.add_losses(terms, codes, samples)
            self.rows.append({"id": name, **{column: terms[column] for column in _LOSSES}})
        else:
            self.add_unscored(name, "the reconstruction is not finite")

    def losses(self) -> dict[str, float]:
        """The means of the terms over the samples so far, and the ``perplexity`` of the codes: how many are in use;
        nothing if nothing was counted."""
        if not self.totals:
            return {}
        means = {name: float(total / samples) for name, (total, samples) in self.totals.items()}
        shares = self.used / self.used.sum()
        return {**means, "perplexity": torch.exp(-torch.xlogy(shares, shares).sum()).item()}

    @torch.no_grad()
    def add(self, name: str, wav: Tensor, text: str) -> None:
        """Reconstruct a recording (samples,), count the errors in its words, and keep it if it is among the first ones.

        This sets the codec to evaluation mode.
        """
        row = next((row for row in self.rows if row["id"] == name), None)
        if row is None:
            row = {"id": name}
            self.rows.append(row)
        example = self._n_reconstructed < self.n_examples
        self._n_reconstructed += 1
        if not wav.any():
            row[UNSCORED] = "the recording is silent"
        if row.get(UNSCORED) or not (example or self.recognize):
            return
        device = next(self.codec.parameters()).device
        codes, lengths = self.codec.eval().encode(wav[None].to(device))
        sounds = [wav, self._decode(codes, lengths, wav)]
        if self.recognize is not None:
            sounds.append(self._decode(codes[..., :1], lengths, wav))
        if not all(bool(sound.isfinite().all()) for sound in sounds):
            row[UNSCORED] = "the reconstruction is not finite"
            return
        if example:
            stem = self.folder / "examples" / name
            pictured = {"original": wav, "reconstruction": sounds[1].cpu().clamp(-1, 1)}
            for key, sound in pictured.items():
                write_audio(f"{stem}_{key}.wav", sound, self.sample_rate)
            plot_spectrograms(f"{stem}.png", pictured, self.sample_rate)
        if self.recognize is not None:
            for (key, errors), sound in zip(self.errors.items(), sounds):
                words = normalize_words(self.recognize(sound, self.sample_rate))
                row[key] = errors.add(name, words, normalize_words(text))

    def add_dataset(self, dataset: Iterable[Mapping[str, Any]]) -> None:
        """Add utterances with ``id``, ``sig`` and ``wrd``, such as those of
        :func:`~speechbrain_mamba.dataio.speech_datasets.piece_dataset`; without a recognizer only the examples."""
        for item in tqdm(dataset, desc="Reconstructing", unit="utterance", dynamic_ncols=True):
            if self.recognize is None and self._n_reconstructed >= self.n_examples:
                break
            self.add(item["id"], item["sig"], item["wrd"])

    def _decode(self, codes: Tensor, lengths: Tensor, wav: Tensor) -> Tensor:
        return self.codec.decode(codes, lengths)[0][0, : len(wav)]

    def scores(self) -> dict[str, Any]:
        """Word error rates in percent with a recognizer, otherwise the losses."""
        return {name: errors.rate() for name, errors in self.errors.items()} if self.recognize else self.losses()

    def write_more(self) -> None:
        """Write the losses, unless they are the summary."""
        if self.recognize and self.totals:
            write_json(self.folder / _RECONSTRUCTION, self.losses())
