"""Trained recognizers: text of waveforms, and transcripts with times of recordings of any length."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechbrain_mamba.dataio.pauses import PauseCutter, Window, is_silent
from speechbrain_mamba.dataio.recordings import RecordingReader, Source, open_recording
from speechbrain_mamba.dataio.resampling import resample
from speechbrain_mamba.dataio.waveforms import as_float, check_finite, check_relative_lengths
from speechbrain_mamba.decoders.alignment import GreedySpans, TokenSpan, words_of_spans
from speechbrain_mamba.inference.hypotheses import CTCHypotheses, make_hypotheses
from speechbrain_mamba.inference.log_prob_stream import LogProbStream
from speechbrain_mamba.inference.pretrained import Pretrained
from speechbrain_mamba.ops import absolute_lengths
from speechbrain_mamba.text.tokenizer import spell
from speechbrain_mamba.text.transcripts import Transcript, Word
from speechbrain_mamba.text.word_joins import join_words

logger = logging.getLogger(__name__)

Progress = Callable[[float, "float | None"], None]
"""Called with the seconds that are done, and those of the whole recording if it says its length."""

_BLOCK_SECONDS = 5.0
_QUEUED_BATCHES = 4  # batches whose windows are sorted by length


class Recognizer(Pretrained):
    """A trained recognizer, with CTC or with a decoder.

    ``from_hparams`` takes the arguments below beside those of
    :class:`~speechbrain_mamba.inference.pretrained.Pretrained`.

    Arguments
    ---------
    search : str, optional
        ``greedy``, the default with CTC, or ``beam``, the only one with a decoder.
    beam_size : int, optional
        Beams of the search; by default those of the recipe's test.
    lm : str or Path, optional
        A language model that helps the search of beams: with a decoder a folder, or the Hub id, that holds the
        ``lm.ckpt`` of one with the same tokens; with CTC an n-gram model of KenLM, an ``.arpa`` or ``.bin`` file.
    lm_weight : float, optional
        Its weight.
    cuda_graphs : bool
        Whether, on a GPU, the encoder is captured as a CUDA graph for each shape of a batch: one launch instead of
        hundreds. Windows are padded to whole half seconds so that shapes come again; streams run without.

    Example
    -------
    After ``recipes/asr/train.py hparams/asr/mini_conmamba_ctc.yaml``::

        recognizer = Recognizer.from_hparams("results/asr/mini_conmamba_ctc/7775/inference")
        recognizer.transcribe_file("speech.wav")
        transcript = recognizer.transcribe("an_hour.m4a")
        for segment in transcript.segments:
            print(f"{segment.start:7.2f} s  {segment.text}")
        Path("an_hour.srt").write_text(transcript.to_srt())
    """

    HPARAMS_NEEDED: ClassVar[list[str]] = ["tokenizer", "sample_rate", "blank_index"]
    MODULES_NEEDED: ClassVar[list[str]] = ["encoder"]

    def __init__(
        self,
        *arguments: Any,
        search: str | None = None,
        beam_size: int | None = None,
        lm: str | os.PathLike | None = None,
        lm_weight: float | None = None,
        cuda_graphs: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        if not hasattr(self.mods.encoder, "encode"):
            raise ValueError(
                f"The recognizer's encoder is a {type(self.mods.encoder).__name__}, but must be one of this package's: "
                "load other recognizers with speechbrain.inference.ASR."
            )
        self.tokenizer = self.hparams.tokenizer
        self.hypotheses = make_hypotheses(
            self.mods, self.hparams, search=search, beam_size=beam_size, lm=lm, lm_weight=lm_weight
        )
        self.hypotheses.use_cuda_graphs(cuda_graphs)

    # ------------------------------------------------------------ facts

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms that it takes."""
        return self.hparams.sample_rate

    @property
    def kind(self) -> str:
        """``ctc``, or ``s2s`` with a decoder."""
        return "s2s" if "decoder" in self.mods else "ctc"

    @property
    def streams(self) -> bool:
        """Whether it can run on a stream, in constant memory."""
        return "fea_streaming_extractor" in self.mods

    @property
    def min_samples(self) -> int:
        """The fewest samples that it takes."""
        encoder: Any = self.mods.encoder
        return max(1, (encoder.CNN.min_frames - 1) * self._hop)

    @property
    def seconds_per_frame(self) -> float:
        """Time from one frame of the encoder to the next."""
        encoder: Any = self.mods.encoder
        return self._hop * encoder.CNN.stride / self.sample_rate

    @property
    def _hop(self) -> int:
        encoder: Any = self.mods.encoder
        return encoder.compute_features.compute_STFT.hop_length

    # ------------------------------------------------------------ waveforms

    def transcribe_batch(self, wavs: Any, wav_lens: Any = None, *, batch_size: int = 8) -> tuple[list[str], list[Any]]:
        """Transcribe waveforms at the recognizer's sample rate.

        Arguments
        ---------
        wavs : Tensor, or list of Tensor
            Waveforms (batch, samples), or one (samples,); floats of any precision, or int16 or int32, which are divided
            by their full scale. Or a list of waveforms (samples,) of any lengths.
        wav_lens : Tensor or sequence of float, optional
            Lengths relative to the longest waveform, (batch,) in [0, 1]; not for a list.
        batch_size : int
            Waveforms that are encoded at once, by similar length.

        Returns
        -------
        texts : list of str
            The text of each waveform, as when it is transcribed alone; empty for silence.
        tokens : list of list of int
            Its tokens.

        Raises
        ------
        ValueError, TypeError
            When a waveform has other axes or types, holds NaN or is too short, and when lengths are not from 0 to 1.
        """
        found = self._hear(self._check_waveforms(wavs, wav_lens), batch_size)
        tokens = [[span.token for span in spans] for spans in found]
        return [" ".join(spell(self.tokenizer, each).split()) for each in tokens], tokens

    def forward(self, wavs: Any, wav_lens: Any = None) -> tuple[list[str], list[Any]]:
        """Transcribe waveforms: :meth:`transcribe_batch`."""
        return self.transcribe_batch(wavs, wav_lens)

    def _check_waveforms(self, wavs: Any, wav_lens: Any) -> list[Tensor]:
        """Bring waveforms of any accepted form to a list of floats (samples,)."""
        if isinstance(wavs, (list, tuple)) and not (wavs and all(isinstance(value, (int, float)) for value in wavs)):
            if wav_lens is not None:
                raise ValueError("wav_lens is for a padded batch: the waveforms of a list have their own lengths.")
            waves = [as_float(wav, f"Waveform {i}") for i, wav in enumerate(wavs)]
            for i, wave in enumerate(waves):
                if wave.dim() != 1:
                    raise ValueError(f"Waveform {i} of the list has shape {tuple(wave.shape)}, but must be (samples,).")
        else:
            batch = as_float(wavs, "The waveform")
            batch = batch[None] if batch.dim() == 1 else batch
            if batch.dim() != 2:
                raise ValueError(
                    f"The waveform has shape {tuple(batch.shape)}, but must be (batch, samples), or (samples,), at "
                    f"{self.sample_rate} Hz: mix channels down first."
                )
            counts = [batch.shape[1]] * len(batch)
            if wav_lens is not None:
                lens = check_relative_lengths(wav_lens, len(batch), "wav_lens")
                counts = absolute_lengths(lens, batch.shape[1]).tolist()
            waves = [wave[:count] for wave, count in zip(batch, counts)]
        for i, wave in enumerate(waves):
            check_finite(wave, f"Waveform {i}")
            self._check_length(len(wave), f"Waveform {i}")
        return waves

    def _check_length(self, samples: int, name: str) -> None:
        if samples < self.min_samples:
            raise ValueError(
                f"{name} is too short: it has {samples} samples, but the recognizer needs at least {self.min_samples} "
                f"at {self.sample_rate} Hz, {self.min_samples / self.sample_rate:.2g} s."
            )

    @torch.no_grad()
    def _hear(self, waves: Sequence[Tensor], batch_size: int) -> list[list[TokenSpan]]:
        """Find the tokens of waveforms (samples,), in batches of similar length, in their order."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be at least 1.")
        found: list[list[TokenSpan]] = [[] for _ in waves]
        loud = [i for i, wave in enumerate(waves) if not is_silent(wave, self.sample_rate)]
        loud.sort(key=lambda i: len(waves[i]))
        if not self.hypotheses.is_padding_safe:
            batch_size = 1
        for batch in (loud[i : i + batch_size] for i in range(0, len(loud), batch_size)):
            wavs = pad_sequence([waves[i] for i in batch], batch_first=True).to(self.device)
            lens = torch.tensor([len(waves[i]) / wavs.shape[1] for i in batch], device=self.device)
            with self.inference_ctx:
                spans = self.hypotheses(wavs, lens)
            for i, each in zip(batch, spans):
                found[i] = each
        return found

    # ------------------------------------------------------------ recordings

    def transcribe_file(self, path: Source, **options: Any) -> str:
        """Transcribe a recording, and return its text; options as in :meth:`transcribe`."""
        return self.transcribe(path, **options).text

    def transcribe(
        self,
        source: Source | Tensor,
        sample_rate: int | None = None,
        *,
        channels: str = "mix",
        max_seconds: float | None = 20.0,
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Any:
        """Transcribe a recording of any length, in memory that does not depend on it.

        A recognizer of streams keeps its state, and hears all at once. Another one hears windows that end at pauses;
        without a pause, windows overlap, and their words are joined so that each stands once.

        Arguments
        ---------
        source : str, Path, binary stream or Tensor
            A file of any rate and number of channels, ``-`` for standard input, an open stream, or samples (samples,)
            or (channels, samples) of any type that :meth:`transcribe_batch` takes.
        sample_rate : int, optional
            The rate of samples in Hz, by default that of the recognizer; files say their own.
        channels : str
            ``mix`` transcribes the average of all channels, ``each`` each one.
        max_seconds : float, optional
            The longest window; None hears the whole recording at once.
        batch_size : int
            Windows that are encoded at once.
        progress : callable, optional
            Called with the seconds that are done, and those of the whole recording, None if it does not say.

        Returns
        -------
        Transcript, or list of Transcript
            What is said and when; with ``channels="each"`` one for each channel. Silence gives no words.

        Raises
        ------
        UnreadableAudioError, FileNotFoundError, ValueError, TypeError
            When the recording is missing, damaged, too short, or holds NaN.
        """
        queue = _WindowQueue(self, batch_size)
        with self._open(source, sample_rate, channels) as reader:
            heard = [self._listen(queue, max_seconds) for _ in range(reader.channels)]
            total = None if reader.samples is None else reader.samples / self.sample_rate
            done = self._feed(heard, reader, progress, total)
        queue.flush()
        if progress is not None and heard:
            progress(done, done)
        transcripts = [Transcript.from_words(channel.words(done), done) for channel in heard]
        return transcripts if channels == "each" else transcripts[0]

    def transcribe_many(
        self, sources: Iterable[Source | Tensor], *, max_seconds: float | None = 20.0, batch_size: int = 8
    ) -> list[Transcript]:
        """Transcribe several recordings; the windows of all share batches, sorted by length.

        Arguments, transcripts and errors are as in :meth:`transcribe`; the transcripts are in the order of the sources.
        """
        if isinstance(sources, (str, os.PathLike, Tensor)):
            raise TypeError("sources is a single recording, but must be a list of them: transcribe takes one.")
        queue, transcripts = _WindowQueue(self, batch_size), []
        for source in sources:
            with self._open(source, None, "mix") as reader:
                channel = self._listen(queue, max_seconds)
                transcripts.append((channel, self._feed([channel], reader, None, None)))
        queue.flush()
        return [Transcript.from_words(channel.words(seconds), seconds) for channel, seconds in transcripts]

    def _open(
        self, source: Source | Tensor, sample_rate: int | None, channels: str
    ) -> AbstractContextManager[RecordingReader | _Samples]:
        if isinstance(source, Tensor) or hasattr(source, "__array__"):
            return _Samples(source, self.sample_rate if sample_rate is None else sample_rate, self, channels)
        if sample_rate is not None:
            raise ValueError("sample_rate is for samples: files say their own.")
        return open_recording(source, self.sample_rate, channels, min_seconds=self.min_samples / self.sample_rate)

    def _listen(self, queue: _WindowQueue, max_seconds: float | None) -> _Channel:
        if self.streams and isinstance(self.hypotheses, CTCHypotheses):
            return _StreamedChannel(self, self.hypotheses)
        return _WindowedChannel(self, queue, PauseCutter(self.sample_rate, max_seconds))

    def _feed(self, heard: Sequence[_Channel], reader: Any, progress: Progress | None, total: float | None) -> float:
        """Give all blocks of a recording to those who hear its channels; returns its seconds."""
        samples = 0
        for block in reader.blocks(round(_BLOCK_SECONDS * self.sample_rate)):
            for channel, signal in zip(heard, block):
                channel.push(signal)
            samples += block.shape[1]
            if progress is not None:
                progress(samples / self.sample_rate, total)
        for channel in heard:
            channel.finish()
        for notice in reader.notices:
            logger.warning(notice)
        return samples / self.sample_rate


class _Samples:
    """Samples in memory, read as :class:`~speechbrain_mamba.dataio.recordings.RecordingReader` reads files."""

    notices: ClassVar[list[str]] = []

    def __init__(self, samples: Any, sample_rate: int, recognizer: Recognizer, channels: str) -> None:
        if channels not in ("mix", "each"):
            raise ValueError(f"channels is {channels!r}, but must be mix or each.")
        signal = as_float(samples, "The recording")
        signal = signal[None] if signal.dim() == 1 else signal
        if signal.dim() != 2 or not len(signal):
            raise ValueError(
                f"The recording has shape {tuple(signal.shape)}, but must be (samples,) or (channels, samples)."
            )
        check_finite(signal, "The recording")
        if channels == "mix":
            signal = signal.mean(0, keepdim=True)
        self._signal = resample(signal, sample_rate, recognizer.sample_rate)
        self.channels, self.samples = self._signal.shape
        recognizer._check_length(self.samples, "The recording")

    def blocks(self, samples: int) -> Iterator[Tensor]:
        return iter(self._signal.split(samples, 1))

    def __enter__(self) -> _Samples:
        return self

    def __exit__(self, *_: object) -> None: ...


class _WindowQueue:
    """Windows of any recordings that wait for a batch."""

    def __init__(self, recognizer: Recognizer, batch_size: int) -> None:
        self.recognizer, self.batch_size = recognizer, batch_size
        self.waiting: list[tuple[_WindowedChannel, Window]] = []

    def add(self, channel: _WindowedChannel, window: Window) -> None:
        self.waiting.append((channel, window))
        if len(self.waiting) >= _QUEUED_BATCHES * self.batch_size:
            self.flush()

    def flush(self) -> None:
        heard = self.recognizer._hear([window.signal for _, window in self.waiting], self.batch_size)
        for (channel, window), spans in zip(self.waiting, heard):
            channel.take(window, spans)
        self.waiting = []


class _Channel:
    """What is heard in a channel of a recording."""

    def push(self, signal: Tensor) -> None:
        """Take the next samples (samples,)."""
        raise NotImplementedError

    def finish(self) -> None:
        """End the channel."""
        raise NotImplementedError

    def words(self, duration: float) -> list[Word]:
        """All words of a recording of some seconds."""
        raise NotImplementedError


class _WindowedChannel(_Channel):
    """A channel that is heard in windows."""

    def __init__(self, recognizer: Recognizer, queue: _WindowQueue, cutter: PauseCutter) -> None:
        self.recognizer, self.queue, self.cutter = recognizer, queue, cutter
        self.heard: list[tuple[int, int, int, list[TokenSpan]]] = []  # start, end, overlap and tokens of each window

    def push(self, signal: Tensor) -> None:
        for window in self.cutter.push(signal):
            self.queue.add(self, window)

    def finish(self) -> None:
        for window in self.cutter.finish():
            self.queue.add(self, window)

    def take(self, window: Window, spans: list[TokenSpan]) -> None:
        """Take what was heard in a window."""
        self.heard.append((window.start, window.end, window.overlap, spans))

    def words(self, duration: float) -> list[Word]:
        recognizer, rate = self.recognizer, self.recognizer.sample_rate
        words: list[Word] = []
        for start, end, overlap, spans in sorted(self.heard, key=lambda window: window[0]):
            later = words_of_spans(
                recognizer.tokenizer, spans, recognizer.seconds_per_frame, start / rate, min(end / rate, duration)
            )
            words = join_words(words, later, start / rate, (start + overlap) / rate) if overlap else [*words, *later]
        return words


class _StreamedChannel(_Channel):
    """A channel that a recognizer of streams hears."""

    longest = 1000
    """Frames that a beam search sees at once: it is cut between them at a blank, or between two tokens."""

    def __init__(self, recognizer: Recognizer, hypotheses: CTCHypotheses) -> None:
        self.recognizer, self.hypotheses = recognizer, hypotheses
        self.stream = LogProbStream(recognizer.mods, recognizer.hparams.chunk_config)
        self.is_greedy = self.hypotheses.beams is None
        self.path = GreedySpans(self.hypotheses.blank)
        self.pending, self.done, self.spans, self.silent = torch.zeros(0), 0, list[TokenSpan](), True

    def push(self, signal: Tensor) -> None:
        self.silent = self.silent and is_silent(signal, self.recognizer.sample_rate)
        with self.recognizer.inference_ctx:
            log_probs = self.stream.push(signal[None].to(self.recognizer.device))[0]
        self._take(log_probs.cpu())

    def finish(self) -> None:
        with self.recognizer.inference_ctx:
            log_probs = self.stream.finish()[0]
        self._take(log_probs.cpu())
        if not self.is_greedy and len(self.pending):
            self._search(len(self.pending))

    def _take(self, log_probs: Tensor) -> None:
        if self.is_greedy:
            self.path.push(log_probs)
            return
        self.pending = torch.cat([self.pending, log_probs]) if len(self.pending) else log_probs
        while len(self.pending) > self.longest:
            self._search(find_blank(self.pending[: self.longest], self.hypotheses.blank))

    def _search(self, frames: int) -> None:
        for span in self.hypotheses.spans(self.pending[:frames]):
            self.spans.append(TokenSpan(span.token, span.start + self.done, span.end + self.done, span.log_prob))
        self.pending, self.done = self.pending[frames:], self.done + frames

    def words(self, duration: float) -> list[Word]:
        spans = [] if self.silent else self.path.spans if self.is_greedy else self.spans
        return words_of_spans(self.recognizer.tokenizer, spans, self.recognizer.seconds_per_frame, 0.0, duration)


def find_blank(log_probs: Tensor, blank: int) -> int:
    """Find where a search in log-probabilities (frames, tokens) can be cut without a loss: in the middle of the longest
    run of blanks in the last two thirds. Without a blank there it is before the last frame whose token is another one.
    """
    best = log_probs.argmax(-1).tolist()
    first, runs = len(best) // 3, []
    for is_blank, group in itertools.groupby(range(first, len(best)), key=lambda frame: best[frame] == blank):
        if is_blank:
            run = list(group)
            runs.append((len(run), run[len(run) // 2]))
    if runs:
        return max(runs)[1]
    changes = [frame for frame in range(first, len(best)) if best[frame] != best[frame - 1]]
    return changes[-1] if changes else len(best)
