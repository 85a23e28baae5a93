"""The steps of the command try. Each shows what it made; one that lacks its model says so, and the others go on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechbrain_mamba.cli.model_choice import ModelChoice
from speechbrain_mamba.corpora.mini.samples import SAMPLE_RATE, SAMPLES, mix_samples
from speechbrain_mamba.utils.terminal import show

if TYPE_CHECKING:
    from torch import Tensor

SPOKEN = "four one six three"
SEED = 1


@dataclass
class Trial:
    """A mixture of two voices, and what the models make of it.

    Arguments
    ---------
    folder : Path
        Where the files go.
    separator, recognizer, synthesizer : ModelChoice
        The models.
    """

    folder: Path
    separator: ModelChoice
    recognizer: ModelChoice
    synthesizer: ModelChoice
    signals: dict[str, Tensor] = field(init=False, default_factory=dict)  # (samples,) by the names of their files
    texts: dict[str, str] = field(init=False, default_factory=dict)  # what one voice says in them
    listener: Any = field(init=False, default=None)  # the recognizer, once it was loaded

    def run(self) -> None:
        """Do all steps; one that lacks a package says so."""
        from speechbrain_mamba.inference.pretrained import open_model

        for choice in (self.separator, self.recognizer, self.synthesizer):
            if choice.is_there():  # a wrong one is told before anything is written
                open_model(choice.source, trust_yaml=choice.trust_yaml)
        for step in (self.mix, self.separate, self.transcribe, self.speak, self.draw):
            try:
                step()
            except ImportError as error:
                show(f"  left out: {error}")

    def mix(self) -> None:
        """Add the voices of the samples, so that both end at the same time, the second 3 dB softer."""
        show("A mixture of two synthetic voices that no model was trained with")
        mixture, voices = mix_samples()
        for number, (sample, voice) in enumerate(zip(SAMPLES, voices), start=1):
            self.keep(f"voice{number}.wav", voice, sample.text, f'"{sample.text}"')
        self.keep("mixture.wav", mixture)

    def sources(self) -> list[Tensor]:
        """The voices in the mixture."""
        return [self.signals[f"voice{number}.wav"] for number in range(1, len(SAMPLES) + 1)]

    def separate(self) -> None:
        """Separate the mixture, and compare the estimates with the voices."""
        from speechbrain_mamba.inference.separation import SpeechSeparator

        separator = self.load(self.separator, SpeechSeparator, "Separated")
        if separator is None:
            return
        import torch

        from speechbrain_mamba.evaluation.separation_scores import find_fault, match_estimates

        sources, mixture = torch.stack(self.sources(), 1), self.signals["mixture.wav"]
        estimates = separator.separate_file(self.folder / "mixture.wav")[0]
        if estimates.shape != sources.shape:
            raise ValueError(
                f"'{self.separator.source}' separates {estimates.shape[1]} speakers, but the mixture has "
                f"{sources.shape[1]}: choose another separator."
            )
        fault = find_fault(sources, estimates)
        scores = [f"no score: {fault}"] * len(SAMPLES)
        if not fault:
            estimates, si_snr = match_estimates(sources, estimates)
            _, before = match_estimates(sources, mixture[:, None].expand_as(sources))
            scores = [
                f"SI-SNR {after:5.1f} dB, {after - old:+.1f} dB by the separation" for after, old in zip(si_snr, before)
            ]
        for number, (sample, estimate, score) in enumerate(zip(SAMPLES, estimates.T, scores), start=1):
            self.keep(f"estimate{number}.wav", estimate, sample.text, score)

    def transcribe(self) -> None:
        """Transcribe the mixture and what was made of it, and compare the texts with what was said."""
        from speechbrain_mamba.inference.recognition import Recognizer

        self.listener = self.load(self.recognizer, Recognizer, "Transcribed")
        if self.listener is not None:
            for name in [name for name in self.signals if not name.startswith("voice")]:
                show(self.hear(self.listener, name))

    def hear(self, recognizer: Any, name: str) -> str:
        """A line with the text of a file, and its errors if one voice speaks in it."""
        from speechbrain_mamba.evaluation.word_errors import WordErrors, normalize_words

        heard = recognizer.transcribe_file(self.folder / name)
        if name not in self.texts:
            return f'  {name:14} "{heard.lower()}"'
        wrong = WordErrors().add(name, normalize_words(heard), normalize_words(self.texts[name]))
        return f'  {name:14} "{heard.lower()}"  {wrong:.0f} % of the words wrong'

    def speak(self) -> None:
        """Say a text in the first voice, and listen to it."""
        from speechbrain_mamba.inference.synthesis import SpeechSynthesizer

        synthesizer = self.load(self.synthesizer, SpeechSynthesizer, f'Said in the voice of voice1.wav: "{SPOKEN}"')
        if synthesizer is None:
            return
        from speechbrain_mamba.dataio.resampling import resample

        prompt = SAMPLES[0]
        spoken = synthesizer.synthesize(SPOKEN, prompt.path, prompt.text, seed=SEED)
        self.keep("speech.wav", resample(spoken.wav, spoken.sample_rate, SAMPLE_RATE), SPOKEN)
        if self.listener is not None:
            show(self.hear(self.listener, "speech.wav"))

    def draw(self) -> None:
        """Draw all spectrograms."""
        from speechbrain_mamba.utils.plots import plot_spectrograms

        show("Spectrograms")
        plot_spectrograms(self.folder / "spectrograms.png", self.signals, SAMPLE_RATE)
        show("  spectrograms.png")

    def load(self, choice: ModelChoice, kind: type, title: str) -> Any:
        """Load a model and show a title; None if it is a bundled one that is not in this version."""
        if not choice.is_there():
            show(f"{title}: left out, as this version has no model '{choice.source}'")
            return None
        show(f"{title}, by '{choice.source}'")
        return choice.load(kind)

    def keep(self, name: str, signal: Tensor, text: str | None = None, comment: str = "") -> None:
        """Write a signal (samples,) and show its level."""
        from speechbrain_mamba.dataio.audio import write_audio

        write_audio(self.folder / name, signal, SAMPLE_RATE)
        self.signals[name] = signal
        if text is not None:
            self.texts[name] = text
        power = signal.square().mean().item()
        level = 10 * math.log10(power) if power else -math.inf
        show(f"  {name:14} {level:6.1f} dB  {comment}".rstrip())
