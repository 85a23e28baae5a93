"""What the page of the command demo does with recordings and texts; how it looks is in ``page_layout``."""

from __future__ import annotations

import copy
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechbrain_mamba.cli.live import take_pieces
from speechbrain_mamba.cli.model_choice import ModelChoice
from speechbrain_mamba.utils.plots import plot_sounds

if TYPE_CHECKING:
    import numpy as np

    from speechbrain_mamba.inference.streaming import StreamingRecognizer

PIECE = 320
"""Milliseconds of a recording that the recognizer hears at a time."""


@dataclass(frozen=True)
class Made:
    """What was made: sound files, a picture of them, and what the user should know."""

    files: list[Path]
    picture: Path
    notices: list[str] = field(default_factory=list)


class PageWork:
    """Separates, transcribes and speaks for the page, one request at a time.

    Arguments
    ---------
    separator, recognizer, synthesizer : ModelChoice
        The models, which are loaded now.
    folder : Path
        Where sounds and pictures go; each request gets a folder of its own in it.
    max_seconds : float
        The longest recording that is taken.

    Raises
    ------
    ValueError, OSError
        When a model cannot be loaded as what it is needed for.
    """

    def __init__(
        self,
        separator: ModelChoice,
        recognizer: ModelChoice,
        synthesizer: ModelChoice,
        folder: Path,
        max_seconds: float = 60.0,
    ) -> None:
        from speechbrain_mamba.inference.recognition import Recognizer
        from speechbrain_mamba.inference.separation import SpeechSeparator
        from speechbrain_mamba.inference.streaming import StreamingRecognizer
        from speechbrain_mamba.inference.synthesis import SpeechSynthesizer

        self.folder, self.max_seconds = folder, max_seconds
        self.separator = separator.load(SpeechSeparator)
        self.recognizer = recognizer.load(Recognizer)
        self._streaming = recognizer.load(StreamingRecognizer) if self.recognizer.streams else None
        self.synthesizer = synthesizer.load(SpeechSynthesizer)
        self._one = threading.Lock()

    @property
    def streams(self) -> bool:
        """Whether the recognizer can listen while somebody speaks."""
        return self._streaming is not None

    def separate(self, recording: str | Path | None) -> Made:
        """Separate a recording; the files are those of the speakers."""
        path = self._checked(recording)
        folder = self._new_folder()
        files = [folder / f"speaker{number}.wav" for number in range(1, self.separator.speakers + 1)]
        with self._one:
            result = self.separator.separate_recording(path, files)
        titles = ["recording", *(f"speaker {number}" for number in range(1, len(files) + 1))]
        return Made(files, self._draw(folder, titles, [path, *files], self.separator.sample_rate), result.notices)

    def transcribe(self, recording: str | Path | None) -> Iterator[str]:
        """The text of a recording as it grows while the recording is heard piece by piece; at once if the recognizer
        needs all of it. The last text is the whole one."""
        path = self._checked(recording)
        if self._streaming is None:
            with self._one:
                text = self.recognizer.transcribe_file(path)
            yield text
            return
        listening = self.listen()
        shown = ""
        for piece in take_pieces(str(path), self.recognizer.sample_rate, PIECE):
            text = listening.add_samples(piece)
            if text != shown:
                yield (shown := text)
        yield listening.finish()

    def listen(self) -> Listening:
        """Begin to hear somebody who speaks.

        Raises
        ------
        ValueError
            When the recognizer cannot run on a stream.
        """
        if self._streaming is None:
            raise ValueError("This recognizer needs whole recordings: record first, and transcribe then.")
        return Listening(self._streaming, self._one)

    def speak(self, text: str, prompt: str | Path | None, prompt_text: str, seed: int | None = None) -> Made:
        """Say a text in the voice of a recording, whose words are given."""
        for value, name in ((text, "the text to say"), (prompt_text, "the words of the recording")):
            if not value.strip():
                raise ValueError(f"There is nothing in the field for {name}: write it first.")
        path = self._checked(prompt)
        from speechbrain_mamba.dataio.audio import write_audio

        with self._one:
            spoken = self.synthesizer.synthesize(text, str(path), prompt_text, seed=seed)
        folder = self._new_folder()
        file = folder / "speech.wav"
        write_audio(file, spoken.wav, spoken.sample_rate)
        titles = ["voice", "speech"]
        return Made([file], self._draw(folder, titles, [path, file], spoken.sample_rate), list(spoken.notices))

    def _checked(self, recording: str | Path | None) -> Path:
        """A recording that is there and short enough."""
        from speechbrain_mamba.dataio.recordings import read_recording

        if recording is None:
            raise ValueError("There is no recording yet: choose a file, or record one.")
        seconds = read_recording(recording).seconds  # a header may be wrong
        if seconds > self.max_seconds:
            raise ValueError(
                f"The recording has {seconds:.0f} s, but this page takes {self.max_seconds:g} s at most: cut it, give "
                "--max-seconds, or use the commands separate and transcribe, which take any length."
            )
        return Path(recording)

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def _draw(self, folder: Path, titles: Sequence[str], files: Sequence[Path], sample_rate: int) -> Path:
        from speechbrain_mamba.dataio.recordings import read_recording

        signals = {title: read_recording(file, sample_rate).signal[0] for title, file in zip(titles, files)}
        picture = folder / "sounds.png"
        plot_sounds(picture, signals, sample_rate)
        return picture


class Listening:
    """A stream of sound with its text so far.

    Arguments
    ---------
    recognizer : StreamingRecognizer
        It shares its weights with this stream, and nothing else.
    one : threading.Lock
        Held while it computes.
    """

    def __init__(self, recognizer: StreamingRecognizer, one: Any) -> None:
        self._recognizer, self._one = copy.copy(recognizer), one
        self._recognizer.reset()
        self._rate: int | None = None
        self._resampler: Any = None
        self.text = ""

    def add_samples(self, piece: Any) -> str:
        """Take a piece (1, samples) at the recognizer's rate; returns the text so far."""
        with self._one:
            self.text = self._recognizer.add(piece)
        return self.text

    def add(self, rate: int, samples: np.ndarray) -> str:
        """Take a piece as a browser sends it: its rate in Hz, and integers or floats (samples,) or (samples, channels).

        Raises
        ------
        ValueError
            When the rate is not that of the piece before.
        """
        import numpy as np
        import torch

        from speechbrain_mamba.dataio.resampling import StreamingResampler

        if self._rate is None:
            self._rate, self._resampler = rate, StreamingResampler(rate, int(self._recognizer.sample_rate))
        if rate != self._rate:
            raise ValueError(f"The microphone went from {self._rate} to {rate} Hz: begin again.")
        scale = -float(np.iinfo(samples.dtype).min) if np.issubdtype(samples.dtype, np.integer) else 1.0
        signal = torch.as_tensor(samples.astype(np.float32) / scale)
        signal = signal.mean(1) if signal.dim() == 2 else signal
        return self.add_samples(self._resampler.push(signal[None]))

    def finish(self) -> str:
        """End the stream; returns its whole text, which is empty if nothing came."""
        if self._resampler is not None:
            self.add_samples(self._resampler.finish())
        with self._one:
            self.text = self._recognizer.finish()
        return self.text
