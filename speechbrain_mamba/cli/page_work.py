"""What the page of the command demo does with recordings and texts; how it looks is in ``page_layout``."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_mamba.cli.live import take_pieces
from speechbrain_mamba.cli.model_choice import ModelChoice
from speechbrain_mamba.cli.page_listening import Listening
from speechbrain_mamba.utils.plots import plot_sounds

PIECE = 320
"""Milliseconds of a recording that the recognizer hears at a time."""
KEPT = 20
"""Requests whose files are kept. The page has copies of what it shows; a minute in two voices takes up to 20 MB."""


@dataclass(frozen=True)
class Made:
    """What was made: sound files, a picture of them, and what the user should know."""

    files: list[Path]
    picture: Path
    notices: list[str] = field(default_factory=list)


class PageWork:
    """Separates, transcribes and speaks for the page, each model for one request at a time.

    Arguments
    ---------
    separator, recognizer, synthesizer : ModelChoice
        The models, which are loaded now.
    folder : Path
        Where sounds and pictures go; each request gets a folder of its own in it.
    max_seconds : float
        The longest recording that is taken.

    Attributes
    ----------
    about : dict of str to str
        What there is to know of each model, by ``separator``, ``recognizer`` and ``synthesizer``.

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
        kinds = {"separator": separator, "recognizer": recognizer, "synthesizer": synthesizer}
        self.about = {kind: choice.caution or f"The model is '{choice.source}'." for kind, choice in kinds.items()}
        self._alone = {kind: threading.Lock() for kind in kinds}  # each model works for one at a time
        self._folders: deque[Path] = deque()

    @property
    def streams(self) -> bool:
        """Whether the recognizer can listen while somebody speaks."""
        return self._streaming is not None

    def separate(self, recording: str | Path | None) -> Made:
        """Separate a recording; the files are those of the speakers."""
        path = self._checked(recording)
        folder = self._new_folder()
        files = [folder / f"speaker{number}.wav" for number in range(1, self.separator.speakers + 1)]
        with self._alone["separator"]:
            result = self.separator.separate_recording(path, files)
        titles = ["recording", *(f"speaker {number}" for number in range(1, len(files) + 1))]
        return Made(files, self._draw(folder, titles, [path, *files], self.separator.sample_rate), result.notices)

    def transcribe(self, recording: str | Path | None) -> Iterator[str]:
        """The text of a recording as it grows while the recording is heard piece by piece; at once if the recognizer
        needs all of it. The last text is the whole one."""
        path = self._checked(recording)
        if self._streaming is None:
            with self._alone["recognizer"]:
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
        return Listening(self._streaming, self._alone["recognizer"])

    def speak(self, text: str, prompt: str | Path | None, prompt_text: str, seed: int | None = None) -> Made:
        """Say a text in the voice of a recording, whose words are given."""
        for value, name in ((text, "the text to say"), (prompt_text, "the words of the recording")):
            if not value.strip():
                raise ValueError(f"There is nothing in the field for {name}: write it first.")
        path = self._checked(prompt)
        from speechbrain_mamba.dataio.audio import write_audio

        with self._alone["synthesizer"]:
            spoken = self.synthesizer.synthesize(text, str(path), prompt_text, seed=seed)
        folder = self._new_folder()
        file = folder / "speech.wav"
        write_audio(file, spoken.wav, spoken.sample_rate)
        titles = ["voice", "speech"]
        return Made([file], self._draw(folder, titles, [path, file], spoken.sample_rate), list(spoken.notices))

    def _checked(self, recording: str | Path | None) -> Path:
        """A recording that is there and short enough."""
        from speechbrain_mamba.dataio.recordings import open_recording

        if recording is None:
            raise ValueError("There is no recording yet: choose a file, or record one.")
        seconds = 0.0
        with open_recording(recording) as reader:
            for block in reader.blocks(reader.sample_rate):  # all of it, as a header may be wrong
                seconds += block.shape[1] / reader.sample_rate
                if seconds > self.max_seconds:
                    raise ValueError(
                        f"The recording is longer than {self.max_seconds:g} s, which is the most that this page takes: "
                        "cut it, begin the page with another --max-seconds, or use the commands separate and "
                        "transcribe, which take any length."
                    )
        return Path(recording)

    def shorten(self, text: str) -> str:
        """A text with the names of files of this page, and not where the page keeps them."""
        return re.sub(re.escape(f"{self.folder}/") + r"(?:[^/'\s]+/)*", "", text)

    def _new_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self._folders.append(folder)
        while len(self._folders) > KEPT:
            shutil.rmtree(self._folders.popleft())
        return folder

    def _draw(self, folder: Path, titles: Sequence[str], files: Sequence[Path], sample_rate: int) -> Path:
        from speechbrain_mamba.dataio.recordings import read_recording

        signals = {title: read_recording(file, sample_rate).signal[0] for title, file in zip(titles, files)}
        picture = folder / "sounds.png"
        plot_sounds(picture, signals, sample_rate)
        return picture
