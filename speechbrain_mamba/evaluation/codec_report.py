"""The results of a codec's test: losses, words lost, and examples to look at and listen to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.evaluation.report import Report
from speechbrain_mamba.evaluation.word_errors import WordErrors, normalize_words
from speechbrain_mamba.utils.files import write_json
from speechbrain_mamba.utils.plots import plot_spectrograms

if TYPE_CHECKING:  # needs the package encodec
    from speechbrain_mamba.codecs import EnCodec


class CodecReport(Report):
    """Collect the losses of a codec, and reconstruct test utterances.

    The folder gets ``reconstruction.json`` with the mean losses and the perplexity of the codes, and in ``examples/``
    for each of the first utterances the original, the reconstruction and a picture of both. With a recognizer it gets
    ``word_errors.json``: word error rates in percent of the recordings (``reference_wer``), of the reconstructions
    (``wer``), and of reconstructions from the first codebook alone (``first_codebook_wer``), which is what an
    autoregressive model predicts; and ``results.csv`` with a row per utterance.

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
    >>> report.add_losses({"mel": 0.5}, torch.tensor([3, 5]))
    >>> report.add("a", torch.randn(4000), "one two")
    >>> report.write()["wer"]
    50.0
    >>> sorted(path.name for path in folder.rglob("*.*"))
    ['a.png', 'a_original.wav', 'a_reconstruction.wav', 'reconstruction.json', 'results.csv', 'word_errors.json']
    """

    summary_file = "word_errors.json"
    collected = ("rows", "_terms", "_used")

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
        self.columns = ("id", *self.errors) if recognize else ("id",)
        self._terms: dict[str, list[float]] = {}
        self._used = torch.zeros(0, dtype=torch.long)

    def add_losses(self, terms: Mapping[str, float], codes: Tensor) -> None:
        """Count the terms of a batch's loss, and the codes of its valid frames, integers of any shape."""
        for name, value in terms.items():
            self._terms.setdefault(name, []).append(value)
        used = codes.flatten().bincount(minlength=len(self._used)).cpu()
        used[: len(self._used)] += self._used
        self._used = used

    def losses(self) -> dict[str, float]:
        """The means of the terms over the batches so far, and the ``perplexity`` of the codes: how many are in use."""
        means = {name: sum(values) / len(values) for name, values in self._terms.items()}
        shares = self._used / self._used.sum()
        return {**means, "perplexity": torch.exp(-torch.xlogy(shares, shares).sum()).item()}

    @torch.no_grad()
    def add(self, name: str, wav: Tensor, text: str) -> None:
        """Reconstruct a recording (samples,), count the errors in its words, and keep it if it is among the first ones.

        This sets the codec to evaluation mode.
        """
        example = len(self.rows) < self.n_examples
        row: dict[str, Any] = {"id": name}
        if example or self.recognize is not None:
            device = next(self.codec.parameters()).device
            codes, lengths = self.codec.eval().encode(wav[None].to(device))
            whole = self._decode(codes, lengths, wav)
            if example:
                stem = self.folder / "examples" / name
                pictured = {"original": wav, "reconstruction": whole.cpu().clamp(-1, 1)}
                for key, sound in pictured.items():
                    write_audio(f"{stem}_{key}.wav", sound, self.sample_rate)
                plot_spectrograms(f"{stem}.png", pictured, self.sample_rate)
            if self.recognize is not None:
                sounds = [wav, whole, self._decode(codes[..., :1], lengths, wav)]
                for (key, errors), sound in zip(self.errors.items(), sounds):
                    words = normalize_words(self.recognize(sound, self.sample_rate))
                    row[key] = errors.add(name, words, normalize_words(text))
        self.rows.append(row)

    def add_dataset(self, dataset: Iterable[Mapping[str, Any]]) -> None:
        """Add utterances with ``id``, ``sig`` and ``wrd``, such as those of
        :func:`~speechbrain_mamba.dataio.speech_datasets.piece_dataset`; without a recognizer only the examples."""
        for item in tqdm(dataset, desc="Reconstructing", unit="utterance", dynamic_ncols=True):
            if self.recognize is None and len(self.rows) >= self.n_examples:
                break
            self.add(item["id"], item["sig"], item["wrd"])

    def _decode(self, codes: Tensor, lengths: Tensor, wav: Tensor) -> Tensor:
        return self.codec.decode(codes, lengths)[0][0, : len(wav)]

    def scores(self) -> dict[str, Any]:
        """Word error rates in percent, with a recognizer."""
        return {name: errors.rate() for name, errors in self.errors.items()} if self.recognize else {}

    def write(self) -> dict[str, Any]:
        """Write what was collected, and return the word error rates, or the losses without a recognizer."""
        if self._terms:
            write_json(self.folder / "reconstruction.json", self.losses())
        return self.losses() if self.recognize is None else super().write()
